import math
from typing import get_args

import pytest
import torch

from featdenoise.attacks.losses import LOSSES, Loss


def naive_cross_entropy(row, label):
    return math.log(sum(math.exp(z) for z in row)) - row[label]


def naive_margin(row, label):
    return max(z for k, z in enumerate(row) if k != label) - row[label]


REFERENCES = {"cross_entropy": naive_cross_entropy, "margin": naive_margin}


def test_names_are_the_registry():
    assert set(get_args(Loss)) == set(LOSSES) == set(REFERENCES)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_equals_the_formula(loss):
    logits = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = [
        REFERENCES[loss](row.tolist(), int(label))
        for row, label in zip(logits, labels, strict=True)
    ]
    torch.testing.assert_close(LOSSES[loss](logits, labels), torch.tensor(expected).double())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32),
     (torch.float64, torch.float64)],
)  # fmt: skip
def test_loss_is_computed_in_float32_or_higher(loss, dtype, expected):
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.tensor([0, 1, 2])
    values = LOSSES[loss](logits, labels)
    assert values.dtype == expected
    assert torch.equal(values, LOSSES[loss](logits.to(expected), labels))


def test_margin_is_positive_exactly_for_another_class():
    logits = torch.tensor([[1.0, 3.0, 2.0]] * 3)
    assert (LOSSES["margin"](logits, torch.tensor([0, 1, 2])) > 0).tolist() == [True, False, True]
