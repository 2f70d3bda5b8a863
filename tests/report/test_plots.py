import io
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from featdenoise.base.binomial import Proportion
from featdenoise.base.summary import Certification, Training, Whitebox
from featdenoise.report.plots import (
    accuracy_against_iterations,
    certified_accuracy_against_radius,
    picture_strip,
    png_bytes,
    svg_bytes,
    training_curves,
)


def sweep(model, targeted, robust):
    count = 40
    shares = tuple(Proportion(r, count) for r in robust)
    manner = "targeted" if targeted else "untargeted"
    return Whitebox(
        model=model,
        attack=f"{manner} PGD, linf, epsilon 16/255",
        targeted=targeted,
        budgets=(10, 20, 100),
        clean_accuracy=Proportion(38, count),
        robust_accuracy=shares,
        worst_case_accuracy=shares,
        attack_success_rate=shares,
    )


def certified(model, radii, count, noise="Gaussian, sigma 0.25"):
    return Certification(
        model=model,
        noise=noise,
        n0=10,
        n=100,
        alpha=0.001,
        radii=radii,
        abstained=Proportion(0, count),
    )


def labelled_lines(axes):
    return {
        line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")
    }


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_sweep_has_a_panel_an_attack_and_a_curve_a_model():
    runs = [
        sweep("plain", True, (20, 10, 4)),
        sweep("denoise", True, (30, 29, 28)),
        sweep("denoise", False, (25, 22, 21)),
    ]
    figure = accuracy_against_iterations(runs)
    targeted, untargeted = figure.axes
    assert targeted.get_title("left") == "Targeted PGD, linf, epsilon 16/255"
    assert list(labelled_lines(targeted)) == ["plain", "denoise"]
    curve = labelled_lines(targeted)["denoise"]
    assert list(curve.get_xdata()) == [10, 20, 100]
    assert list(curve.get_ydata()) == [30 / 40, 29 / 40, 28 / 40]
    assert curve.get_linestyle() == "-"
    other = labelled_lines(untargeted)["denoise"]
    assert other.get_linestyle() == "--"
    assert other.get_color() == curve.get_color()
    assert legend_texts(figure) == ["plain", "denoise"]


def test_sweep_shades_the_interval():
    run = sweep("net", True, (20, 10, 4))
    (shade,) = accuracy_against_iterations([run]).axes[0].collections
    heights = shade.get_paths()[0].vertices[:, 1]
    bounds = [bound for share in run.robust_accuracy for bound in share.interval()]
    assert heights.min() == pytest.approx(min(bounds))
    assert heights.max() == pytest.approx(max(bounds))


def test_many_budgets_keep_the_largest_labelled_and_drop_crowded_ones():
    budgets = (*range(10, 100, 10), *range(100, 1000, 100), 1000, 2000)
    shares = (Proportion(1, 2),) * len(budgets)
    run = replace(sweep("net", True, (1, 1, 1)), budgets=budgets, robust_accuracy=shares)
    ticks = accuracy_against_iterations([run]).axes[0].get_xticks()
    assert ticks[0] == 5  # clean
    assert ticks[-1] == 2000
    assert all(right / left > 1.5 for left, right in pairwise(ticks))


def test_certified_curve_equals_the_share_of_radii_at_least_r():
    radii, count = (0.1, 0.1, 0.3, 0.7), 5
    figure = certified_accuracy_against_radius([certified("net", radii, count)])
    line = labelled_lines(figure.axes[0])["net"]
    x, y = np.array(line.get_xdata()), np.array(line.get_ydata())
    assert line.get_drawstyle() == "steps-pre"
    for radius in (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
        drawn = y[np.searchsorted(x, radius)]
        assert drawn == sum(r >= radius for r in radii) / count
    assert y[-1] == 0
    assert "Gaussian, sigma 0.25" in figure.axes[0].get_title("left")


def test_certified_curves_of_two_noises_name_them():
    runs = [certified("net", (0.1,), 2), certified("net", (0.2,), 2, noise="Gaussian, sigma 0.5")]
    figure = certified_accuracy_against_radius(runs)
    assert legend_texts(figure) == ["net, Gaussian, sigma 0.25", "net, Gaussian, sigma 0.5"]


def test_training_curves_draw_the_log():
    log = tuple(
        {"step": k, "loss": 2.0 / k, "clean_accuracy": k / 10, "adversarial_accuracy": None}
        for k in range(1, 6)
    )
    figure = training_curves([Training(model="net", log=log)])
    loss, accuracy = figure.axes
    line = labelled_lines(loss)["net"]
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(line.get_ydata()) == [row["loss"] for row in log]
    adversarial, clean = accuracy.lines
    assert list(clean.get_ydata()) == [row["clean_accuracy"] for row in log]
    assert list(adversarial.get_ydata()) == []
    assert legend_texts(figure) == ["net", "adversarial accuracy", "clean accuracy"]


def strip(**changes):
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.2, 0.8, (3, 8, 8, 3))
    values = {
        "clean": clean,
        "adversarial": clean + 0.1 * rng.choice([-1, 0, 1], clean.shape),
        "labels": [1, 2, 3],
        "clean_predictions": [1, 2, 3],
        "adversarial_predictions": [1, 7, 3],
        "epsilon": 0.1,
    } | changes
    return picture_strip(values.pop("clean"), values.pop("adversarial"), **values), clean


def test_strip_shows_clean_adversarial_and_a_difference_of_full_range():
    figure, clean = strip()
    assert len(figure.axes) == 9
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert np.array_equal(shown[1], clean[1])
    assert set(np.unique(np.round(shown[6], 6))) == {0.0, 0.5, 1.0}
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[3:6] == ["1", "2, read as 7", "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": np.zeros((3, 3, 8, 8))}, r"\(N, H, W, 3\)"),
        ({"adversarial": np.full((3, 8, 8, 3), 1.5)}, r"adversarial.*in \[0, 1\]"),
        ({"labels": [1]}, "name the 3 pictures"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_strip_refuses_pictures_it_would_show_wrongly(changes, message):
    with pytest.raises(ValueError, match=message):
        strip(**changes)


def test_png_and_svg_are_equal_for_equal_figures():
    runs = [sweep("net", True, (20, 10, 4))]
    first, second = accuracy_against_iterations(runs), accuracy_against_iterations(runs)
    assert isinstance(first, Figure)
    assert png_bytes(first) == png_bytes(second)
    assert svg_bytes(first) == svg_bytes(second)
    assert svg_bytes(first).startswith(b"<?xml")
    image = np.asarray(Image.open(io.BytesIO(png_bytes(first))).convert("L"))
    assert image.shape[0] > 400
    assert image.min() < 100 < image.max()


def test_pyplot_is_never_imported():
    code = (
        "import sys, featdenoise.report.runs; from featdenoise.report import plots; "
        "plots.png_bytes(plots.training_curves([plots.Training(model='a', log=())])); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
