"""From builder arguments to a network: timm's builder, or its plain case without the seconds timm takes to import."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["build"]

Network = TypeVar("Network", bound=nn.Module)
Filter = Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]]

TIMMS_OWN = ("features_only", "out_indices", "feature_cls", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir")


def build(
    network: type[Network],
    variant: str,
    pretrained: bool,
    *,
    pretrained_filter_fn: Filter,
    feature_cfg: Mapping[str, Any],
    pretrained_cfg: Any = None,
    **kwargs: Any,
) -> Network:
    """The network, loaded where asked for.

    A network as its card describes it, with no weights or with all of a file's, is built here. Feature pyramids, a
    fresh head, other input channels and sources other than a file are timm's.

    Args:
        network: Its class.
        variant: Name of the architecture.
        pretrained: Load weights.
        pretrained_filter_fn: Makes the network's state of a file's.
        feature_cfg: How timm makes a feature pyramid of it.
        pretrained_cfg: Fields of `timm.models.PretrainedCfg`, or what else timm takes.
        **kwargs: For the class, and for timm.
    """
    kwargs = {key: value for key, value in kwargs.items() if value is not None or key not in TIMMS_OWN}
    if isinstance(pretrained_cfg, dict) and not any(key in kwargs for key in TIMMS_OWN):
        own = {"num_classes": pretrained_cfg["num_classes"], "in_chans": pretrained_cfg["input_size"][0]}
        as_stored = all(kwargs.get(key, value) == value for key, value in own.items())
        if not pretrained or (as_stored and str(pretrained_cfg.get("file", "")).endswith(".safetensors")):
            model = network(**{**own, **kwargs})
            vars(model).update(pretrained_cfg=pretrained_cfg, default_cfg=pretrained_cfg)  # timm's two names for it
            if pretrained:
                from safetensors.torch import load_file

                model.load_state_dict(pretrained_filter_fn(load_file(pretrained_cfg["file"]), model))
            return model

    from timm.models import build_model_with_cfg

    return build_model_with_cfg(
        network,
        variant,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_filter_fn=pretrained_filter_fn,
        feature_cfg=dict(feature_cfg),
        **kwargs,
    )
