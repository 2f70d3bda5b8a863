import csv
import dataclasses
import math
import os
import socket

import pytest
import torch
from torch import nn

from featdenoise.base.distributed import join_world
from featdenoise.base.results import read_results
from featdenoise.base.summary import ABSTAIN, summarize_certification
from featdenoise.evaluation.certification import (
    Certification,
    certify_images,
    write_log,
)
from featdenoise.smoothing.noise import Gaussian

CONFIG = Certification(noise=Gaussian(sigma=0.25), n0=20, n=300, chunk_size=3)


class Greys:
    """Grey images: number i has the value i / 20 and the label 1 from 0.5 on."""

    num_classes = 2

    def __init__(self, fail_at=None):
        self.fail_at = fail_at
        self.asked = []

    def batch(self, image_ids):
        if self.fail_at in image_ids:
            raise KeyboardInterrupt
        self.asked += image_ids
        values = torch.tensor([i / 20 for i in image_ids])
        return values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4), (values >= 0.5).long()


class Brightness(nn.Module):
    """Class 1 for images brighter than 0.45: image 9 lies on the plane between."""

    def forward(self, images):
        mean = images.double().mean((1, 2, 3))
        return torch.stack([torch.full_like(mean, 0.45), mean + 1e-9], dim=1)


IDS = (*range(0, 20, 2), 9)


def certify(folder, images=None, config=CONFIG, ids=IDS):
    return certify_images(
        Brightness(), images or Greys(), ids, config, folder, identity={}, show_progress=False
    )


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def make_row(image_id, prediction, radius, label=1):
    return {
        "id": image_id,
        "label": label,
        "prediction": prediction,
        "radius": radius,
        "correct": prediction == label,
        "n_top": 990,
        "p_lower": 0.9760361871553114,
        "seconds": 1.5,
    }


def test_every_image_gets_one_row_in_the_order_asked_for(tmp_path):
    header, rows = certify(tmp_path)
    assert [row["id"] for row in rows] == list(IDS)
    assert read_results(tmp_path / "results.jsonl") == (header, rows)
    identity = header["identity"]
    assert identity["kind"] == "certification"
    assert identity["noise"] == {"kind": "Gaussian", "sigma": 0.25}
    assert (identity["n0"], identity["n"], identity["alpha"]) == (20, 300, 0.001)
    assert (identity["device"], identity["precision"]) == ("cpu", "unknown")


def test_rows_follow_the_margin_of_the_image(tmp_path):
    rows = {row["id"]: row for row in certify(tmp_path)[1]}
    assert rows[0]["prediction"] == 0
    assert rows[18]["prediction"] == 1
    assert rows[9]["prediction"] == ABSTAIN
    for image_id, row in rows.items():
        margin = abs(image_id / 20 - 0.45) * math.sqrt(48)
        assert 0 <= row["radius"] <= margin + 1e-6
        assert row["correct"] == (row["prediction"] == row["label"])
    assert rows[0]["radius"] == pytest.approx(CONFIG.largest_radius)


def test_a_run_cut_short_continues_to_equal_rows(tmp_path):
    _, expected = certify(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        certify(tmp_path / "cut", Greys(fail_at=IDS[7]))
    # A torn last line, as a kill in the middle of a write leaves it.
    (part,) = (tmp_path / "cut" / "parts").glob("*.jsonl")
    part.write_bytes(part.read_bytes()[:-20])
    again = Greys()
    _, rows = certify(tmp_path / "cut", again)
    assert without_times(rows) == without_times(expected)
    assert again.asked == list(IDS[3:])
    _, rows = certify(tmp_path / "cut", Greys(fail_at=IDS[0]))
    assert without_times(rows) == without_times(expected)


def test_rows_do_not_depend_on_chunks_batches_or_order(tmp_path):
    expected = {row["id"]: row for row in without_times(certify(tmp_path / "a")[1])}
    config = dataclasses.replace(CONFIG, chunk_size=7, batch_size=33)
    for row in without_times(certify(tmp_path / "b", config=config, ids=IDS[::-1])[1]):
        assert row == expected[row["id"]]


def certify_as_one_of_two(rank, folder, port):
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in facts.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    with join_world("cpu") as world:
        certify_images(
            Brightness(),
            Greys(),
            IDS,
            CONFIG,
            folder,
            identity={},
            world=world,
            show_progress=False,
        )


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(tmp_path):
    _, expected = certify(tmp_path / "one")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(
        certify_as_one_of_two, args=(tmp_path / "two", port), nprocs=2, join=True
    )
    header, rows = read_results(tmp_path / "two" / "results.jsonl")
    assert header["volatile"]["processes"] == 2
    assert without_times(rows) == without_times(expected)
    assert (tmp_path / "two" / CONFIG.log_name).exists()


def test_another_seed_gives_other_votes(tmp_path):
    _, one = certify(tmp_path / "a", ids=(9, 10, 8))
    _, other = certify(tmp_path / "b", ids=(9, 10, 8), config=dataclasses.replace(CONFIG, seed=1))
    assert [row["n_top"] for row in one] != [row["n_top"] for row in other]


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    certify(tmp_path)
    with pytest.raises(ValueError, match=r"noise\.sigma: 0\.25 there, 0\.5 here"):
        certify(tmp_path, config=dataclasses.replace(CONFIG, noise=Gaussian(sigma=0.5)))
    with pytest.raises(ValueError, match="images: "):
        certify(tmp_path, ids=IDS[1:])


def test_log_has_the_columns_that_analysis_scripts_read(tmp_path):
    header, rows = certify(tmp_path)
    path = tmp_path / "certificates_sigma_0.25.tsv"
    columns = path.read_text().split("\n")[0]
    assert columns.startswith("idx\tlabel\tpredict\tradius\tcorrect\ttime\t")
    with path.open(newline="") as file:
        log = list(csv.DictReader(file, delimiter="\t"))
    assert [int(line["idx"]) for line in log] == list(IDS)
    assert {line["correct"] for line in log} <= {"0", "1"}
    ours = summarize_certification("net", header["identity"], rows)
    for radius in (0.0, 0.1, 0.3, 0.6):
        theirs = sum(int(e["correct"]) and float(e["radius"]) >= radius for e in log)
        assert theirs == ours.certified_accuracy(radius).correct
    for line, row in zip(log, rows, strict=True):
        assert (int(line["label"]), int(line["predict"])) == (row["label"], row["prediction"])
        assert int(line["nA"]) == row["n_top"]
        assert float(line["pA_low"]) == row["p_lower"]
        assert line["time"].startswith("0:00:0")


def test_log_is_exactly_this(tmp_path):
    write_log(tmp_path / "log.tsv", [make_row(20, 1, 0.4945029)], Certification(n=1000))
    assert (tmp_path / "log.tsv").read_text() == (
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\t"
        "nA\tn0\tn\talpha\tpA_low\tnoise\tnorm\tscale\tseed\n"
        "20\t1\t1\t0.494502\t1\t0:00:01.500000\t"
        "990\t100\t1000\t0.001\t0.9760361871553114\tgaussian\tl2\t0.25\t0\n"
    )


@pytest.mark.parametrize(
    ("n", "alpha", "unit_radius"),
    [
        (100, 0.001, 1.50048),
        (1000, 0.001, 2.46326),
        (10_000, 0.001, 3.19858),
        (100_000, 0.001, 3.81146),
        (100, 0.01, 1.69532),
        (1000, 0.01, 2.60494),
        (10_000, 0.01, 3.31366),
        (100_000, 0.01, 3.91051),
    ],
)
def test_largest_possible_radius_has_the_published_value(n, alpha, unit_radius):
    config = Certification(noise=Gaussian(sigma=0.5), n=n, alpha=alpha)
    assert config.largest_radius == pytest.approx(0.5 * unit_radius, abs=3e-6)


def test_name_of_the_log_holds_sigma_with_two_decimals():
    assert Certification(noise=Gaussian(sigma=1)).log_name == "certificates_sigma_1.00.tsv"


def test_a_label_outside_the_classes_is_refused(tmp_path):
    class Mislabelled(Greys):
        def batch(self, image_ids):
            images, labels = super().batch(image_ids)
            return images, labels + 2

    with pytest.raises(ValueError, match=r"labels of images \[0, .* must be in \[0, 1\]"):
        certify(tmp_path, Mislabelled())


def test_a_model_of_another_width_is_refused(tmp_path):
    images = Greys()
    images.num_classes = 10
    with pytest.raises(ValueError, match="num_classes is 10"):
        certify(tmp_path, images)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n0": 0}, "n0 must be at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"alpha": 1.0}, "alpha must be strictly between"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Certification(**fields)
