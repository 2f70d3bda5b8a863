"""Figures of a report, each a plain `Figure` that no global state of matplotlib knows of.

Models get their colours (Okabe and Ito's palette, distinct for colour-blind readers) and markers in
order of first appearance, so figures that list the same models in the same order agree. The legend
stands below the axes and never covers data.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
    PercentFormatter,
)

from featdenoise.base.binomial import Proportion
from featdenoise.base.published import PublishedCurve
from featdenoise.base.summary import Certification, Training
from featdenoise.base.units import format_pixels
from featdenoise.base.whitebox_summary import (
    RestartCurve,
    Spread,
    Whitebox,
    group_attacks,
    group_seeds,
)
from featdenoise.report.html import DOTS_PER_INCH, Picture

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*"
_DASHES = ("-", "--", "-.", ":")
_TRAINING_DASHES: dict[str, Literal["-", "--"]] = {
    "adversarial_accuracy": "-",
    "clean_accuracy": "--",
}
_PANEL = (5.1, 4.1)
"""Width and height of one pair of axes, in inches."""
_PUBLISHED = "#6f7782"
_PUBLISHED_MARKERS = "hdXp<>8"
_WRONG = "#B3261E"
_INK = "#1d2430"
_SHADE = 0.14
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a93a0",
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7ec",
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": "#4a5462",
    "ytick.color": "#4a5462",
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "featdenoise",
}


def accuracy_against_iterations(
    runs: Sequence[Whitebox], published: Sequence[PublishedCurve] = ()
) -> Figure:
    """Robust accuracy over the number of attack iterations (Xie et al. 2019, Fig. 6 and 7).

    One panel an attack, one curve a model. Around it the 95% interval is shaded; of runs that
    differ only in their seed the curve is the mean, and their range is shaded. Hollow markers at
    the left are clean accuracy. `published` curves are drawn in grey beside runs that they match:
    solid markers are exact readings, hollow ones inferred.
    """
    groups = group_attacks(runs)
    styles = _styles([run.model for run in runs])
    with matplotlib.rc_context(_STYLE):
        beside = bool(published) and any(run.has_published_match for run in runs)
        figure, panels = _panels(len(groups), size=(7.6, 6.2) if beside else _PANEL)
        for axes, (title, members) in zip(panels, groups.items(), strict=True):
            budgets = sorted({budget for run in members for budget in run.budgets})
            clean_at = budgets[0] / 2
            for seeds in group_seeds(members):
                _draw_sweep(axes, seeds, clean_at, styles[seeds[0].model])
            if any(run.has_published_match for run in members):
                _draw_published(axes, published, budgets)
            _iteration_axis(axes, clean_at, budgets)
            _accuracy_axis(axes)
            axes.set_title(title[0].upper() + title[1:])
        if beside:  # the published curves lie close together
            _zoom(panels)
        _label_left(panels, "robust accuracy (%)")
        _legend_below(figure, panels)
    return figure


def accuracy_against_restarts(curves: Sequence[RestartCurve]) -> Figure:
    """What more restarts find: right when clean and in all of the first r restarts.

    One panel an attack, one curve a model, 95% intervals shaded.
    """
    attacks = list(dict.fromkeys(curve.attack for curve in curves))
    styles = _styles([curve.model for curve in curves])
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(len(attacks))
        for axes, attack in zip(panels, attacks, strict=True):
            for curve in (curve for curve in curves if curve.attack == attack):
                restarts = range(1, len(curve.survivors) + 1)
                fractions = [share.fraction for share in curve.survivors]
                style = styles[curve.model]
                axes.plot(restarts, fractions, label=_label([curve]), **style)
                _shade(axes, restarts, curve.survivors, style["color"])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_xlabel("restarts")
            _accuracy_axis(axes)
            axes.set_title(attack[0].upper() + attack[1:])
        _zoom(panels)
        _label_left(panels, "never broken (%)")
        _legend_below(figure, panels)
    return figure


def certified_accuracy_against_radius(runs: Sequence[Certification]) -> Figure:
    """Certified accuracy over the l2 radius (Cohen et al. 2019, Fig. 6): exact steps, a model each.

    The 95% intervals of the share of images are shaded; noises differ in their dashes.
    """
    styles = _styles([run.model for run in runs])
    noises = list(dict.fromkeys(run.noise for run in runs))
    of_noise = f", {noises[0]}" if len(noises) == 1 else ""
    with matplotlib.rc_context(_STYLE):
        figure = _figure(width=7.2, height=4.7)
        axes = figure.subplots()
        for run in runs:
            radii = [0.0, *run.radii]
            shares = [run.certified_accuracy(radius) for radius in radii]
            radii, shares = [*radii, radii[-1]], [*shares, Proportion(0, run.abstained.count)]
            colour = styles[run.model]["color"]
            # An image is certified at its own radius still: the step falls just after it.
            axes.plot(
                radii,
                [share.fraction for share in shares],
                drawstyle="steps-pre",
                color=colour,
                linestyle=_DASHES[noises.index(run.noise) % len(_DASHES)],
                label=run.model if len(noises) == 1 else f"{run.model}, {run.noise}",
            )
            _shade(axes, radii, shares, colour, step="pre")
        _accuracy_axis(axes)
        axes.set_xlim(left=0)
        axes.set_xlabel("l2 radius (pixel units)")
        axes.set_ylabel("certified accuracy (%)")
        axes.set_title(f"Certified accuracy{of_noise}")
        _legend_below(figure, [axes])
    return figure


def training_curves(runs: Sequence[Training]) -> Figure:
    """Loss and training accuracy over steps; adversarial accuracy solid, clean dashed."""
    styles = _styles([run.model for run in runs])
    with matplotlib.rc_context(_STYLE):
        figure = _figure(width=10.7, height=4.5)
        loss_axes, accuracy_axes = figure.subplots(1, 2)
        for run in runs:
            colour = styles[run.model]["color"]
            loss_axes.plot(*run.points("loss"), color=colour, label=run.model, lw=1.5)
            for name, dashes in _TRAINING_DASHES.items():
                accuracy_axes.plot(*run.points(name), dashes, color=colour, lw=1.5)
        loss_axes.set_ylim(bottom=0)
        loss_axes.set_ylabel("loss")
        loss_axes.set_title("Training loss")
        _accuracy_axis(accuracy_axes)
        accuracy_axes.set_ylabel("accuracy (%)")
        accuracy_axes.set_title("Training accuracy")
        for axes in (loss_axes, accuracy_axes):
            axes.set_xlim(left=0)
            axes.set_xlabel("step")
        keys = [
            Line2D([], [], color="#6a7482", linestyle=dashes, label=name.replace("_", " "))
            for name, dashes in _TRAINING_DASHES.items()
        ]
        _legend_below(figure, [loss_axes], keys)
    return figure


def picture_strip(
    clean: np.ndarray,
    adversarial: np.ndarray,
    *,
    labels: Sequence[str | int],
    clean_predictions: Sequence[str | int],
    adversarial_predictions: Sequence[str | int],
    epsilon: float,
) -> Figure:
    """Clean images, adversarial images and their difference, amplified to the full range.

    Args:
        clean: (N, H, W, 3), in [0, 1].
        adversarial: (N, H, W, 3), in [0, 1].
        labels: N class names or numbers.
        clean_predictions: the model's answers on the clean images.
        adversarial_predictions: its answers on the adversarial images.
        epsilon: the attack's radius in pixel units; a change of epsilon becomes black or white.

    Raises:
        ValueError: the pictures are not two equal (N, H, W, 3) arrays in [0, 1], or the lists
            have another length.
    """
    _check_pictures(clean, adversarial)
    lists = (labels, clean_predictions, adversarial_predictions)
    if any(len(names) != len(clean) for names in lists):
        raise ValueError(f"labels and predictions must each name the {len(clean)} pictures")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be > 0, got {epsilon}")
    difference = np.clip(0.5 + (adversarial - clean) / (2 * epsilon), 0, 1)
    side_names = (
        "clean",
        f"adversarial\n(epsilon {format_pixels(epsilon)})",
        f"difference\n(times {1 / (2 * epsilon):.3g})",
    )
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = _figure(width=1.25 * len(clean) + 1.2, height=4.5)
        panels = figure.subplots(3, len(clean), squeeze=False)
        for row, pictures in enumerate((clean, adversarial, difference)):
            for axes, picture in zip(panels[row], pictures, strict=True):
                axes.imshow(picture, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            panels[row][0].set_ylabel(
                side_names[row], rotation=0, ha="right", va="center", labelpad=10
            )
        for row, predictions in enumerate((clean_predictions, adversarial_predictions)):
            for axes, label, prediction in zip(panels[row], labels, predictions, strict=True):
                _title_prediction(axes, label, prediction)
    return figure


def png_bytes(figure: Figure, *, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    """The figure as PNG, equal bytes for equal figures."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(
        buffer, format="png", dpi=dots_per_inch, metadata={"Software": None}, facecolor="white"
    )
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG, equal bytes for equal figures."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    return buffer.getvalue()


def picture(figure: Figure, *, name: str, caption: str) -> Picture:
    """The figure with its name and caption, for a section of a report."""
    return Picture(name=name, caption=caption, png=png_bytes(figure), svg=svg_bytes(figure))


def _figure(*, width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each model, in order of first appearance."""
    return {
        model: {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
        for k, model in enumerate(dict.fromkeys(models))
    }


def _panels(count: int, *, size: tuple[float, float] = _PANEL) -> tuple[Figure, list[Axes]]:
    """So many axes beside each other, at most three in a row."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = _figure(width=size[0] * columns + 0.5, height=0.4 + size[1] * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _zoom(panels: Sequence[Axes]) -> None:
    """Show only the accuracies that occur, the same in every panel, between multiples of 5%."""
    bottom = math.floor(20 * min(axes.dataLim.y0 for axes in panels) - 0.2) / 20
    top = math.ceil(20 * max(axes.dataLim.y1 for axes in panels) + 0.2) / 20
    step = 0.05 if top - bottom <= 0.5 else 0.1
    for axes in panels:
        axes.set_ylim(max(bottom, -0.02), min(top, 1.02))
        axes.yaxis.set_major_locator(MultipleLocator(step))


def _label_left(panels: Sequence[Axes], text: str) -> None:
    for axes in panels[::3]:
        axes.set_ylabel(text)


def _label(group: Sequence[Whitebox] | Sequence[RestartCurve]) -> str:
    notes = [f"{len(group)} seeds"] if len(group) > 1 else []
    notes += ["SUSPECT"] if any(run.suspect for run in group) else []
    return f"{group[0].model} ({', '.join(notes)})" if notes else group[0].model


def _draw_sweep(
    axes: Axes, seeds: Sequence[Whitebox], clean_at: float, style: dict[str, Any]
) -> None:
    budgets = seeds[0].budgets
    shares = [
        Spread(at_budget) for at_budget in zip(*(s.robust_accuracy for s in seeds), strict=True)
    ]
    means = [share.mean for share in shares]
    dashes = "-" if seeds[0].targeted else "--"
    every = -(-len(budgets) // 14)  # as many markers as stand apart, the largest budget's too
    marked = list(range(len(budgets) - 1, -1, -every))
    axes.plot(budgets, means, ls=dashes, label=_label(seeds), markevery=marked, **style)
    if len(seeds) == 1:
        _shade(axes, budgets, seeds[0].robust_accuracy, style["color"])
    else:
        lows, highs = [s.low for s in shares], [s.high for s in shares]
        axes.fill_between(budgets, lows, highs, color=style["color"], alpha=_SHADE * 2, lw=0)
    clean = Spread(tuple(run.clean_accuracy for run in seeds)).mean
    lead = [clean, means[0]]
    axes.plot([clean_at, budgets[0]], lead, color=style["color"], lw=0.9, linestyle=":")
    axes.plot(clean_at, clean, linestyle="none", mfc="white", mew=1.6, **style)


def _draw_published(axes: Axes, curves: Sequence[PublishedCurve], budgets: Sequence[int]) -> None:
    """In grey, within the iterations that the runs cover."""
    for k, curve in enumerate(curves):
        points = [p for p in curve.points if budgets[0] <= p.iterations <= budgets[-1]]
        if not points:
            continue
        style: dict[str, Any] = {
            "color": _PUBLISHED,
            "marker": _PUBLISHED_MARKERS[k % len(_PUBLISHED_MARKERS)],
            "ms": 5,
        }
        x = [point.iterations for point in points]
        y = [point.robust_accuracy for point in points]
        inferred = [place for place, point in enumerate(points) if not point.exact]
        axes.plot(x, y, lw=0.7, zorder=1.5, label=f"published: {curve.model}", **style)
        axes.plot(
            [x[place] for place in inferred],
            [y[place] for place in inferred],
            linestyle="none",
            mfc="white",
            zorder=1.6,
            **style,
        )


def _shade(
    axes: Axes, x: Sequence[float], shares: Sequence[Proportion], colour: str, step: Any = None
) -> None:
    bounds = [share.interval() for share in shares]
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    axes.fill_between(x, lows, highs, color=colour, alpha=_SHADE, lw=0, step=step)


def _iteration_axis(axes: Axes, clean_at: float, budgets: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(clean_at / 1.25, budgets[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator([clean_at, *_legible(budgets)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: "clean" if x < budgets[0] else f"{x:g}")
    )
    axes.set_xlabel("attack iterations (log scale)")


def _legible(budgets: Sequence[int]) -> list[int]:
    """The budgets, from the largest down, whose labels do not run into each other."""
    apart = (2 * budgets[-1] / budgets[0]) ** 0.09
    kept = [budgets[-1]]
    for budget in reversed(budgets):
        if kept[-1] / budget >= apart:
            kept.append(budget)
    return kept[::-1]


def _accuracy_axis(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_locator(FixedLocator([k / 5 for k in range(6)]))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol="", decimals=0))


def _legend_below(figure: Figure, panels: Sequence[Axes], extra: Sequence[Line2D] = ()) -> None:
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    handles |= {str(line.get_label()): line for line in extra}
    # A row holds about twelve characters an inch.
    longest = max(len(label) for label in handles) + 6
    columns = max(1, min(len(handles), int(12 * figure.get_figwidth() / longest)))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


def _check_pictures(clean: np.ndarray, adversarial: np.ndarray) -> None:
    for name, pictures in (("clean", clean), ("adversarial", adversarial)):
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.shape != clean.shape:
            raise ValueError(
                f"{name} pictures must be (N, H, W, 3), alike for both, got {pictures.shape}"
            )
        if not len(pictures) or not (pictures.min() >= 0 and pictures.max() <= 1):
            raise ValueError(f"{name} pictures must be at least one and in [0, 1]")


def _title_prediction(axes: Axes, label: str | int, prediction: str | int) -> None:
    """Under each other in words, so that a reader without colours sees a wrong answer too."""
    right = label == prediction
    text = f"{label}" if right else f"{label}, read as {prediction}"
    axes.set_title(
        text,
        fontsize=9.5,
        loc="center",
        pad=4,
        color=_INK if right else _WRONG,
        fontweight="normal" if right else "bold",
    )
