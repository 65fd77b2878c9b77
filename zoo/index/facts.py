"""What a gallery was made with: vectors of another network, or of other preprocessing, are not comparable."""

from typing import Any

import msgspec

from zoo.errors import UsageError

__all__ = ["Facts"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the vectors of a gallery come from, and their form.

    Attributes:
        task: What the vectors are for: "reid", "retrieve".
        model: Name of the checkpoint.
        weights: sha256 of its file.
        preprocessing: Digest of all that happens to an input before the network.
        dim: Numbers of a vector, D.
        per_item: Vectors of an item, K; the best of them counts.
        settings: What else a task wants to be the same for all items: the window of a clip, the mirror of a picture.
    """

    task: str
    model: str
    weights: str
    preprocessing: str
    dim: int
    per_item: int = 1
    settings: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.dim < 1 or self.per_item < 1:
            raise ValueError(f"{self.per_item} vectors of {self.dim} numbers an item; both start at 1")

    def require(self, wanted: "Facts", where: str) -> None:
        """Refuse to mix what these facts describe with what `wanted` describes.

        Args:
            wanted: Of the network at hand.
            where: What errors call the gallery.

        Raises:
            UsageError: They differ; the message says in what.
        """
        hint = f"search it with {self.model}, or index the pictures into another gallery"
        if (self.task, self.model) != (wanted.task, wanted.model):
            raise UsageError(
                f"{where} was made by {self.model} for {self.task}; this is {wanted.model} for {wanted.task}", hint=hint
            )
        if self.weights != wanted.weights:
            raise UsageError(
                f"{where} was made by other weights of {self.model}: {self.weights[:12]}, not {wanted.weights[:12]}",
                hint="give the checkpoint that made it, or index again",
            )
        if self.preprocessing != wanted.preprocessing:
            raise UsageError(
                f"{where} was made with other preprocessing: {self.preprocessing[:12]}, not "
                f"{wanted.preprocessing[:12]}",
                hint="use the version of zoo and the options that made it, or index again",
            )
        for name in ("dim", "per_item", "settings"):
            mine, theirs = getattr(self, name), getattr(wanted, name)
            if mine != theirs:
                raise UsageError(
                    f"{where} was made with {name} {mine}, not {theirs}", hint="index into another gallery"
                )
