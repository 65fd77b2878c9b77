"""The part of timm's model interface that follows from a stem, a row of stages and a head."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["StagedClassifier"]


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Absolute indices of the last n stages, of the stages listed (negative ones from the end), or of all.

    Raises:
        ValueError: A stage that does not exist.
    """
    if indices is None:
        indices = count
    wanted = range(-indices, 0) if isinstance(indices, int) else indices
    if not wanted or not all(-count <= i < count for i in wanted):
        raise ValueError(f"stages {list(wanted)} were asked for; the network has {count}, 0 to {count - 1}")
    return [i % count for i in wanted]


class StagedClassifier(nn.Module):
    """A stem, stages that each give one level of the feature pyramid, and a linear head.

    A subclass sets in `__init__`: `num_classes`, `num_features` (channels of the last stage), `head_hidden_size`
    (inputs of the head), `feature_info` (one entry a stage: `num_chs`, `reduction`, `module`), the stages as attributes
    under those module names, and the head as `fc`. It implements `forward_stem` and `pool`.
    """

    num_classes: int
    num_features: int
    head_hidden_size: int
    feature_info: list[dict[str, object]]
    grad_checkpointing = False

    def forward_stem(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to the input of the first stage."""
        raise AttributeError(f"{type(self).__name__} has no stem")

    def pool(self, x: Tensor) -> Tensor:
        """Last feature map to (B, head_hidden_size), what the linear head sees."""
        raise AttributeError(f"{type(self).__name__} has no pooling")

    def forward_norm(self, x: Tensor) -> Tensor:
        """Last feature map to what the head pools; a network whose paper has a norm between them applies it here."""
        return x

    def _stages(self) -> list[nn.Module]:
        return [self.get_submodule(str(info["module"])) for info in self.feature_info]

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training:
            from timm.models import checkpoint

            return checkpoint(stage, x)
        return stage(x)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.forward_stem(x)
        for stage in self._stages():
            x = self._run(stage, x)
        return self.forward_norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the stages, as timm gives them.

        Args:
            x: (B, C, H, W) image.
            indices: Last n stages, the stages listed, or all.
            norm: Apply the norm behind the stages, if there is one, to the last stage's map as well.
            stop_early: Do not compute stages behind the last one asked for.
            output_fmt: Only "NCHW".
            intermediates_only: Leave out the final features.

        Raises:
            ValueError: Another output format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; feature maps come as 'NCHW'")
        stages = self._stages()
        take = take_indices(len(stages), indices)
        maps = []
        x = self.forward_stem(x)
        for i, stage in enumerate(stages[: max(take) + 1] if stop_early else stages):
            x = self._run(stage, x)
            if i in take:
                maps.append(self.forward_norm(x) if norm and i == len(stages) - 1 else x)
        return maps if intermediates_only else (self.forward_norm(x), maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last one asked for, and the head; returns the absolute indices."""
        take = take_indices(len(self.feature_info), indices)
        for info in self.feature_info[max(take) + 1 :]:
            setattr(self, str(info["module"]), nn.Identity())
        if prune_head:
            self.reset_classifier(0)
        return take

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head of `num_classes` outputs; 0 returns pooled features."""
        if global_pool not in (None, "", "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; this head averages")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        return set()
