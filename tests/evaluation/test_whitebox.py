"""The white-box sweep against a plain loop over separate attacks, and the evaluator's distrust."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from whitebox_cases import EPSILON, Counting, evaluate, evaluate_all

from featdenoise.attacks.apgd import TargetedAPGD
from featdenoise.attacks.pgd import PGD
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.imagefiles import read_image, to_uint8
from featdenoise.base.results import read_results
from featdenoise.base.rng import Stream
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.saved_images import png_name


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


def test_rows_do_not_depend_on_the_order_or_company_of_images(
    tiny_model, source, sweep, tmp_path
) -> None:
    targeted = replace(sweep, attack=replace(sweep.attack, targeted=True))
    whole = evaluate(tiny_model, source, targeted, tmp_path / "whole")
    some = evaluate(tiny_model, source, targeted, tmp_path / "some", image_ids=(7, 2, 5))
    assert [row["id"] for row in some] == [7, 2, 5]
    assert [row["target"] for row in some] == [whole[i]["target"] for i in (7, 2, 5)]


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


def test_in_the_worst_case_broken_images_drop_out_and_the_verdict_stays(
    tiny_model, source, sweep, tmp_path
) -> None:
    source.labels = tiny_model.eval()(source.images).argmax(1)
    source.labels[[2, 5]] = (source.labels[[2, 5]] + 1) % 4  # wrong when clean
    strong = replace(sweep, name="strong", attack=replace(sweep.attack, step_size=0.04))
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


def test_in_the_worst_case_an_attack_of_another_ball_has_all_images_to_itself(
    tiny_model, source, sweep, tmp_path
) -> None:
    source.labels = tiny_model.eval()(source.images).argmax(1)
    huge = replace(sweep, name="huge", attack=replace(sweep.attack, epsilon=0.5, step_size=0.1))
    rows = evaluate_all(tiny_model, source, [huge, sweep], tmp_path, worst_case=True)
    assert any(p != r["label"] for r in rows["huge"] for p in r["predictions"].values())
    assert {row["broken_by"] for row in rows["pgd"]} == {None}


def test_an_attack_that_aims_at_many_classes_has_no_single_target(
    tiny_model, source, tmp_path
) -> None:
    entry = Entry(name="apgd-t", attack=TargetedAPGD(epsilon=EPSILON, num_steps=3, num_targets=2))
    assert all(row["target"] is None for row in evaluate(tiny_model, source, entry, tmp_path))


def test_a_model_of_other_classes_is_refused(tiny_model, source, sweep, tmp_path) -> None:
    source.num_classes = 5
    with pytest.raises(ValueError, match="the model gives 4 logits, but the data has 5 classes"):
        evaluate(tiny_model, source, sweep, tmp_path)
