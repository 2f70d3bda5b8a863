import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch

from featdenoise.base.rng import generator
from featdenoise.smoothing.noise import Gaussian

# p_lower, radius at sigma 1: PhiInv computed independently.
UNIT_RADII = [
    (0.933254300796991, 1.5004750241206364),
    (0.9113731112960424, 1.3492590388103902),
    (0.9931160484209338, 2.4632626147808114),
    (0.9760361871553114, 1.9780095821411994),
    (0.9993094630025899, 3.1985775147383384),
    (0.9975883080325683, 2.818598300398245),
    (0.9865311593238062, 2.2124196651021895),
    (0.8904097336749064, 1.228710061029985),
    (0.5847476703522463, 0.21405436897289049),
    (0.9999309248330094, 3.8114565633899145),
    (0.8970364962238291, 1.2648446903374322),
    (0.6, 0.2533471031357997),
    (0.75, 0.6744897501960817),
    (0.999, 3.090232306167813),
]


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(("p_lower", "unit_radius"), UNIT_RADII)
def test_radius_has_the_published_value(p_lower, unit_radius, sigma):
    radius = Gaussian(sigma=sigma).radius(p_lower)
    assert radius == pytest.approx(sigma * unit_radius, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
def test_radius_of_a_half_space_is_its_margin(sigma):
    for step in range(1, 70):
        margin = 0.05 * step * sigma
        # 1 - erfc / 2 is the probability of staying on the right side of a plane at this distance.
        p = 1 - math.erfc(margin / sigma / math.sqrt(2)) / 2
        assert Gaussian(sigma=sigma).radius(p) == pytest.approx(margin, abs=1e-9)


def test_radius_agrees_with_another_inverse_normal():
    for p in (0.51, 0.7, 0.99, 0.99999):
        assert Gaussian(sigma=0.5).radius(p) == pytest.approx(0.5 * NormalDist().inv_cdf(p))


def test_radius_is_zero_up_to_one_half_and_grows_from_there():
    noise = Gaussian(sigma=0.25)
    assert [noise.radius(p) for p in (0.0, 0.3, 0.5)] == [0.0, 0.0, 0.0]
    grid = [noise.radius(0.5 + 0.499 * k / 100) for k in range(1, 101)]
    assert grid[0] > 0
    assert all(a < b for a, b in pairwise(grid))


@pytest.mark.parametrize("sigma", [0.12, 1.0])
def test_sample_is_normal_with_deviation_sigma(sigma):
    noise = Gaussian(sigma=sigma).sample((100, 3, 32, 32), 7, "test", 1)
    assert noise.dtype == torch.float32
    # 307,200 draws: five standard errors.
    assert abs(noise.mean()) < 5 * sigma / math.sqrt(noise.numel())
    assert noise.std() == pytest.approx(sigma, rel=5 / math.sqrt(2 * noise.numel()))
    inside = (noise.abs() < sigma).double().mean()
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.005)
    assert noise.abs().max() > 4 * sigma


def test_sample_depends_on_every_part_of_its_key_and_on_nothing_else():
    noise = Gaussian(sigma=0.25)
    first = noise.sample((4, 5), 0, "votes", 3, 0, 8)
    torch.manual_seed(123)
    assert torch.equal(first, noise.sample((4, 5), 0, "votes", 3, 0, 8))
    others = [
        noise.sample((4, 5), 1, "votes", 3, 0, 8),
        noise.sample((4, 5), 0, "other", 3, 0, 8),
        noise.sample((4, 5), 0, "votes", 4, 0, 8),
        noise.sample((4, 5), 0, "votes", 3, 1, 8),
        noise.sample((4, 5), 0, "votes", 3, 0, 9),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_sample_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    Gaussian(sigma=0.25).sample((4,), 0, "votes")
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_keyed_by_more_than_32_bits():
    # These two keys agree in the 32 bits that a generator of torch on the CPU would keep; among
    # the votes of a few hundred images such pairs are the rule.
    one, other = ("votes", 0, 0, 159), ("votes", 52, 0, 641)
    seeds = [int(generator(0, *key).integers(0, 1 << 63)) for key in (one, other)]
    assert seeds[0] % 2**32 == seeds[1] % 2**32
    noise = Gaussian(sigma=0.25)
    assert not torch.equal(noise.sample((4, 5), 0, *one), noise.sample((4, 5), 0, *other))


@pytest.mark.parametrize("sigma", [0.0, -0.25, 64.0, math.nan, math.inf])
def test_sigma_out_of_range_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be in"):
        Gaussian(sigma=sigma)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_radius_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="p_lower"):
        Gaussian(sigma=0.25).radius(p)


@pytest.mark.gpu
def test_sample_is_made_on_the_gpu_and_repeats_there():
    noise = Gaussian(sigma=0.25)
    first = noise.sample((100, 3, 8, 8), 0, "votes", 3, device="cuda")
    assert first.is_cuda
    assert torch.equal(first, noise.sample((100, 3, 8, 8), 0, "votes", 3, device="cuda"))
