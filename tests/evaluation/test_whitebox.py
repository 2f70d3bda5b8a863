"""The white-box sweep against a plain loop over separate attacks, and the evaluator's distrust."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featdenoise.attacks.apgd import APGD, TargetedAPGD
from featdenoise.attacks.pgd import PGD
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.imagefiles import read_image, to_uint8
from featdenoise.base.results import read_results
from featdenoise.base.rng import Stream
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.saved_images import png_name
from featdenoise.evaluation.whitebox import WhiteboxEvaluation, evaluate_whitebox

EPSILON = 0.1
IDENTITY = {"model": {"name": "tiny"}}


@dataclass
class Source:
    """Ten 3x8x8 images that a test may spoil."""

    images: Tensor
    labels: Tensor
    num_classes: int = 4
    on_read: Callable[[int], None] = lambda _: None

    def batch(self, image_ids) -> tuple[Tensor, Tensor]:
        for image_id in image_ids:
            self.on_read(image_id)
        return self.images[list(image_ids)], self.labels[list(image_ids)]


@pytest.fixture
def source() -> Source:
    g = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (10, 3, 8, 8), generator=g)
    return Source(pixels / 255, torch.randint(0, 4, (10,), generator=g))


@pytest.fixture
def sweep() -> Entry:
    return Entry(
        name="pgd", attack=PGD(epsilon=EPSILON, step_size=0.02, num_steps=9), budgets=(1, 4, 9)
    )


class Counting(nn.Module):
    """Counts the forward passes that a gradient was asked of."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.count = 0

    def __deepcopy__(self, memo):
        raise TypeError("counted as it is")

    def forward(self, images: Tensor) -> Tensor:
        self.count += images.requires_grad
        return self.net(images)


def evaluate_all(model: nn.Module, source: Source, entries, folder: Path, **options):
    ids = options.pop("image_ids", range(10))
    for_run = {k: options.pop(k) for k in ("save_adversarial", "keep_iterates") if k in options}
    evaluation = WhiteboxEvaluation(entries=tuple(entries), **{"chunk_size": 4, **options})
    return evaluate_whitebox(
        model,
        source,
        ids,
        evaluation,
        folder,
        identity=IDENTITY,
        show_progress=False,
        **for_run,
    )


def evaluate(model: nn.Module, source: Source, sweep: Entry, folder: Path, **options):
    return evaluate_all(model, source, [sweep], folder, **options)[sweep.name]


@pytest.mark.parametrize("targeted", [False, True])
def test_rows_equal_separate_attacks_of_each_budget(
    tiny_model, source, sweep, tmp_path, targeted: bool
) -> None:
    sweep = replace(sweep, attack=replace(sweep.attack, targeted=targeted))
    rows = evaluate(tiny_model, source, sweep, tmp_path)
    tiny_model.eval()
    assert [row["id"] for row in rows] == list(range(10))
    for row in rows:
        i = row["id"]
        image, label = source.images[i : i + 1], source.labels[i : i + 1]
        stream = Stream(seed=0, image_ids=(i,))
        targets = uniform_targets(label, 4, stream) if targeted else None
        assert row["label"] == label.item()
        assert row["target"] == (targets.item() if targeted else None)
        assert row["clean"] == tiny_model(image).argmax(1).item()
        for budget in sweep.budgets:
            attack = replace(sweep.attack, num_steps=budget)
            adversarial = attack(tiny_model, image, label, stream=stream, targets=targets)
            expected = tiny_model(adversarial).argmax(1).item()
            assert row["predictions"][str(budget)] == expected


def test_the_attack_makes_a_difference(tiny_model, source, sweep, tmp_path) -> None:
    source.labels = tiny_model.eval()(source.images).argmax(1)
    rows = evaluate(tiny_model, source, sweep, tmp_path)
    assert all(row["clean"] == row["label"] for row in rows)
    assert any(row["predictions"]["9"] != row["label"] for row in rows)


def test_a_sweep_costs_its_largest_budget(tiny_model, source, sweep, tmp_path) -> None:
    model = Counting(tiny_model)
    evaluate(model, source, sweep, tmp_path, chunk_size=10)
    assert model.count == 9


def test_the_papers_rule_gives_short_budgets_a_trajectory_of_their_own() -> None:
    attack = PGD(epsilon=16 / 255, step_size=1 / 255)
    sweep = Entry(name="paper", attack=attack, budgets=(10, 20, 100), reach_edge=True)
    paths = {budgets: path.step_size for path, budgets in sweep.paths()}
    assert paths == pytest.approx({(10,): 1.6 / 255, (20, 100): 1 / 255})
    plain = replace(sweep, reach_edge=False)
    assert [budgets for _, budgets in plain.paths()] == [(10, 20, 100)]


def test_rows_do_not_depend_on_the_order_or_company_of_images(
    tiny_model, source, sweep, tmp_path
) -> None:
    targeted = replace(sweep, attack=replace(sweep.attack, targeted=True))
    whole = evaluate(tiny_model, source, targeted, tmp_path / "whole")
    some = evaluate(tiny_model, source, targeted, tmp_path / "some", image_ids=(7, 2, 5))
    assert [row["id"] for row in some] == [7, 2, 5]
    assert [row["target"] for row in some] == [whole[i]["target"] for i in (7, 2, 5)]


def test_a_run_cut_short_goes_on_with_equal_rows(tiny_model, source, sweep, tmp_path) -> None:
    whole = evaluate(tiny_model, source, sweep, tmp_path / "whole")

    def fail_at_9(image_id: int) -> None:
        if image_id == 9:
            raise OSError("the disk went away")

    source.on_read = fail_at_9
    with pytest.raises(OSError, match="went away"):
        evaluate(tiny_model, source, sweep, tmp_path / "cut")
    read: list[int] = []
    source.on_read = read.append
    assert evaluate(tiny_model, source, sweep, tmp_path / "cut") == whole
    assert read == [8, 9]  # only the chunk that was missing


def test_another_sweep_in_the_folder_is_refused(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path)
    before = (tmp_path / "pgd" / "results.jsonl").read_bytes()
    other = replace(sweep, attack=replace(sweep.attack, epsilon=0.2))
    with pytest.raises(ValueError, match=r"attack.epsilon: 0.1 there, 0.2 here"):
        evaluate(tiny_model, source, other, tmp_path)
    assert (tmp_path / "pgd" / "results.jsonl").read_bytes() == before


def test_the_model_is_left_as_it_was(tiny_model, source, sweep, tmp_path) -> None:
    tiny_model.train()
    before = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    evaluate(tiny_model, source, sweep, tmp_path)
    assert tiny_model.training
    assert all(p.grad is None and p.requires_grad for p in tiny_model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.state_dict().items())


class LeavesTheBall(PGD):
    """An attack that promises epsilon and takes twice that."""

    def trajectory(self, model, images, labels, **arguments):
        return {b: (images + 2 * self.epsilon).clamp(0, 1) for b in arguments["record_at"]}


class LeavesTheRange(PGD):
    """An attack that forgets that pixels end at 1."""

    def trajectory(self, model, images, labels, **arguments):
        return dict.fromkeys(arguments["record_at"], images + self.epsilon)


@pytest.mark.parametrize(
    ("attack", "message"), [(LeavesTheBall, "outside the"), (LeavesTheRange, r"leave \[0, 1\]")]
)
def test_an_attack_is_not_trusted(tiny_model, source, tmp_path, attack, message: str) -> None:
    sweep = Entry(name="pgd", attack=attack(epsilon=EPSILON), budgets=(1,))
    with pytest.raises(RuntimeError, match=message):
        evaluate(tiny_model, source, sweep, tmp_path)
    assert not (tmp_path / "pgd" / "results.jsonl").exists()


def test_clean_images_in_other_units_are_refused(tiny_model, source, sweep, tmp_path) -> None:
    source.images = source.images * 255
    with pytest.raises(ValueError, match=r"images \[0, 1, 2, 3\] must be in \[0, 1\]"):
        evaluate(tiny_model, source, sweep, tmp_path)


def test_labels_outside_the_classes_are_refused(tiny_model, source, sweep, tmp_path) -> None:
    source.labels[3] = 4
    with pytest.raises(ValueError, match=r"labels of images \[0, 1, 2, 3\]"):
        evaluate(tiny_model, source, sweep, tmp_path)


def test_logits_that_are_not_finite_have_no_verdict(source, sweep, tmp_path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    model[1].weight.data.fill_(float("inf"))
    with pytest.raises(RuntimeError, match="image 0"):
        evaluate(model, source, sweep, tmp_path)


def test_saved_images_are_inside_the_ball_in_8_bits(
    tiny_model, source, sweep, tmp_path, caplog
) -> None:
    pngs = tmp_path / "pngs"
    evaluate(tiny_model, source, sweep, tmp_path / "run", save_adversarial=pngs)
    clean = to_uint8(source.images).astype(int)
    changed = 0
    for i in range(10):
        difference = abs(read_image(pngs / png_name(i)).astype(int) - clean[i])
        assert difference.max() <= 25  # floor of 0.1 * 255
        changed += difference.max() >= 24
    assert changed > 5
    assert len(list(pngs.iterdir())) == 10
    (pngs / png_name(7)).unlink()
    evaluate(tiny_model, source, sweep, tmp_path / "run", save_adversarial=pngs)
    assert "1 of 10 adversarial images are not in" in caplog.text
    assert "first 000007.png; delete" in caplog.text
    l2 = replace(sweep, attack=PGD(epsilon=1.5, step_size=0.1, norm="l2"))
    with pytest.raises(ValueError, match=r"save_adversarial .* norm l2"):
        evaluate(tiny_model, source, l2, tmp_path / "l2", save_adversarial=pngs)
    with pytest.raises(ValueError, match="a worst-case run drops"):
        evaluate(tiny_model, source, sweep, tmp_path / "w", save_adversarial=pngs, worst_case=True)


def test_the_header_says_what_was_run(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path)
    identity = read_results(tmp_path / "pgd" / "results.jsonl")[0]["identity"]
    assert identity["kind"] == "whitebox"
    assert identity["model"] == {"name": "tiny"}
    assert identity["attack"]["kind"] == "PGD"
    assert identity["attack"]["num_steps"] == 9
    assert identity["budgets"] == [1, 4, 9]


@pytest.mark.parametrize(
    ("budgets", "message"),
    [((0, 5), "budgets"), ((5, 3), r"write \[3, 5\]"), ((5, 5), r"write \[5\]")],
)
def test_budgets_that_cannot_be_run_are_refused(budgets, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Entry(name="pgd", attack=PGD(), budgets=budgets)


def test_start_and_final_losses_are_of_the_class_the_attack_is_about(
    tiny_model, source, sweep, tmp_path
) -> None:
    for targeted in (False, True):
        entry = replace(sweep, attack=replace(sweep.attack, targeted=targeted))
        rows = evaluate(tiny_model, source, entry, tmp_path / str(targeted))
        change = sum(row["losses"]["final"] - row["losses"]["start"] for row in rows)
        assert change < 0 if targeted else change > 0


def test_restarts_have_starts_of_their_own_and_targets_as_asked(
    tiny_model, source, sweep, tmp_path
) -> None:
    targeted = replace(sweep, attack=replace(sweep.attack, targeted=True))
    entries = [
        replace(targeted, name="first"),
        replace(targeted, name="again"),
        replace(targeted, name="second", restart=1),
        replace(targeted, name="redrawn", restart=1, redraw_targets=True),
    ]
    rows = evaluate_all(tiny_model, source, entries, tmp_path)
    losses = {name: [row["losses"]["start"] for row in rows[name]] for name in rows}
    targets = {name: [row["target"] for row in rows[name]] for name in rows}
    assert losses["first"] == losses["again"]
    assert all(a != b for a, b in zip(losses["first"], losses["second"], strict=True))
    assert targets["first"] == targets["second"]
    assert targets["first"] != targets["redrawn"]


def test_adding_an_attack_computes_only_the_new_one(tiny_model, source, sweep, tmp_path) -> None:
    first = evaluate_all(tiny_model, source, [sweep], tmp_path)
    before = (tmp_path / "pgd" / "results.jsonl").read_bytes()
    read: list[int] = []
    source.on_read = read.append
    other = Entry(name="apgd", attack=APGD(epsilon=EPSILON, num_steps=5))
    both = evaluate_all(tiny_model, source, [sweep, other], tmp_path)
    assert (tmp_path / "pgd" / "results.jsonl").read_bytes() == before
    assert both["pgd"] == first["pgd"]
    assert sorted(read) == list(range(10))
    assert all(row["predictions"].keys() == {"final"} for row in both["apgd"])


def test_in_the_worst_case_broken_images_drop_out_and_the_verdict_stays(
    tiny_model, source, sweep, tmp_path
) -> None:
    source.labels = tiny_model.eval()(source.images).argmax(1)
    source.labels[[2, 5]] = (source.labels[[2, 5]] + 1) % 4  # wrong when clean
    strong = replace(sweep, name="strong", attack=replace(sweep.attack, epsilon=0.2))
    curve = evaluate_all(tiny_model, source, [sweep, strong], tmp_path / "curve")
    worst = evaluate_all(tiny_model, source, [sweep, strong], tmp_path / "worst", worst_case=True)
    attacked = [row for row in worst["strong"] if row["broken_by"] is None]
    dropped = [row for row in worst["strong"] if row["broken_by"] is not None]
    assert {row["broken_by"] for row in dropped} == {"clean", "pgd"}
    assert all(row["predictions"] == {} for row in dropped)
    assert attacked

    def survivors(rows: dict) -> set[int]:
        return {
            i
            for i in range(10)
            if all(
                entry[i]["clean"] == entry[i]["label"]
                and not entry[i].get("broken_by")
                and all(p == entry[i]["label"] for p in entry[i]["predictions"].values())
                for entry in rows.values()
            )
        }

    assert survivors(worst) == survivors(curve)
    assert len(survivors(worst)) < 8


def test_an_attack_that_aims_at_many_classes_has_no_single_target(
    tiny_model, source, tmp_path
) -> None:
    entry = Entry(name="apgd-t", attack=TargetedAPGD(epsilon=EPSILON, num_steps=3, num_targets=2))
    assert all(row["target"] is None for row in evaluate(tiny_model, source, entry, tmp_path))


@pytest.mark.parametrize("name", ["", "PGD", "a/b", "..", "-a"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="entry name must be"):
        Entry(name=name, attack=PGD())


def test_two_entries_of_one_name_and_budgets_without_a_path_are_refused(sweep) -> None:
    with pytest.raises(ValueError, match="different names"):
        WhiteboxEvaluation(entries=(sweep, sweep))
    with pytest.raises(ValueError, match="different names"):
        WhiteboxEvaluation(entries=())
    with pytest.raises(ValueError, match="budgets need an attack with a fixed step, got APGD"):
        Entry(name="apgd", attack=APGD(), budgets=(5,))


def test_budgets_added_later_cost_only_their_own_steps_where_iterates_were_kept(
    tiny_model, source, sweep, tmp_path
) -> None:
    more = replace(sweep, budgets=(2, 4, 7, 9, 12))
    model = Counting(tiny_model)
    fresh = evaluate(model, source, more, tmp_path / "fresh", chunk_size=10)
    assert model.count == 12
    evaluate(model, source, sweep, tmp_path / "kept", chunk_size=10, keep_iterates=True)
    model.count = 0
    rows = evaluate(model, source, more, tmp_path / "kept", chunk_size=10, keep_iterates=True)
    assert rows == fresh
    # From the iterates at 1, 4 and 9: one, three and three steps.
    assert model.count == 7
    assert (tmp_path / "kept" / "pgd" / "superseded-000.jsonl").is_file()


def test_budgets_added_later_run_anew_where_nothing_was_kept(
    tiny_model, source, sweep, tmp_path
) -> None:
    evaluate(tiny_model, source, sweep, tmp_path / "run")
    more = replace(sweep, budgets=(4, 12))
    rows = evaluate(tiny_model, source, more, tmp_path / "run")
    assert rows == evaluate(tiny_model, source, more, tmp_path / "fresh")
    assert (tmp_path / "run" / "pgd" / "superseded-000.jsonl").is_file()


def test_iterates_of_another_attack_are_refused(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path, keep_iterates=True)
    (tmp_path / "pgd" / "results.jsonl").unlink()
    other = replace(sweep, attack=replace(sweep.attack, step_size=0.01))
    with pytest.raises(ValueError, match=r"iterates of another run \(attack.step_size: 0.02 there"):
        evaluate(tiny_model, source, other, tmp_path, keep_iterates=True)


def test_a_model_of_other_classes_is_refused(tiny_model, source, sweep, tmp_path) -> None:
    source.num_classes = 5
    with pytest.raises(ValueError, match="the model gives 4 logits, but the data has 5 classes"):
        evaluate(tiny_model, source, sweep, tmp_path)


def test_an_attack_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="step_size must be > 0"):
        Entry(name="pgd", attack=PGD(step_size=0), budgets=(5,))


def test_a_folder_about_another_model_is_refused(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path)
    evaluation = WhiteboxEvaluation(entries=(replace(sweep, name="other"),), chunk_size=4)
    with pytest.raises(ValueError, match=r"another subject \(model.name: 'tiny' there, 'b' here\)"):
        evaluate_whitebox(
            tiny_model, source, range(10), evaluation, tmp_path, identity={"model": {"name": "b"}}
        )
    assert not (tmp_path / "other").exists()


def test_budgets_of_a_worst_case_run_stay_what_later_entries_were_built_on(
    tiny_model, source, sweep, tmp_path
) -> None:
    strong = replace(sweep, name="strong", attack=replace(sweep.attack, epsilon=0.2))
    evaluate_all(tiny_model, source, [sweep, strong], tmp_path, worst_case=True)
    changed = replace(sweep, budgets=(4, 9))
    with pytest.raises(ValueError, match="budgets"):
        evaluate_all(tiny_model, source, [changed, strong], tmp_path, worst_case=True)
    assert not list(tmp_path.glob("*/superseded-*"))


@pytest.mark.parametrize("worst_case", [True, False])
def test_iterates_that_cannot_be_kept_are_refused(
    tiny_model, source, sweep, tmp_path, worst_case: bool
) -> None:
    entry = sweep if worst_case else replace(sweep, budgets=())
    with pytest.raises(ValueError, match="keep_iterates needs plain PGD with budgets"):
        evaluate(tiny_model, source, entry, tmp_path, keep_iterates=True, worst_case=worst_case)
