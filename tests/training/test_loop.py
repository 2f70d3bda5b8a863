"""Whole small runs: resuming, refusing, diverging, logging."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featdenoise.base.checkpoint import list_checkpoints, load_checkpoint
from featdenoise.base.distributed import World
from featdenoise.base.imagefiles import write_png
from featdenoise.base.results import read_results
from featdenoise.data.config import DataConfig
from featdenoise.models.config import ModelConfig
from featdenoise.models.registry import create_model
from featdenoise.models.weights import load_info, load_model, save_weights
from featdenoise.training.loop import RunOptions, train
from featdenoise.training.recipes import Recipe

QUIET = RunOptions(show_progress=False, checkpoint_every=2)


def final_state(folder: Path) -> dict:
    return load_checkpoint(list_checkpoints(folder)[-1])


def assert_same_bits(first: object, second: object, where: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same_bits(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        for k, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same_bits(a, b, f"{where}/{k}")
    else:
        assert first == second, where


def log_without_times(folder: Path) -> list[dict]:
    rows = read_results(folder / "log.jsonl")[1]
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows]


def test_a_run_trains_and_leaves_weights_that_rebuild_the_model(tmp_path, tiny_recipe) -> None:
    outcome = train(tiny_recipe, tmp_path, QUIET, World())
    assert outcome.finished
    assert outcome.step == 6
    model = load_model(outcome.weights)
    fresh = create_model(model.config, seed=tiny_recipe.seed)
    moved = [
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, fresh.state_dict()[name])
    ]
    assert "backbone.head.weight" in moved
    assert model.config.mean == pytest.approx((0.305,) * 3, abs=0.01)
    recipe = load_info(outcome.weights).recipe
    assert recipe is not None
    assert recipe["attack"]["kind"] == "PGD"
    rows = log_without_times(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= row["clean_accuracy"] <= 1 for row in rows)
    assert rows[-1]["learning_rate"] == pytest.approx(0.05)
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits(tmp_path, tiny_recipe) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    train(tiny_recipe, whole, QUIET, World())
    for stop in (1, 3, 4):
        outcome = train(tiny_recipe, pieces, replace(QUIET, stop_after=stop), World())
        assert not outcome.finished
        assert (pieces / "STOPPED").read_text() == f"step {stop} of 6\n"
    assert train(tiny_recipe, pieces, QUIET, World()).finished
    assert not (pieces / "STOPPED").exists()
    assert_same_bits(final_state(whole), final_state(pieces))
    assert log_without_times(whole) == log_without_times(pieces)


def test_a_lost_tail_of_the_log_and_checkpoints_is_made_again(tmp_path, tiny_recipe) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(tiny_recipe, whole, QUIET, World())
    train(tiny_recipe, killed, replace(QUIET, stop_after=5), World())
    list_checkpoints(killed)[-1].unlink()  # as if killed after step 5's rows, before its checkpoint
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "epo')
    train(tiny_recipe, killed, QUIET, World())
    assert_same_bits(final_state(whole), final_state(killed))
    assert log_without_times(whole) == log_without_times(killed)


def test_running_a_finished_run_again_changes_nothing(tmp_path, tiny_recipe) -> None:
    train(tiny_recipe, tmp_path, QUIET, World())
    before = (tmp_path / "weights" / "model.safetensors").read_bytes()
    assert train(tiny_recipe, tmp_path, QUIET, World()).finished
    assert (tmp_path / "weights" / "model.safetensors").read_bytes() == before
    assert len(log_without_times(tmp_path)) == 6


def test_another_configuration_in_the_folder_is_refused_by_field(tmp_path, tiny_recipe) -> None:
    train(tiny_recipe, tmp_path, replace(QUIET, stop_after=1), World())
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.*")}
    other = replace(tiny_recipe, seed=1, attack=replace(tiny_recipe.attack, epsilon=0.2))
    with pytest.raises(ValueError, match=r"attack.epsilon: 0.1\d* there, 0.2 here; recipe.seed"):
        train(other, tmp_path, QUIET, World())
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.*")} == before
    assert train(other, tmp_path, replace(QUIET, force=True), World()).finished


def test_a_diverging_run_names_step_and_last_checkpoint_and_records_it(
    tmp_path, tiny_recipe
) -> None:
    wild = replace(tiny_recipe, learning_rate=1e30, warmup_epochs=0, attack=None)
    with pytest.raises(RuntimeError, match=r"diverged at step \d: .*last good checkpoint: .*lower"):
        train(wild, tmp_path, replace(QUIET, checkpoint_every=1), World())
    last = read_results(tmp_path / "log.jsonl")[1][-1]
    assert last["diverged"] is True
    for value in final_state(tmp_path)["model"].values():
        assert torch.isfinite(value).all()


def test_classes_that_do_not_match_the_data_are_refused(tmp_path, tiny_recipe) -> None:
    model = replace(tiny_recipe.model, num_classes=7)
    with pytest.raises(ValueError, match="num_classes is 7, but the data has 10 classes; set"):
        train(replace(tiny_recipe, model=model), tmp_path, QUIET, World())


def test_more_processes_than_micro_batches_are_refused(tmp_path, tiny_recipe) -> None:
    with pytest.raises(ValueError, match="5 processes cannot share the 4 micro-batches"):
        train(tiny_recipe, tmp_path, QUIET, World(rank=0, size=5))


def test_training_starts_from_given_weights_with_a_new_head(tmp_path, tiny_recipe) -> None:
    source = create_model(ModelConfig(name="resnet8", num_classes=3, denoise="gaussian"), seed=9)
    save_weights(tmp_path / "source", source)
    options = replace(QUIET, init_from=str(tmp_path / "source"), stop_after=1)
    slow = replace(tiny_recipe, learning_rate=1e-12)
    train(slow, tmp_path / "run", options, World())
    trained = final_state(tmp_path / "run")["model"]
    for name, value in source.named_parameters():
        if not name.startswith("backbone.head"):
            torch.testing.assert_close(trained[name], value, atol=1e-6, rtol=0)
    assert trained["backbone.head.weight"].shape[0] == 10


def test_background_workers_change_nothing(tmp_path, tiny_recipe) -> None:
    short = replace(tiny_recipe, epochs=2 / 45)
    train(short, tmp_path / "here", QUIET, World())
    train(short, tmp_path / "workers", replace(QUIET, workers=1), World())
    assert_same_bits(final_state(tmp_path / "here"), final_state(tmp_path / "workers"))


def test_training_leaves_the_global_random_state_alone(tmp_path, tiny_recipe: Recipe) -> None:
    before = torch.get_rng_state()
    train(tiny_recipe, tmp_path, QUIET, World())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("field", ["checkpoint_every", "keep", "log_every"])
def test_intervals_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be >= 1, got 0"):
        RunOptions(**{field: 0})


def test_log_rows_can_be_rarer_than_steps(tmp_path, tiny_recipe) -> None:
    train(tiny_recipe, tmp_path, replace(QUIET, log_every=4), World())
    assert [row["step"] for row in log_without_times(tmp_path)] == [4, 6]


def test_the_header_holds_the_whole_recipe(tmp_path, tiny_recipe) -> None:
    train(tiny_recipe, tmp_path, replace(QUIET, stop_after=1), World())
    identity = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["identity"]
    assert identity["recipe"]["reduction"] == "exact"
    assert identity["recipe"]["threads_per_process"] == 1
    assert identity["numerics"]["torch"] == torch.__version__


def test_a_refused_resume_leaves_the_folder_as_it_was(tmp_path, tiny_recipe) -> None:
    train(tiny_recipe, tmp_path, replace(QUIET, stop_after=2), World())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert "STOPPED" in before
    with pytest.raises(ValueError, match=r"recipe\.seed: 0 there, 5 here"):
        train(replace(tiny_recipe, seed=5), tmp_path, QUIET, World())
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before


def test_a_run_goes_on_after_its_data_moved(tmp_path, tiny_recipe) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        folder = tmp_path / "here" / "train" / f"class{k % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{k}.png", image)
    data = DataConfig(name="imagefolder", root=str(tmp_path / "here"), image_size=8)
    recipe = replace(tiny_recipe, data=data, epochs=3)
    train(recipe, tmp_path / "run", replace(QUIET, stop_after=2), World())
    (tmp_path / "here").rename(tmp_path / "there")
    moved = replace(recipe, data=replace(data, root=str(tmp_path / "there")))
    assert train(moved, tmp_path / "run", QUIET, World()).finished
    write_png(tmp_path / "there" / "train" / "class0" / "0.png", pixels[1])
    with pytest.raises(ValueError, match="data_fingerprint"):
        train(moved, tmp_path / "run", QUIET, World())
