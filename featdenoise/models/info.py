"""What weights say about themselves besides the architecture: classes, input, recipe, licence."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Resampling = Literal["center-crop", "center-crop-bicubic", "stretch-bilinear", "stretch-bicubic"]
"""How a picture of any size becomes an input; `data/resampling.py` has one function for each."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Everything that a weights folder tells people; None is what its writer did not know."""

    classes: tuple[str, ...] | None = None
    """Names of the classes, by index."""
    input_size: int | None = None
    """Height and width of the images that the model was trained on."""
    resampling: Resampling = "center-crop"
    """How a picture is brought to that size."""
    recipe: Mapping[str, Any] | None = None
    """The training recipe, as `describe` gives it."""
    data_fingerprint: str | None = None
    """Of the training images."""
    licence: str | None = None
    """Of the weights."""
    origin: str | None = None
    """Where the weights come from, if not from a training run."""
    clean_accuracy: Mapping[str, Any] | None = None
    """`correct` of `count` images that were measured, and which `data`."""
    published: Mapping[str, Any] | None = None
    """The authors' figures, which nobody verified here: `source`, then fractions by name."""

    def __post_init__(self) -> None:
        """Refuse values of the wrong kind, which a damaged file may hold."""
        if self.classes is not None and not all(isinstance(name, str) for name in self.classes):
            raise ValueError("classes must be names, by index")
        if self.input_size is not None and not (
            isinstance(self.input_size, int) and self.input_size >= 1
        ):
            raise ValueError(f"input_size must be a whole number >= 1, got {self.input_size!r}")
        if self.resampling not in get_args(Resampling):
            known = ", ".join(get_args(Resampling))
            raise ValueError(f"resampling must be one of {known}, got {self.resampling!r}")
        for name in ("data_fingerprint", "licence", "origin"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be text, got {value!r}")
        for name in ("recipe", "clean_accuracy", "published"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise ValueError(f"{name} must be an object, got {value!r}")
        if self.clean_accuracy is not None:
            _check_counts(self.clean_accuracy)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "ModelInfo":
        """The facts that a file or a caller gives by name.

        Raises:
            ValueError: a field unknown to this version, or of the wrong kind.
        """
        given = {name: value for name, value in description.items() if name != "kind"}
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(given.keys() - known)
        if unknown:
            raise ValueError(
                f"unknown fields {', '.join(unknown)}; this version knows "
                f"{', '.join(sorted(known))}"
            )
        if given.get("classes") is not None:
            given["classes"] = tuple(given["classes"])
        return cls(**given)


def _check_counts(clean_accuracy: Mapping[str, Any]) -> None:
    correct, count = clean_accuracy.get("correct"), clean_accuracy.get("count")
    whole = isinstance(correct, int) and isinstance(count, int)
    if not whole or not 0 <= correct <= count or count < 1:  # type: ignore[operator]
        raise ValueError(
            f"clean_accuracy must hold correct and count, whole numbers with correct <= count, "
            f"got {dict(clean_accuracy)}"
        )
