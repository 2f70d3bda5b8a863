"""Black-box scoring: counts known by hand, everything that does not fit is an error."""

import itertools
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featdenoise.base.binomial import Proportion
from featdenoise.base.distributed import join_world
from featdenoise.base.imagefiles import read_image, write_png
from featdenoise.base.summary import Blackbox, summarize_blackbox
from featdenoise.blackbox.score import BlackboxScoring, score_blackbox

# The model below reads the class off the red channel: class k for red in [20 k, 20 k + 20).
NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")
LABELS = (0, 1, 2, 3, 4)
RED = {
    "clean": (10, 30, 50, 70, 70),  # e is wrong when clean
    "weak": (10, 30, 50, 60, 90),  # all right
    "strong": (10, 15, 50, 85, 80),  # b and d wrong
    "other": (25, 30, 50, 70, 65),  # a and e wrong
}
ATTACKERS = ("weak", "strong", "other")


def read_red(images: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 6) logits."""
    classes = (images[:, 0].amax((1, 2)) * 255).round().div(20, rounding_mode="floor").long()
    return nn.functional.one_hot(classes.clamp(max=5), 6).float()


@dataclass
class Material:
    """Folders of images, a labels file, and where the results go."""

    root: Path

    def score(
        self,
        model: Callable[[Tensor], Tensor] = read_red,
        *,
        epsilon: float = 20 / 255,
        chunk_size: int = 2,
        label_offset: int = 0,
        attackers: tuple[str, ...] = ATTACKERS,
        out: str = "out",
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        scoring = BlackboxScoring(epsilon=epsilon, chunk_size=chunk_size, label_offset=label_offset)
        return score_blackbox(
            model,
            scoring,
            clean=self.root / "clean",
            labels=self.root / "labels.csv",
            attackers={name: self.root / name for name in attackers},
            folder=self.root / out,
            identity={"model": "red"},
            show_progress=False,
        )


@pytest.fixture
def material(tmp_path: Path) -> Material:
    for attacker, levels in RED.items():
        (tmp_path / attacker).mkdir()
        for name, level in zip(NAMES, levels, strict=True):
            pixels = np.full((4, 6, 3), 128, dtype=np.uint8)
            pixels[..., 0] = level
            write_png(tmp_path / attacker / name, pixels)
    lines = [f"{name},{label}\n" for name, label in zip(NAMES, LABELS, strict=True)]
    (tmp_path / "labels.csv").write_text("".join(lines))
    return Material(tmp_path)


def summarize(run: tuple[dict[str, Any], list[dict[str, Any]]]) -> Blackbox:
    header, rows = run
    return summarize_blackbox("red", header["identity"], rows)


def test_scores_of_a_case_known_by_hand(material: Material) -> None:
    summary = summarize(material.score())
    assert summary.clean_accuracy == Proportion(4, 5)
    assert list(summary.robust_accuracy.items()) == [
        ("weak", Proportion(5, 5)),
        ("strong", Proportion(3, 5)),
        ("other", Proportion(3, 5)),
    ]
    assert summary.worst_attacker == "strong"
    assert summary.mean_accuracy == Proportion(11, 15)
    assert summary.all_or_nothing_score == Proportion(1, 5)  # c alone
    assert summary.all_or_nothing_score_with_clean == Proportion(1, 5)


def test_image_wrong_when_clean_still_counts_in_the_score_of_the_attackers(
    material: Material,
) -> None:
    summary = summarize(material.score(attackers=("weak",)))
    assert summary.all_or_nothing_score == Proportion(5, 5)
    assert summary.all_or_nothing_score_with_clean == Proportion(4, 5)


def test_rows_are_those_of_a_naive_loop(material: Material) -> None:
    _, rows = material.score()
    expected = []
    for (i, name), attacker in itertools.product(enumerate(NAMES), ("clean", *ATTACKERS)):
        predicted = int(read_image(material.root / attacker / name)[0, 0, 0]) // 20
        expected.append(
            {
                "id": i,
                "name": name,
                "attacker": attacker,
                "label": LABELS[i],
                "prediction": predicted,
                "correct": predicted == LABELS[i],
            }
        )
    assert rows == expected


def test_chunk_size_does_not_change_the_rows_and_every_batch_has_its_shape(
    material: Material,
) -> None:
    shapes = set()

    def model(images: Tensor) -> Tensor:
        shapes.add(tuple(images.shape))
        return read_red(images)

    rows = [material.score(model, chunk_size=n, out=str(n))[1] for n in (1, 3, 64)]
    assert rows[0] == rows[1] == rows[2]
    assert shapes == {(n, 3, 4, 6) for n in (1, 3, 64)}


def test_header_identifies_images_rules_and_model(material: Material) -> None:
    identity = material.score(label_offset=0)[0]["identity"]
    assert identity["kind"] == "blackbox"
    assert identity["model"] == "red"
    assert identity["epsilon"] == 20 / 255
    assert identity["attackers"] == list(ATTACKERS)


def test_interrupted_run_resumes_without_repeating_finished_chunks(material: Material) -> None:
    whole = material.score(out="whole")[1]
    calls = 0

    def dies_in_the_third_chunk(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 * 4 + 3:
            raise KeyboardInterrupt
        return read_red(images)

    with pytest.raises(KeyboardInterrupt):
        material.score(dies_in_the_third_chunk)
    seen = 0

    def counts_calls(images: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        return read_red(images)

    assert material.score(counts_calls)[1] == whole
    assert seen == 4  # one chunk, the clean images and three attackers
    assert material.score(counts_calls)[1] == whole
    assert seen == 4


def test_resuming_on_changed_images_is_refused(material: Material) -> None:
    material.score()
    shutil.copy(material.root / "strong" / "a.png", material.root / "weak" / "c.png")
    with pytest.raises(ValueError, match=r"images: .* there, .* here"):
        material.score()


@pytest.mark.parametrize("attacker", ["clean", "weak", "other"])
def test_missing_image_is_an_error_and_never_survives(material: Material, attacker: str) -> None:
    (material.root / attacker / "c.png").unlink()
    with pytest.raises(ValueError, match=r"c\.png"):
        material.score()
    assert not (material.root / "out").exists()


def test_extra_image_is_an_error(material: Material) -> None:
    folder = material.root / "strong"
    shutil.copy(folder / "a.png", folder / "z.png")
    with pytest.raises(ValueError, match=r"'strong'.*1 extra \['z\.png'\]"):
        material.score()


def test_image_without_label_and_label_without_image_are_errors(material: Material) -> None:
    labels = material.root / "labels.csv"
    text = labels.read_text()
    labels.write_text(text + "ghost.png,1\n")
    with pytest.raises(ValueError, match=r"labels.*1 extra \['ghost\.png'\]"):
        material.score()
    labels.write_text(text.replace("b.png,1\n", ""))
    with pytest.raises(ValueError, match=r"labels.*1 missing \['b\.png'\]"):
        material.score()


def test_one_pixel_one_level_outside_the_ball_is_an_error_and_nothing_is_clipped(
    material: Material,
) -> None:
    path = material.root / "weak" / "d.png"
    pixels = read_image(path)
    pixels[3, 5, 2] = 128 - 20
    write_png(path, pixels)
    material.score(out="on the edge")
    pixels[3, 5, 2] = 128 - 21
    write_png(path, pixels)
    with pytest.raises(ValueError, match=r"'weak' moves a pixel of d\.png by 21/255.*20/255"):
        material.score()
    assert np.array_equal(read_image(path), pixels)
    material.score(epsilon=21 / 255, out="wider ball")


def test_difference_of_levels_does_not_wrap_around(material: Material) -> None:
    for name in NAMES:
        for attacker, level in (("clean", 0), ("weak", 255), ("strong", 0), ("other", 0)):
            write_png(material.root / attacker / name, np.full((4, 6, 3), level, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"by 255/255"):
        material.score()


def test_other_size_is_an_error(material: Material) -> None:
    write_png(material.root / "other" / "b.png", np.zeros((6, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"other/b\.png is \(6, 4\).*\(4, 6\)"):
        material.score()


def test_damaged_image_is_named(material: Material) -> None:
    (material.root / "other" / "b.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"other/b\.png"):
        material.score()


def test_labels_outside_the_classes_point_to_the_offset(material: Material) -> None:
    labels = material.root / "labels.csv"
    labels.write_text(labels.read_text().replace("e.png,4", "e.png,6"))
    with pytest.raises(ValueError, match=r"label 6 of e\.png.*6 classes.*label_offset"):
        material.score()


def test_label_offset_shifts_every_label(material: Material) -> None:
    labels = material.root / "labels.csv"
    lines = [f"{name},{label + 1}\n" for name, label in zip(NAMES, LABELS, strict=True)]
    expected = material.score(out="from zero")[1]
    labels.write_text("".join(lines))
    assert material.score(label_offset=1)[1] == expected


@pytest.mark.parametrize("attackers", [(), ("clean", "weak")])
def test_attackers_need_names_and_clean_is_taken(
    material: Material, attackers: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="attackers must be"):
        material.score(attackers=attackers)


def test_missing_folder_is_named(material: Material) -> None:
    with pytest.raises(FileNotFoundError, match="nobody"):
        material.score(attackers=("nobody",))


def test_logits_that_are_not_finite_or_of_another_shape_are_errors(material: Material) -> None:
    with pytest.raises(RuntimeError, match=r"a\.png.*'clean'.*not finite"):
        material.score(lambda images: read_red(images) * torch.nan)
    with pytest.raises(ValueError, match=r"\(2, K\) logits"):
        material.score(lambda images: read_red(images).sum(1))


def test_module_is_scored_in_evaluation_mode_and_left_as_it_was(material: Material) -> None:
    class Red(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(1.0)
            self.norm = nn.BatchNorm2d(3, eps=0).eval()

        def forward(self, images: Tensor) -> Tensor:
            return read_red(self.drop(self.norm(images)))

    model = Red()
    assert material.score(model)[1] == material.score(out="function")[1]
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)


@pytest.mark.parametrize(
    ("field", "value"), [("epsilon", 16.0), ("epsilon", -0.1), ("chunk_size", 0)]
)
def test_rules_outside_their_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        BlackboxScoring(**{field: value})


def _score_as_one_of_two(rank: int, root: Path, port: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            patch.setenv(name, str(value))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", port)
        with join_world("cpu") as world:
            score_blackbox(
                read_red,
                BlackboxScoring(epsilon=20 / 255, chunk_size=2),
                clean=root / "clean",
                labels=root / "labels.csv",
                attackers={name: root / name for name in ATTACKERS},
                folder=root / "two",
                identity={"model": "red"},
                world=world,
                show_progress=False,
            )


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(material: Material) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    torch.multiprocessing.spawn(_score_as_one_of_two, (material.root, port), nprocs=2)
    rows = material.score(out="two")[1]
    assert rows == material.score(out="one")[1]
