import math

import pyautoattack.square as authors
import pytest
import torch
from torch.nn import functional

from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.square import Square
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.rng import Stream


def stream_of(images):
    return Stream(seed=0, image_ids=tuple(range(len(images))))


def naive_square(model, image, label, attack, stream):
    """Alg. 1 and 2 of Andriushchenko et al. for one image (C, H, W), with the stream's draws."""
    channels, height, width = image.shape
    sign = -1 if attack.targeted else 1

    def judge(x):
        logits = model(x.unsqueeze(0))[0]
        others = max(float(z) for k, z in enumerate(logits) if k != label)
        is_hit = int(logits.argmax()) == label
        return sign * (others - float(logits[label])), is_hit == attack.targeted

    x, stripes = image.clone(), stream.uniform("square stripes", (channels, 1, width))[0]
    for c in range(channels):
        for column in range(width):
            x[c, :, column] += attack.epsilon if stripes[c, 0, column] < 0.5 else -attack.epsilon
    x = x.clamp(0, 1)
    best, is_reached = judge(x)
    draws = stream.uniform("square", (attack.num_queries, 2 + channels))[0].double()
    queries = 0
    while not is_reached and queries < attack.num_queries:
        share = attack.p_init
        for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
            share = share / 2 if queries > bound else share
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top = int(draws[queries, 0] * (height - side + 1))
        left = int(draws[queries, 1] * (width - side + 1))
        candidate = x.clone()
        for c in range(channels):
            move = attack.epsilon if draws[queries, 2 + c] < 0.5 else -attack.epsilon
            window = (c, slice(top, top + side), slice(left, left + side))
            candidate[window] = (image[window] + move).clamp(0, 1)
        gain, is_reached = judge(candidate)
        if is_reached or gain > best:
            x, best = candidate, gain
        queries += 1
    return x, queries


@pytest.mark.parametrize("targeted", [False, True])
def test_square_equals_the_algorithm_for_each_image(targeted, tiny_net, images, labels, stream):
    tiny_net, images = tiny_net.double(), images.double()
    attack = Square(num_queries=120, targeted=targeted)
    adversarial = attack(tiny_net, images, labels, stream=stream)
    classes = uniform_targets(labels, 4, stream) if targeted else labels
    oracle, queries = GradientOracle(tiny_net), []
    for k in range(len(images)):
        expected, made = naive_square(
            oracle.logits, images[k], int(classes[k]), attack, stream.subset([k])
        )
        torch.testing.assert_close(adversarial[k], expected, rtol=0, atol=1e-12)
        queries.append(made)
    assert max(queries) == 120  # somebody fought to the end


@pytest.mark.parametrize(
    ("query", "side"), [(0, 7), (10, 7), (11, 5), (51, 4), (201, 3), (501, 2), (2001, 1)]
)
def test_squares_shrink_as_planned(query, side):
    assert Square().side(query, 8, 8) == side
    assert (
        Square(num_queries=1000, rescale_schedule=True).side(query // 10, 8, 8)
        == (
            # 0, 1, 1, 5, 20, 50 and 200 of 1000 are 0, 10, 10, 50, 200, 500 and 2000 of 10000
            {0: 7, 10: 7, 11: 7, 51: 5, 201: 4, 501: 3, 2001: 1}[query]
        )
    )
    assert Square(p_init=1).side(0, 4, 9) == 4


def test_network_without_gradient_is_fooled(trained):
    model, images, labels = trained

    @torch.no_grad()
    def model_without_gradient(x):
        return model((x * 255).round() / 255)

    attack = Square(epsilon=0.1, num_queries=100)
    adversarial = attack(model_without_gradient, images, labels, stream=stream_of(images))
    before, after = (
        int((model_without_gradient(x).argmax(1) == labels).sum()) for x in (images, adversarial)
    )
    assert after < before - 10


def test_fooled_images_ask_no_more_queries(trained):
    model, images, labels = trained
    sizes = []

    def counting(x):
        sizes.append(len(x))
        return model(x)

    attack = Square(epsilon=0.1, num_queries=60)
    adversarial = attack(counting, images, labels, stream=stream_of(images))
    assert len(sizes) == 1 + 1 + 60  # the number of classes, the stripes, the queries
    assert sizes[:2] == [len(images)] * 2
    assert sizes[2:] == sorted(sizes[2:], reverse=True)
    assert sizes[-1] < sizes[2] < len(images)
    with torch.no_grad():
        robust = int((model(adversarial).argmax(1) == labels).sum())
    assert robust <= sizes[-1]


def test_more_queries_go_on_from_fewer(tiny_net, images, labels, stream):
    oracle, seen = GradientOracle(tiny_net), []

    def watching(x):
        seen.append(x.clone())
        return oracle.logits(x)

    Square(num_queries=30)(watching, images, labels, stream=stream)
    short, seen = seen, []
    Square(num_queries=50)(watching, images, labels, stream=stream)
    assert len(seen) == len(short) + 20
    assert all(torch.equal(a, b) for a, b in zip(short, seen[: len(short)], strict=True))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_robust_count_is_that_of_the_authors_code(seed, trained):
    # A border that the network does not see: the authors never draw the last place of a square.
    model, images, labels = trained[0], trained[1][:128], trained[2][:128]
    images = functional.pad(images, (0, 1, 0, 1))

    def network(x):
        return model(x[:, :, :8, :8])

    counts = []
    with torch.no_grad():
        attack = Square(epsilon=0.1, num_queries=2000)
        peer = authors.SquareAttack(
            network, eps=0.1, n_queries=2000, seed=seed, resc_schedule=False
        )
        ours = attack(network, images, labels, stream=stream_of(images))
        for x in (ours, peer.perturb(images, labels), images):
            counts.append(int((network(x).argmax(1) == labels).sum()))
    assert abs(counts[0] - counts[1]) <= 2
    assert counts[0] < counts[2] - 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 16}, r"epsilon must be in \[0, 1\].*write 16/255"),
        ({"num_queries": -1}, "num_queries must be at least 0, got -1"),
        ({"p_init": 0}, r"p_init must be in \(0, 1\], got 0"),
        ({"p_init": 1.5}, r"p_init must be in \(0, 1\], got 1.5"),
        ({"loss": "hinge"}, "loss must be one of cross_entropy, margin, dlr; got 'hinge'"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Square(**fields)
