import math
from typing import get_args

import pytest
import torch

from featdenoise.attacks.losses import LOSSES, Loss, dlr, dlr_targeted


def naive_cross_entropy(row, label):
    return math.log(sum(math.exp(z) for z in row)) - row[label]


def naive_margin(row, label):
    return max(z for k, z in enumerate(row) if k != label) - row[label]


def naive_dlr(row, label):
    falling = sorted(row, reverse=True)
    other = falling[1] if row[label] == falling[0] else falling[0]
    return -(row[label] - other) / (falling[0] - falling[2])


REFERENCES = {"cross_entropy": naive_cross_entropy, "margin": naive_margin, "dlr": naive_dlr}


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


def test_targeted_dlr_equals_the_formula():
    logits = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    labels, targets = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 0, 4, 2, 1, 3])
    expected = []
    for row, label, target in zip(logits.tolist(), labels, targets, strict=True):
        z = sorted(row, reverse=True)
        expected.append((row[target] - row[label]) / (z[0] - (z[2] + z[3]) / 2))
    torch.testing.assert_close(
        dlr_targeted(logits, labels, targets), torch.tensor(expected).double()
    )


def test_dlr_losses_see_neither_scale_nor_shift_of_the_logits():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    labels, targets = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 0, 4, 2, 1, 3])
    moved = 1000 * logits - 7
    torch.testing.assert_close(dlr(moved, labels), dlr(logits, labels))
    torch.testing.assert_close(
        dlr_targeted(moved, labels, targets), dlr_targeted(logits, labels, targets)
    )


def test_dlr_losses_of_equal_logits_are_finite():
    logits, labels = torch.zeros(2, 5, requires_grad=True), torch.tensor([0, 1])
    for losses in (dlr(logits, labels), dlr_targeted(logits, labels, labels + 1)):
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert losses.isfinite().all()
        assert gradient.isfinite().all()


def test_dlr_losses_of_too_few_classes_are_refused():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="dlr needs at least 3 classes, got 2"):
        dlr(torch.zeros(2, 2), labels)
    with pytest.raises(ValueError, match="dlr_targeted needs at least 4 classes, got 3"):
        dlr_targeted(torch.zeros(2, 3), labels, labels + 1)
