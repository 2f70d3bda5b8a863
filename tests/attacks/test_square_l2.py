"""Square in an l2 ball against a loop over single pixels, and against the authors' code."""

import itertools
import math

import pyautoattack.square as authors
import pytest
import torch

from featdenoise.attacks.core import assert_in_ball
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.square import Square
from featdenoise.attacks.square_l2 import bump, odd_side
from featdenoise.base.rng import Stream


def naive_hill(height, width):
    """Sum of 1 / k**2 over the rings that hold the pixel, of length 1."""
    hill = [[0.0] * width for _ in range(height)]
    for ring in range(max(height // 2, width // 2) + 1):
        for r in range(height):
            for c in range(width):
                if abs(r - height // 2) <= ring and abs(c - width // 2) <= ring:
                    hill[r][c] += 1 / (ring + 1) ** 2
    length = math.sqrt(sum(v * v for row in hill for v in row))
    return [[v / length for v in row] for row in hill]


def naive_bump(side):
    upper = naive_hill(side // 2, side) if side > 1 else []
    lower = naive_hill(side - side // 2, side)
    both = upper + [[-v for v in row] for row in lower]
    length = math.sqrt(sum(v * v for row in both for v in row))
    return [[v / length for v in row] for row in both]


def window_of(side, top, left):
    """Offsets in a window -> places in a channel."""
    return {(r, k): (top + r, left + k) for r in range(side) for k in range(side)}


def length_of(values):
    return math.sqrt(sum(v * v for v in values))


def at_edge(image, change, epsilon):
    length, x = length_of(change.values()), image.clone()
    for place, value in change.items():
        x[place] = min(max(float(image[place]) + epsilon * value / length, 0), 1)
    return x


def naive_start(image, epsilon, draws):
    channels, height, width = image.shape
    side = min(height, width) // 5 or 1
    rows, columns = height // side, width // side
    change, tile = {}, naive_bump(side)
    for c, i, j in itertools.product(range(channels), range(rows), range(columns)):
        sign = 1 if draws[1 + c, i, j] < 0.5 else -1
        top = (height - rows * side) // 2 + i * side
        left = (width - columns * side) // 2 + j * side
        for (r, k), place in window_of(side, top, left).items():
            change[c, *place] = sign * (tile[r][k] if draws[0, i, j] < 0.5 else tile[k][r])
    return at_edge(image, change, epsilon)


def naive_move(x, image, epsilon, draw, side):
    channels, height, width = image.shape
    tops = [int(draw[k] * (height - side + 1)) for k in (0, 2)]
    lefts = [int(draw[k] * (width - side + 1)) for k in (1, 3)]
    first, second = (window_of(side, *place) for place in zip(tops, lefts, strict=True))
    shape = naive_bump(side)
    places = itertools.product(range(channels), range(height), range(width))
    change = {place: float(x[place] - image[place]) for place in places}
    unused = max(epsilon**2 - length_of(change.values()) ** 2, 0)
    moved = dict(change)
    for c in range(channels):
        held = sum(change[c, *p] ** 2 for p in {*first.values(), *second.values()})
        old = length_of(change[c, *p] for p in first.values())
        new = {}
        for (r, k), p in first.items():
            value = shape[r][k] if draw[4] < 0.5 else shape[k][r]
            new[p] = (value if draw[5 + c] < 0.5 else -value) + change[c, *p] / (old + 1e-12)
        moved |= {(c, *p): 0.0 for p in second.values()}
        scale = math.sqrt(unused / channels + held) / length_of(new.values())
        moved |= {(c, *p): value * scale for p, value in new.items()}
    return at_edge(image, moved, epsilon)


def naive_square(model, image, label, attack, stream):
    """Alg. 3 of Andriushchenko et al. for one image (C, H, W), pixel by pixel."""
    channels, height, width = image.shape
    tiles = min(height, width) // 5 or 1

    def judge(x):
        logits = model(x.unsqueeze(0))[0]
        others = max(float(z) for k, z in enumerate(logits) if k != label)
        return others - float(logits[label]), int(logits.argmax()) != label

    grid = (1 + channels, height // tiles, width // tiles)
    x = naive_start(image, attack.epsilon, stream.uniform("square tiles", grid)[0])
    best, is_reached = judge(x)
    draws = stream.uniform("square l2", (attack.num_queries, 5 + channels))[0].double().tolist()
    query = 0
    while not is_reached and query < attack.num_queries:
        halvings = sum(query > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
        side = max(round(math.sqrt(attack.p_init / 2**halvings * height * width)), 3)
        side = min(side if side % 2 else side + 1, height, width)
        candidate = naive_move(x, image, attack.epsilon, draws[query], side)
        gain, is_reached = judge(candidate)
        if is_reached or gain > best:
            x, best = candidate, gain
        query += 1
    return x, query


def test_it_equals_the_algorithm_for_each_image(tiny_net, images, labels, stream):
    tiny_net, images = tiny_net.double(), images.double()
    attack = Square(epsilon=0.6, num_queries=60, norm="l2")
    adversarial = attack(tiny_net, images, labels, stream=stream)
    assert_in_ball(adversarial, images, 0.6, "l2")
    oracle, queries = GradientOracle(tiny_net), []
    for k in range(len(images)):
        expected, made = naive_square(
            oracle.logits, images[k], int(labels[k]), attack, stream.subset([k])
        )
        torch.testing.assert_close(adversarial[k], expected, rtol=0, atol=1e-9)
        queries.append(made)
    assert max(queries) == 60  # somebody fought to the end


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
def test_a_bump_is_two_hills_of_opposite_sign(side):
    expected = torch.tensor(naive_bump(side), dtype=torch.float64)
    torch.testing.assert_close(bump(side), expected, rtol=0, atol=1e-9)
    assert bump(side).square().sum() == pytest.approx(1)


@pytest.mark.parametrize(("planned", "side"), [(1, 3), (3, 3), (4, 5), (7, 7), (8, 8), (9, 8)])
def test_sides_are_odd_as_far_as_the_image_allows(planned, side):
    assert odd_side(planned, 8, 11) == side


def test_images_of_one_pixel_and_without_length_are_no_trouble(stream, images, labels):
    def constant(x):
        return x.flatten(1)[:, :1] * torch.ones(4)

    small = images[..., :1, :1]
    adversarial = Square(norm="l2", num_queries=5)(constant, small, labels, stream=stream)
    assert adversarial.isfinite().all()
    still = Square(epsilon=0, norm="l2", num_queries=5)(constant, images, labels, stream=stream)
    torch.testing.assert_close(still, images)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_robust_count_is_that_of_the_authors_code(seed, trained):
    model, images, labels = trained[0], trained[1][:128], trained[2][:128]
    counts = []
    with torch.no_grad():
        attack = Square(epsilon=0.5, num_queries=2000, norm="l2")
        peer = authors.SquareAttack(
            model, norm="L2", eps=0.5, n_queries=2000, seed=seed, resc_schedule=False
        )
        stream = Stream(seed=0, image_ids=tuple(range(len(images))))
        ours = attack(model, images, labels, stream=stream)
        for x in (ours, peer.perturb(images, labels), images):
            counts.append(int((model(x).argmax(1) == labels).sum()))
    assert counts[0] <= counts[1] + 2, counts
    assert counts[0] < counts[2] - 10, counts
