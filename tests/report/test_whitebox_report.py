import json

import pytest

from featdenoise.base.binomial import Proportion
from featdenoise.base.published import published_curves
from featdenoise.base.results import make_header, to_line
from featdenoise.base.whitebox_summary import Whitebox
from featdenoise.report.plots import accuracy_against_iterations
from featdenoise.report.runs import report_runs
from featdenoise.report.whitebox_tables import whitebox_table

PGD = {
    "kind": "PGD",
    "epsilon": 16 / 255,
    "step_size": 1 / 255,
    "targeted": True,
    "norm": "linf",
}
SQUARE = {"kind": "Square", "epsilon": 16 / 255, "targeted": False, "norm": "linf"}


def write_entry(run, name, right, *, budgets=(10, 100), attack=PGD, model="net", **identity):
    """`right`: how many of 8 images are right at each budget; 7 are right when clean."""
    folder = run / name
    folder.mkdir(parents=True)
    columns = [str(budget) for budget in budgets] or ["final"]
    whole = {
        "kind": "whitebox",
        "model": {"name": model, "weights": "w"},
        "data": {"name": "imagenet", "split": "test", "image_size": 224},
        "entry": name,
        "protocol": "paper",
        "attack": attack,
        "budgets": list(budgets),
        "reach_edge": True,
        "restart": 0,
        "seed": 0,
    }
    header = make_header(whole | identity)
    header["volatile"]["command"] = ["featdenoise", "whitebox", "--out", "a b"]
    rows = [
        {
            "id": i,
            "label": 0,
            "target": 1 if attack["targeted"] else None,
            "clean": 0 if i < 7 else 2,
            "predictions": {c: int(i >= r) for c, r in zip(columns, right, strict=True)},
            "losses": {"start": 0.5, "final": 2.0},
        }
        for i in range(8)
    ]
    (folder / "results.jsonl").write_text("".join(map(to_line, [header, *rows])))


@pytest.fixture
def reported(tmp_path):
    """Two seeds of one run; a suspect one with restarts and another attack."""
    for seed, right in ((0, (6, 4)), (1, (6, 3))):
        write_entry(tmp_path / f"seed{seed}", "pgd", right, seed=seed)
    suspect = tmp_path / "masked"
    for restart, right in ((0, 6), (1, 5)):
        more = {"budgets": (100,), "attack": PGD | {"targeted": False}, "protocol": "restarts"}
        write_entry(suspect, f"r{restart}", (right,), model="mask", restart=restart, **more)
    write_entry(
        suspect, "square", (2,), model="mask", budgets=(), attack=SQUARE, protocol="restarts"
    )
    checks = [
        {"name": "square does not win", "passed": False, "detail": "it breaks <3> more"},
        {"name": "gradients", "passed": True, "detail": "none is zero"},
    ]
    content = {"schema": 1, "checks": checks, "suspect": True}
    (suspect / "selfchecks.json").write_text(json.dumps(content))
    folders = [tmp_path / name for name in ("seed0", "seed1", "masked")]
    text = report_runs(folders, tmp_path / "out", json_file=tmp_path / "else" / "counts.json")
    return text, tmp_path / "out"


def test_report_of_run_folders(reported, tmp_path):
    text, out = reported
    page = (out / "report.html").read_text()
    assert text.startswith("SUSPECT: mask")
    banner = page.index('role="alert"')
    assert banner < page.index("<h2>")
    assert "it breaks &lt;3&gt; more" in page
    assert "FAILED" in page
    # Two seeds: (4 + 3) / 16 at 100 iterations, from 3 / 8 to 4 / 8.
    assert "43.8%" in text
    assert "37.5-50.0" in text
    assert "2 seeds" in text
    assert "untargeted PGD, linf, epsilon 16/255, 2 restarts" in text
    assert "worst case of 3 entries" in text
    assert "published, not verified here" in page
    assert "featdenoise whitebox --out &#x27;a b&#x27;" in page
    assert page.count("featdenoise whitebox") == 1
    for name in ("accuracy_against_iterations", "accuracy_against_restarts"):
        assert (out / f"{name}.svg").is_file()
    content = (out / "report.json").read_text()
    assert (tmp_path / "else" / "counts.json").read_text() == content
    report = json.loads(content)
    assert [run["identity"]["entry"] for run in report["runs"]] == [
        "pgd",
        "pgd",
        "r0",
        "r1",
        "square",
    ]
    masked = report["whitebox"][2]
    assert masked["suspect"]
    assert masked["selfchecks"][0]["passed"] is False
    (case,) = masked["worst_cases"]
    assert case["survivors"][-1] == {"correct": 2, "count": 8}
    (curve,) = masked["restart_curves"]
    assert curve["survivors"] == [{"correct": 6, "count": 8}, {"correct": 5, "count": 8}]
    assert {c["model"] for c in report["published"]} >= {"ResNet-152", "ResNet-152 denoise"}


def sweep(robust, *, budgets=(10, 100, 2000), seed=0, **more):
    shares = tuple(Proportion(r, 10) for r in robust)
    return Whitebox(
        model="net",
        attack="targeted PGD, linf, epsilon 16/255",
        targeted=True,
        budgets=budgets,
        clean_accuracy=Proportion(9, 10),
        robust_accuracy=shares,
        worst_case_accuracy=shares,
        attack_success_rate=shares,
        seed=seed,
        settings="same",
        **more,
    )


def drawn(axes):
    return [line for line in axes.lines if str(line.get_label()).startswith("published")]


def test_published_values_stand_solid_where_exact_and_hollow_where_inferred():
    run = sweep((6, 5, 4), has_published_match=True)
    (axes,) = accuracy_against_iterations([run], published_curves()).axes
    lines = axes.lines
    for curve in published_curves():
        (line,) = [k for k in drawn(axes) if k.get_label() == f"published: {curve.model}"]
        assert list(line.get_xdata()) == [p.iterations for p in curve.points]
        assert list(line.get_ydata()) == [p.robust_accuracy for p in curve.points]
        assert line.get_markerfacecolor() == line.get_color()
        hollow = lines[list(lines).index(line) + 1]
        assert hollow.get_markerfacecolor() == "white"
        assert list(hollow.get_xdata()) == [p.iterations for p in curve.points if not p.exact]


def test_published_values_stay_away_from_other_questions_and_iterations():
    (axes,) = accuracy_against_iterations([sweep((6, 5, 4))], published_curves()).axes
    assert drawn(axes) == []
    short = sweep((6, 5), budgets=(10, 100), has_published_match=True)
    (axes,) = accuracy_against_iterations([short], published_curves()).axes
    assert max(max(line.get_xdata()) for line in drawn(axes)) == 100


def test_seeds_share_a_curve_their_mean_with_their_range():
    runs = [sweep((6, 5, 4)), sweep((8, 7, 4), seed=1)]
    (axes,) = accuracy_against_iterations(runs).axes
    (curve,) = [line for line in axes.lines if line.get_label() == "net (2 seeds)"]
    assert list(curve.get_ydata()) == pytest.approx([0.7, 0.6, 0.4])
    (shade,) = axes.collections
    heights = shade.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.4, 0.8)


def test_seeds_share_a_row_and_other_weights_are_told():
    table = whitebox_table([sweep((6, 5, 4), weights="a"), sweep((8, 7, 4), seed=1, weights="b")])
    (row,) = table.rows
    assert row[0].detail == "2 seeds, 2 sets of weights"
    assert (row[2].value, row[2].detail) == ("70.0%", "60.0-80.0")
    assert "range" in table.caption


def test_a_table_of_many_budgets_shows_some_and_says_so():
    budgets = (*range(10, 101, 10), *range(200, 2001, 200))
    table = whitebox_table([sweep([5] * 20, budgets=budgets)])
    assert table.columns[2] == "10"
    assert table.columns[-3] == "2000"
    assert len(table.columns) <= 13
    assert "some of the 20 recorded" in table.caption


def test_an_attack_without_budgets_has_a_column_of_its_own():
    table = whitebox_table([sweep((4,), budgets=())])
    assert table.columns == ("model", "clean", "result", "never broken", "attack success")
