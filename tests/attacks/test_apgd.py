"""APGD beside its authors' code, pyautoattack."""

import copy

import pyautoattack.autopgd_base as authors
import pytest
import torch
from torch.nn import functional

from featdenoise.attacks import apgd
from featdenoise.attacks.apgd import APGD, TargetedAPGD, checkpoints
from featdenoise.attacks.core import random_start
from featdenoise.attacks.losses import margin
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.base.rng import Stream

EPSILON = {"linf": 0.1, "l2": 0.6}
AUTHORS_NORM = {"linf": "Linf", "l2": "L2"}
AUTHORS_LOSS = {"cross_entropy": "ce", "dlr": "dlr"}

# The authors' code warns of points without gradient, which dlr has on plateaus (checks.py).
ZERO_GRADIENTS = pytest.mark.filterwarnings("ignore:there are . points with zero gradient:Warning")


COUNT = 128  # images of the slower comparisons


def stream_of(images):
    return Stream(seed=0, image_ids=tuple(range(len(images))))


def loss_of(model, images, classes):
    return float(functional.cross_entropy(model(images), classes).detach())


def robust_count(model, images, labels):
    return int((model(images).argmax(1) == labels).sum())


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(20) == (5, 9, 12, 14, 16, 18, 19, 20)
    # Sec. 3.3 by exact fractions: p + max(p - p_before - 0.03, 0.06), rounded up.
    for num_steps in (1, 7, 33, 1000):
        before, p, expected = 0, 2200, set()
        while p < 10_000:
            expected.add(-(-p * num_steps // 10_000))
            before, p = p, p + max(p - before - 300, 600)
        assert checkpoints(num_steps) == tuple(sorted(expected))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_run_visits_the_points_of_the_authors_code(norm, trained, monkeypatch):
    model, images = copy.deepcopy(trained[0]).double(), trained[1][:COUNT].double()
    labels = trained[2][:COUNT]
    start = random_start(images, EPSILON[norm], norm, stream_of(images))
    peer = authors.APGDAttack(model, norm=AUTHORS_NORM[norm], eps=EPSILON[norm], n_iter=100)
    peer.init_hyperparam(images)
    theirs, _, their_loss, _ = peer.attack_single_run(images, labels, x_init=start)
    ends = []
    ascend = apgd._Ascent.run

    def run(ascent):
        found = ascend(ascent)
        ends.append((ascent.top, ascent.top_gain))
        return found

    monkeypatch.setattr(apgd._Ascent, "run", run)
    APGD(epsilon=EPSILON[norm], norm=norm)(model, images, labels, stream=stream_of(images))
    ((ours, our_loss),) = ends
    # The authors keep step sizes in float32.
    is_same = ((ours - theirs).abs() < 1e-6).flatten(1).all(1)
    # All of them where this was written; a tie in rounding may part one or two.
    assert is_same.sum() >= len(images) - 2
    assert float(our_loss.mean()) == pytest.approx(float(their_loss.mean()), rel=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_cross_entropy_and_count_reached_are_those_of_the_authors_code(norm, trained):
    model, images, labels = trained
    attack = APGD(epsilon=EPSILON[norm], norm=norm)
    ours = attack(model, images, labels, stream=stream_of(images))
    peer = authors.APGDAttack(model, norm=AUTHORS_NORM[norm], eps=EPSILON[norm], seed=0)
    theirs = peer.perturb(images, labels, best_loss=True)
    losses = [loss_of(model, x, labels) for x in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    fooled = peer.perturb(images, labels)
    counts = [robust_count(model, x, labels) for x in (ours, fooled, images)]
    assert abs(counts[0] - counts[1]) <= 2
    assert counts[0] < counts[2]


@ZERO_GRADIENTS
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_robust_count_by_dlr_is_that_of_the_authors_code(norm, trained):
    model, images, labels = trained[0], trained[1][:COUNT], trained[2][:COUNT]
    attack = APGD(epsilon=EPSILON[norm], norm=norm, loss="dlr", restarts=2)
    ours = attack(model, images, labels, stream=stream_of(images))
    peer = authors.APGDAttack(
        model, norm=AUTHORS_NORM[norm], eps=EPSILON[norm], seed=0, loss="dlr", n_restarts=2
    )
    counts = [robust_count(model, x, labels) for x in (ours, peer.perturb(images, labels))]
    assert abs(counts[0] - counts[1]) <= 2


@ZERO_GRADIENTS
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_robust_count_by_targets_is_that_of_the_authors_code(norm, trained):
    model, images, labels = trained[0], trained[1][:COUNT], trained[2][:COUNT]
    attack = TargetedAPGD(epsilon=EPSILON[norm], norm=norm)
    ours = attack(model, images, labels, stream=stream_of(images))
    peer = authors.APGDAttack_targeted(model, norm=AUTHORS_NORM[norm], eps=EPSILON[norm], seed=0)
    counts = [robust_count(model, x, labels) for x in (ours, peer.perturb(images, labels))]
    assert abs(counts[0] - counts[1]) <= 2


@pytest.mark.parametrize("targeted", [False, True])
def test_apgd_climbs_higher_than_pgd_of_as_many_steps(targeted, trained):
    model, images, labels = trained
    common = {"epsilon": 0.1, "num_steps": 50, "targeted": targeted, "target_choice": "next"}
    gains = []
    for attack in (APGD(**common), PGD(step_size=0.025, **common)):
        classes = (labels + 1) % 10 if targeted else labels
        loss = loss_of(model, attack(model, images, labels, stream=stream_of(images)), classes)
        gains.append(-loss if targeted else loss)
    assert gains[0] > gains[1]


def test_result_is_the_best_point_that_was_looked_at(tiny_net, images, labels, stream):
    oracle, looked = GradientOracle(tiny_net), []

    def model(x):
        if x.requires_grad:
            looked.append(x.detach().clone())
        return oracle(x)

    attack = APGD(num_steps=15, loss="margin")
    adversarial = attack(model, images, labels, stream=stream)
    assert len(looked) == 16  # the start and every step
    margins = torch.stack([margin(oracle.logits(x), labels) for x in looked])
    for k, step in enumerate(margins.argmax(0).tolist()):
        assert torch.equal(adversarial[k], looked[step][k])
    assert len(set(margins.argmax(0).tolist())) > 1


def test_point_that_fools_goes_before_a_higher_loss(stream):
    # Beyond x = 0.3 the loss rises further, but the class is the right one again.
    def model(x):
        value = x.flatten(1)[:, :1]
        peak = torch.where((value > 0.15) & (value < 0.3), value + 0.2, value - 0.25)
        return torch.cat([torch.zeros_like(value), peak, value - 0.01 - value.relu()], dim=1)

    images, labels = torch.zeros(5, 1, 1, 1), torch.zeros(5, dtype=torch.int64)
    attack = APGD(epsilon=0.24, num_steps=10)
    adversarial = attack(model, images, labels, stream=stream)
    assert (model(adversarial).argmax(1) != labels).all()


def test_later_runs_attack_only_what_still_stands(trained):
    model, images, labels = trained
    oracle, sizes = GradientOracle(model), []

    def counting(x):
        if x.requires_grad:
            sizes.append(len(x))
        return oracle(x)

    common = {"epsilon": 0.1, "num_steps": 3}  # too few to find everything at once
    once = APGD(**common)(model, images, labels, stream=stream_of(images))
    thrice = APGD(restarts=3, **common)(counting, images, labels, stream=stream_of(images))
    is_fooled = model(once).argmax(1) != labels
    assert torch.equal(thrice[is_fooled], once[is_fooled])
    assert sizes[:4] == [len(images)] * 4
    assert sizes[4:8] == [int((~is_fooled).sum())] * 4
    twice = APGD(restarts=2, **common)(model, images, labels, stream=stream_of(images))
    assert sizes[8] == int((model(twice).argmax(1) == labels).sum())
    assert robust_count(model, thrice, labels) < robust_count(model, once, labels)


def test_targeted_runs_find_more_than_their_first_target(trained):
    model, images, labels = trained
    counts = []
    for num_targets in (1, 3):
        attack = TargetedAPGD(epsilon=0.1, num_steps=20, num_targets=num_targets)
        adversarial = attack(model, images, labels, stream=stream_of(images))
        counts.append(robust_count(model, adversarial, labels))
    assert counts[1] < counts[0] < robust_count(model, images, labels)


@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 16}, r"epsilon must be in \[0, 1\].*write 16/255"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"norm": "l1"}, "norm must be one of linf, l2; got 'l1'"),
    ],
)
def test_bad_settings_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_bad_losses_and_targets_are_refused(tiny_net, images, labels, stream):
    with pytest.raises(ValueError, match="loss must be one of cross_entropy, margin, dlr"):
        APGD(loss="hinge")
    with pytest.raises(ValueError, match="num_targets must be at least 1, got 0"):
        TargetedAPGD(num_targets=0)
    with pytest.raises(ValueError, match=r"9 target classes asked, .* ask for 1 to 3"):
        TargetedAPGD()(tiny_net, images, labels, stream=stream)


def test_gradient_that_is_not_finite_is_an_error(images, labels, stream):
    with pytest.raises(FloatingPointError, match="not finite within 3 steps"):
        APGD(num_steps=3)(lambda x: (x - 1).sqrt().flatten(1)[:, :4], images, labels, stream=stream)
