"""The images and the sweep that the tests of white-box evaluation share."""

import pytest
import torch
from whitebox_cases import EPSILON, Source

from featdenoise.attacks.pgd import PGD
from featdenoise.evaluation.entries import Entry


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
