import math

import pytest
import torch

from featdenoise.attacks.core import (
    assert_in_ball,
    check_batch,
    project_l2,
    project_linf,
    random_start_l2,
    random_start_linf,
    steepest_l2,
    steepest_linf,
)
from featdenoise.base.rng import Stream


def noise(images, seed=0, scale=1.0):
    return scale * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def lengths(change):
    return change.double().flatten(1).norm(dim=1)


def test_linf_projection_equals_a_loop_over_pixels(images):
    far = images + noise(images)
    projected = project_linf(far, images, 0.1)
    for x, clean, result in zip(
        far.flatten().tolist(), images.flatten().tolist(), projected.flatten().tolist(), strict=True
    ):
        nearest = min(max(x, clean - 0.1, 0.0), clean + 0.1, 1.0)
        assert result == pytest.approx(nearest, abs=1e-7)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.7])
def test_l2_projection_equals_the_formula_for_each_image(images, epsilon):
    far = images + noise(images)
    projected = project_l2(far, images, epsilon)
    for x, clean, result in zip(far.double(), images.double(), projected.double(), strict=True):
        length = math.sqrt(float(((x - clean) ** 2).sum()))
        expected = clean + (x - clean) * min(1.0, epsilon / length)
        torch.testing.assert_close(result, expected.clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("project", "epsilon"), [(project_linf, 0.1), (project_l2, 1.5)])
def test_projection_is_idempotent_and_keeps_what_is_inside(project, epsilon, images):
    once = project(images + noise(images), images, epsilon)
    torch.testing.assert_close(project(once, images, epsilon), once, rtol=0, atol=1e-6)
    inside = project(images + noise(images, scale=1e-3), images, epsilon)
    assert torch.equal(inside, (images + noise(images, scale=1e-3)).clamp(0, 1))
    assert torch.equal(project(images, images, epsilon), images)


def test_projection_refuses_other_shapes_and_bad_radii(images):
    with pytest.raises(ValueError, match="shape"):
        project_linf(images[:2], images, 0.1)
    with pytest.raises(ValueError, match="write 16/255"):
        project_linf(images, images, 16)
    with pytest.raises(ValueError, match="epsilon must be finite"):
        project_l2(images, images, -1)
    assert project_l2(images, images, 16).shape == images.shape


def test_steepest_directions_have_length_one_and_zero_stays_zero(images):
    gradient = noise(images)
    gradient[1] = 0
    assert torch.equal(steepest_linf(gradient)[0], gradient[0].sign())
    direction = steepest_l2(gradient)
    torch.testing.assert_close(direction[0], gradient[0] / gradient[0].norm())
    assert (steepest_linf(gradient)[1] == 0).all()
    assert (direction[1] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e30])
def test_l2_direction_survives_tiny_and_huge_gradients(images, scale):
    direction = steepest_l2((noise(images).double() * scale).float())
    torch.testing.assert_close(lengths(direction), torch.ones(len(images)).double())


def test_linf_start_is_uniform_in_each_pixel():
    grey = torch.full((1, 3, 64, 64), 0.5)
    start = random_start_linf(grey, 0.2, Stream(seed=0, image_ids=(3,)))
    change = (start - grey).flatten().sort().values
    ideal = torch.linspace(-0.2, 0.2, len(change))
    assert (change - ideal).abs().max() < 0.01  # 1.63 / sqrt(12288) * 0.4: 1% Kolmogorov-Smirnov


def test_l2_start_is_uniform_in_volume():
    grey = torch.full((2000, 1, 1, 3), 0.5)
    start = random_start_l2(grey, 0.4, Stream(seed=0, image_ids=tuple(range(2000))))
    share_of_volume = ((lengths(start - grey) / 0.4) ** 3).sort().values
    ideal = torch.linspace(0, 1, 2000).double()
    assert (share_of_volume - ideal).abs().max() < 1.63 / math.sqrt(2000)
    assert ((start - grey).mean(0).abs() < 0.02).all()


@pytest.mark.parametrize(
    ("start", "norm", "epsilon"),
    [(random_start_linf, "linf", 0.3), (random_start_l2, "l2", 2.0)],
)
def test_start_is_an_image_in_the_ball_and_belongs_to_its_image(
    start, norm, epsilon, images, stream
):
    together = start(images, epsilon, stream)
    assert_in_ball(together, images, epsilon, norm)
    alone = start(images[2:3], epsilon, stream.subset([2]))
    assert torch.equal(alone, together[2:3])
    assert not torch.equal(start(images, epsilon, stream, draw=1), together)
    assert start(images.double(), epsilon, stream).dtype == torch.float64


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_assert_in_ball_names_how_far_outside(norm, images):
    grey = torch.full_like(images, 0.5)
    moved = grey.clone()
    moved[1, 0, 0, 0] += 0.11
    with pytest.raises(RuntimeError, match=r"1 of 5 .* outside the .* ball: .* 0\.01 beyond"):
        assert_in_ball(moved, grey, 0.1, norm)
    assert_in_ball(moved, grey, 0.11, norm)
    too_bright = grey.clone()
    too_bright[3:] = 1.25
    with pytest.raises(RuntimeError, match=r"2 of 5 .* leave \[0, 1\], the worst by 0\.25"):
        assert_in_ball(too_bright, grey, 1.0, norm)
    moved[4, 1, 0, 0] = float("nan")
    with pytest.raises(RuntimeError, match=r"1 of 5 .* not finite"):
        assert_in_ball(moved, grey, 1.0, norm)
    with pytest.raises(RuntimeError, match="shape"):
        assert_in_ball(moved[:1], grey, 1.0, norm)


@pytest.mark.parametrize(("project", "norm", "epsilon"), [(project_linf, "linf", 16 / 255),
                                                          (project_l2, "l2", 3.0)])  # fmt: skip
def test_rounding_on_large_images_stays_within_the_tolerance(project, norm, epsilon):
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    adversarial = project(images + noise(images, scale=0.1), images, epsilon)
    assert_in_ball(adversarial, images, epsilon, norm)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda x, y: ((255 * x).to(torch.uint8), y), "divide uint8 pixels by 255"),
        (lambda x, y: (2 * x - 1, y), r"in \[0, 1\]"),
        (lambda x, y: (x / 0, y), r"in \[0, 1\]"),
        (lambda x, y: (x[0], y), r"\(N, C, H, W\)"),
        (lambda x, y: (x.half(), y), "float32 or float64"),
        (lambda x, y: (x, y.int()), "labels must be int64"),
        (lambda x, y: (x, y[:3]), r"shape \(5,\)"),
        (lambda x, y: (x, torch.eye(5)), "labels must be int64"),
    ],
)
def test_batch_check_names_what_is_wrong(break_it, message, images, labels):
    with pytest.raises(ValueError, match=message):
        check_batch(*break_it(images, labels))
