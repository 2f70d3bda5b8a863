"""The papers' own numbers, each with its place and how surely it could be read.

The values are package data, made by docs/make_published.py. A figure's label whose curve and
iteration count are certain is exact; one placed by its order is inferred; one whose place stays
open is kept for the record and never drawn.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Certainty = Literal["exact", "inferred", "open"]

PROTOCOL = "paper"
"""Name of the evaluation protocol behind the curves."""
DATA = {"name": "imagenet", "split": "test", "image_size": 224}
"""The images behind the curves: validation images, by the paper's crop."""
EPSILON = 16 / 255
"""Radius of the attack behind the curves (Xie et al. 2019, Sec. 6.1)."""
STEP_SIZE = 1 / 255
"""Its step, where that is at least the radius over the number of steps."""


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """One printed number."""

    paper: str
    """Key of `papers`."""
    ref: str
    """Table, figure or section."""
    row: str
    """As printed."""
    column: str
    """As printed."""
    metric: str
    """accuracy, error_rate, attack_success_rate, ..."""
    value: float | None
    """In `unit`; missing where the paper prints NaN."""
    unit: str
    confidence: str
    """How surely value and place could be read, in the transcription's words."""
    model: str | None = None
    """One name for a network that its places call differently."""
    attack_iterations: int | None = None
    dataset: str | None = None
    attack: str | None = None
    norm: str | None = None
    epsilon_255: float | None = None
    """Radius in 255ths of the pixel range."""
    note: str | None = None
    alternative: float | None = None
    """The other possible value of an ambiguous reading."""

    @property
    def certainty(self) -> Certainty:
        """Whether value and place are certain, inferred from an order, or open."""
        if self.confidence in ("exact", "stated in text"):
            return "exact"
        inferred = self.confidence.startswith(("order inferred", "x inferred"))
        return "inferred" if inferred else "open"

    @property
    def robust_accuracy(self) -> float | None:
        """The value as a fraction of images classified right, if that is what it says."""
        if self.value is None or self.unit != "%":
            return None
        if self.metric == "error_rate":
            return round(1 - self.value / 100, 6)
        return round(self.value / 100, 6) if self.metric == "accuracy" else None


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """Accuracy of a published network after so many attack iterations."""

    iterations: int
    robust_accuracy: float
    """A fraction."""
    exact: bool
    """Otherwise inferred from the order of a figure's labels."""
    ref: str


@dataclass(frozen=True, kw_only=True)
class PublishedCurve:
    """Accuracy against iterations of one published network, ascending."""

    model: str
    points: tuple[PublishedPoint, ...]


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """Every value that the package quotes, in the order of the papers."""
    return tuple(PublishedValue(**{"value": None, **entry}) for entry in _content()["entries"])


def papers() -> dict[str, str]:
    """What the keys of papers stand for."""
    return dict(_content()["papers"])


def published_curves() -> tuple[PublishedCurve, ...]:
    """Accuracy under targeted PGD, uniform wrong class, linf, 16/255 (Xie et al. 2019, Sec. 6.1).

    Figures 6 and 7, Table 1 and the model zoo together, on the ImageNet validation set. Where
    several give one point, an exact reading wins; open readings are left out.
    """
    points: dict[str, dict[int, PublishedPoint]] = {}
    for value in _white_box(published_values()):
        point = _point(value)
        if point is None or value.model is None:
            continue
        of_model = points.setdefault(value.model, {})
        there = of_model.get(point.iterations)
        if there is None or (point.exact and not there.exact):
            of_model[point.iterations] = point
    return tuple(
        PublishedCurve(model=model, points=tuple(found[k] for k in sorted(found)))
        for model, found in points.items()
    )


def follows_paper(identity: Mapping[str, Any]) -> bool:
    """Whether a white-box entry asks the question that `published_curves` answer.

    It does if it ran under the protocol named `paper`, with that protocol's goal, targets, ball and
    steps, dropped no images, and attacked ImageNet's validation images.
    """
    attack, data = identity["attack"], identity.get("data", {})
    return (
        identity.get("protocol") == PROTOCOL
        and not identity.get("worst_case", False)
        and identity.get("reach_edge") is True
        and attack.get("targeted") is True
        and attack.get("target_choice", "uniform") == "uniform"
        and attack.get("norm") == "linf"
        and abs(attack.get("epsilon", 0.0) - EPSILON) < 1e-9
        and abs(attack.get("step_size", 0.0) - STEP_SIZE) < 1e-9
        and all(data.get(field) == value for field, value in DATA.items())
    )


def _white_box(values: Iterable[PublishedValue]) -> Iterable[PublishedValue]:
    return (v for v in values if v.norm == "linf" and v.epsilon_255 == round(EPSILON * 255))


def _point(value: PublishedValue) -> PublishedPoint | None:
    accuracy, iterations = value.robust_accuracy, value.attack_iterations
    if value.certainty == "open" or accuracy is None or iterations is None:
        return None
    return PublishedPoint(
        iterations=iterations,
        robust_accuracy=accuracy,
        exact=value.certainty == "exact",
        ref=f"{value.paper} {value.ref}",
    )


@cache
def _content() -> dict[str, Any]:
    text = files("featdenoise.base").joinpath("published.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
