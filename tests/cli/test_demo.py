from pathlib import Path

import pytest

from featdenoise.cli.demo import MODELS, compare_survivors
from featdenoise.cli.main import main


def rows(right: str) -> list[dict]:
    """One row an image: right (1) or wrong (0) after 100 iterations."""
    return [
        {"id": i, "label": 3, "predictions": {"100": 3 if c == "1" else 5}}
        for i, c in enumerate(right)
    ]


@pytest.mark.parametrize(
    ("baseline", "denoising", "verdict"),
    [
        ("1" * 20, "1" * 20, "NOT better"),
        ("1" * 20, "0" * 20, "NOT better"),
        ("0" * 4 + "1" * 16, "1" * 20, "not significantly better"),
        ("0" * 12 + "1" * 8, "1" * 20, "is better than the baseline"),
    ],
)
def test_the_verdict_says_plainly_who_is_better(
    baseline: str, denoising: str, verdict: str
) -> None:
    text = compare_survivors(rows(baseline), rows(denoising))
    assert verdict in text
    assert f"{denoising.count('1')} of 20" in text


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_short_demo_leaves_a_whole_report(tmp_path: Path, capfd, processes: str) -> None:
    short = ["--epochs", "0.2", "--num-images", "10", "--processes", processes]
    assert main(["demo", "--out", str(tmp_path), *short]) == 0
    printed = capfd.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for name in MODELS:
        assert name in printed
        assert name in page
    assert "baseline" in printed
    assert page.count("data:image/") >= 6
    assert len(list((tmp_path / "images" / "attack_on_denoising").glob("*.png"))) == 10
