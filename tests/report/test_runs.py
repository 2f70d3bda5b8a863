import json
import re

import pytest

from featdenoise.base.results import make_header, to_line
from featdenoise.report.html import Section
from featdenoise.report.runs import report_runs

MODELS = ("plain net", "denoising <net>")


def write_run(folder, identity, rows, name="results.jsonl"):
    folder.mkdir(parents=True)
    lines = [make_header(identity), *rows]
    (folder / name).write_text("".join(to_line(line) for line in lines))
    return folder


def whitebox_run(folder, model, targeted=True, robust=(6, 5)):
    attack = {"kind": "PGD", "epsilon": 16 / 255, "targeted": targeted, "norm": "linf"}
    identity = {
        "kind": "whitebox",
        "model": {"name": model},
        "attack": attack,
        "budgets": [10, 100],
        "seed": 0,
    }
    rows = [
        {
            "id": i,
            "label": 0,
            "target": 1 if targeted else None,
            "clean": 0 if i < 7 else 2,
            "predictions": {"10": int(i >= robust[0]), "100": int(i >= robust[1])},
        }
        for i in range(8)
    ]
    return write_run(folder, identity, rows)


def blackbox_run(folder, model):
    identity = {"kind": "blackbox", "model": {"name": model}, "attackers": ["x"], "epsilon": 0.1}
    rows = [
        {"id": i, "name": f"{i}.png", "attacker": a, "label": 0, "prediction": int(i > k)}
        for k, a in enumerate(("clean", "x"))
        for i in range(4)
    ]
    return write_run(folder, identity, rows)


def certification_run(folder, model):
    identity = {
        "kind": "certification",
        "model": {"name": model},
        "noise": {"kind": "Gaussian", "sigma": 0.25},
        "n0": 10,
        "n": 100,
        "alpha": 0.001,
    }
    rows = [{"id": i, "label": 0, "prediction": 0, "radius": 0.2 * i} for i in range(4)]
    return write_run(folder, identity, rows)


def training_run(folder, last=()):
    rows = [{"step": k, "loss": 1.0, "clean_accuracy": 0.5} for k in range(3)]
    return write_run(folder, {"kind": "training"}, [*rows, *last], name="log.jsonl")


@pytest.fixture
def folders(tmp_path):
    made = []
    for k, model in enumerate(MODELS):
        made.append(whitebox_run(tmp_path / f"white{k}", model))
        made.append(whitebox_run(tmp_path / f"white-untargeted{k}", model, targeted=False))
        made.append(blackbox_run(tmp_path / f"black{k}", model))
        made.append(certification_run(tmp_path / f"certified{k}", model))
        made.append(training_run(tmp_path / f"training{k}"))
    return made


def test_report_of_all_kinds_names_models_and_percentages(folders, tmp_path):
    out = tmp_path / "out" / "report"
    text = report_runs(folders, out)
    page = (out / "report.html").read_text()
    assert all(model in text for model in MODELS)
    assert "plain net" in page
    assert "denoising &lt;net&gt;" in page
    # 7 of 8 clean, 6 and 5 of 8 robust, 1 of 4 under attacker x, radii 0.2 i of 4 images
    for share in ("87.5%", "75.0%", "62.5%", "50.0%"):
        assert share in text
        assert share in page
    assert "epsilon 16/255" in text
    pictures = {"accuracy_against_iterations", "certified_accuracy_against_radius"}
    for name in pictures | {"training_curves"}:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.svg").read_bytes().startswith(b"<?xml")


def test_page_is_self_contained(folders, tmp_path):
    report_runs(folders, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http://" not in page
    assert "https://" not in page
    assert "<link" not in page
    assert "href" not in page
    assert "@import" not in page


def test_json_holds_counts_and_a_schema(folders, tmp_path):
    report_runs(folders, tmp_path / "out", title="Ours")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["schema"] == 2
    assert report["title"] == "Ours"
    assert [run["kind"] for run in report["runs"]].count("whitebox") == 4
    first = report["runs"][0]
    assert first["model"] == "plain net"
    assert first["budgets"] == [10, 100]
    assert first["robust_accuracy"] == [{"correct": 6, "count": 8}, {"correct": 5, "count": 8}]
    assert first["identity"]["seed"] == 0
    assert "settings" not in first
    assert report["whitebox"][0]["selfchecks"] is None
    assert report["published"] == []
    blackbox = next(run for run in report["runs"] if run["kind"] == "blackbox")
    assert blackbox["robust_accuracy"] == {"x": {"correct": 2, "count": 4}}
    assert blackbox["worst_attacker"] == "x"
    assert blackbox["mean_accuracy"] == {"correct": 2, "count": 4}


def test_the_same_runs_give_the_same_page(folders, tmp_path):
    report_runs(folders, tmp_path / "one")
    report_runs(folders, tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_callers_sections_stand_around_the_results(folders, tmp_path):
    verdict = Section(heading="Verdict", paragraphs=("not better than the baseline",))
    commands = Section(heading="Again", commands=("featdenoise demo", "ls > here"))
    report_runs(folders, tmp_path / "out", first=[verdict], last=[commands])
    page = (tmp_path / "out" / "report.html").read_text()
    order = ["<h2>Verdict", "not better", "<h2>White-box", "<h2>Again", "ls &gt; here"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [whitebox_run(tmp_path / part / "white", "net") for part in ("old", "new")]
    text = report_runs(runs, tmp_path / "out")
    assert "net (old/white)" in text
    assert "net (new/white)" in text


def test_training_run_is_called_after_its_folder_and_says_that_it_diverged(tmp_path):
    end = {"step": 2, "diverged": True, "reason": "loss is not finite"}
    report_runs([training_run(tmp_path / "steep", last=[end])], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "steep diverged at step 2: loss is not finite." in page


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run folder at .*nowhere"):
        report_runs([tmp_path / "nowhere"], tmp_path / "out")


def test_folder_without_results_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no results.jsonl or log.jsonl in .*empty"):
        report_runs([tmp_path / "empty"], tmp_path / "out")


def test_unfinished_run_says_how_to_resume(tmp_path):
    (tmp_path / "half" / "parts").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"not finished.*resume"):
        report_runs([tmp_path / "half"], tmp_path / "out")


def test_unknown_kind_lists_the_known_ones_and_nothing_is_written(tmp_path):
    folder = write_run(tmp_path / "odd", {"kind": "weather", "model": {"name": "m"}}, [{"id": 0}])
    with pytest.raises(ValueError, match=r"odd.*weather.*whitebox, blackbox, certification"):
        report_runs([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run folder"):
        report_runs([], tmp_path / "out")
