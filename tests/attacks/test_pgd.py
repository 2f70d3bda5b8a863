import copy

import pytest
import torch
from torch.nn import functional

from featdenoise.attacks.core import random_start_l2, random_start_linf
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD, fgsm, iterative_fgsm, paper_step_size
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.frozen import FrozenTwin


def naive_pgd(model, images, classes, attack, start):
    """Ten lines, cross-entropy, l-inf or l2."""
    x = start.clone()
    for _ in range(attack.num_steps):
        x.requires_grad_(True)
        loss = functional.cross_entropy(model(x), classes, reduction="sum")
        (g,) = torch.autograd.grad(-loss if attack.targeted else loss, x)
        if attack.norm == "linf":
            x = x.detach() + attack.step_size * g.sign()
            x = images + (x - images).clamp(-attack.epsilon, attack.epsilon)
        else:
            x = x.detach() + attack.step_size * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            d = x - images
            x = images + d * (attack.epsilon / d.flatten(1).norm(dim=1)).clamp(max=1).view(
                -1, 1, 1, 1
            )
        x = x.clamp(0, 1)
    return x


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("start_clean", [False, True])
def test_pgd_equals_ten_naive_lines(norm, targeted, start_clean, tiny_net, images, labels, stream):
    tiny_net, images = tiny_net.double(), images.double()
    epsilon, step_size = (16 / 255, 4 / 255) if norm == "linf" else (0.8, 0.2)
    attack = PGD(epsilon=epsilon, step_size=step_size, num_steps=7, norm=norm, targeted=targeted)
    adversarial = attack(tiny_net, images, labels, stream=stream, start_clean=start_clean)
    random_start = random_start_linf if norm == "linf" else random_start_l2
    start = images if start_clean else random_start(images, epsilon, stream)
    classes = uniform_targets(labels, 4, stream) if targeted else labels
    expected = naive_pgd(copy.deepcopy(tiny_net).eval(), images, classes, attack, start)
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-9)
    assert (adversarial - images).abs().max() > 0.9 * step_size * (1 if norm == "linf" else 0.1)


def test_fgsm_is_the_formula(tiny_net, images, labels, stream):
    leaf = images.clone().requires_grad_(True)
    functional.cross_entropy(FrozenTwin(tiny_net)(leaf), labels).backward()
    expected = (images + 8 / 255 * leaf.grad.sign()).clamp(0, 1)
    adversarial = fgsm(8 / 255)(tiny_net, images, labels, stream=stream)
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-7)
    assert fgsm(8 / 255, targeted=True).targeted


def test_iterative_fgsm_is_the_formula(tiny_net, images, labels, stream):
    twin, x = FrozenTwin(tiny_net), images
    for _ in range(4):
        leaf = x.clone().requires_grad_(True)
        functional.cross_entropy(twin(leaf), labels).backward()
        x = (x + 2 / 255 * leaf.grad.sign()).clamp(0, 1)  # four steps of 2 cannot leave the ball
    adversarial = iterative_fgsm(8 / 255, 4)(tiny_net, images, labels, stream=stream)
    torch.testing.assert_close(adversarial, x, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        iterative_fgsm(8 / 255, 0)


def test_paper_step_size_is_the_larger_of_step_and_share():
    assert paper_step_size(16 / 255, 10) == pytest.approx(1.6 / 255)
    assert paper_step_size(16 / 255, 100) == 1 / 255
    assert paper_step_size(16 / 255, 4, step_size=8 / 255) == 8 / 255
    assert paper_step_size(16 / 255, 0) == 1 / 255


@pytest.mark.parametrize("targeted", [False, True])
def test_one_trajectory_equals_separate_runs(targeted, tiny_net, images, labels, stream):
    attack = PGD(targeted=targeted)
    recorded = attack.trajectory(tiny_net, images, labels, record_at=(50, 10, 20), stream=stream)
    assert list(recorded) == [10, 20, 50]
    for num_steps, adversarial in recorded.items():
        alone = PGD(targeted=targeted, num_steps=num_steps)
        assert torch.equal(adversarial, alone(tiny_net, images, labels, stream=stream))
    assert not torch.equal(recorded[10], recorded[50])


def test_trajectory_with_restarts_equals_separate_runs(tiny_net, images, labels, stream):
    attack = PGD(restarts=3, epsilon=3 / 255)
    recorded = attack.trajectory(tiny_net, images, labels, record_at=(0, 2, 6), stream=stream)
    for num_steps, adversarial in recorded.items():
        alone = PGD(restarts=3, epsilon=3 / 255, num_steps=num_steps)
        assert torch.equal(adversarial, alone(tiny_net, images, labels, stream=stream))


def test_trajectory_costs_its_largest_budget(images, labels, stream):
    calls = []

    def model(x):
        calls.append(x.requires_grad)
        return x.flatten(1)[:, :4]

    PGD().trajectory(model, images, labels, record_at=(3, 5, 9), stream=stream)
    assert sum(calls) == 9


@pytest.mark.parametrize("record_at", [(), (3, 3), (-1, 4)])
def test_bad_budgets_are_refused(record_at, tiny_net, images, labels, stream):
    with pytest.raises(ValueError, match="record_at must hold distinct numbers"):
        PGD().trajectory(tiny_net, images, labels, record_at=record_at, stream=stream)


def test_no_steps_from_a_clean_start_return_the_input(tiny_net, images, labels, stream):
    attack = PGD(num_steps=0, random_start=False)
    adversarial = attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(adversarial, images)
    assert adversarial.data_ptr() != images.data_ptr()
    start = PGD(num_steps=0)(tiny_net, images, labels, stream=stream)
    assert torch.equal(start, random_start_linf(images, 16 / 255, stream))


def test_clean_start_is_the_callers_or_drawn_for_each_image(tiny_net, stream):
    count = 400
    images, labels = torch.full((count, 2, 4, 4), 0.5), torch.zeros(count, dtype=torch.int64)
    many = type(stream)(seed=1, image_ids=tuple(range(count)))
    attack = PGD(num_steps=0, clean_start_probability=0.2)

    def is_clean(attack, **start):
        adversarial = attack(tiny_net, images, labels, stream=many, **start)
        return (adversarial == images).flatten(1).all(1)

    assert 50 < is_clean(attack).sum() < 110  # 80 expected, standard deviation 8
    assert is_clean(attack, start_clean=True).all()
    assert not is_clean(attack, start_clean=False).any()
    assert not is_clean(PGD(num_steps=0)).any()
    assert is_clean(PGD(num_steps=0, clean_start_probability=1)).all()
    assert is_clean(PGD(num_steps=0, random_start=False), start_clean=False).all()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_restarts_keep_the_first_success_else_the_strongest_loss(
    targeted, loss, tiny_net, images, labels, stream
):
    # Starts without steps: the candidates can be made by hand.
    oracle = GradientOracle(tiny_net)
    goal = uniform_targets(labels, 4, stream) if targeted else labels
    starts = [random_start_linf(images, 1.0, stream, draw=draw) for draw in range(4)]
    attack = PGD(
        epsilon=1.0, num_steps=0, restarts=4, targeted=targeted, loss=loss,
    )  # fmt: skip
    kept = attack(oracle, images, labels, stream=stream)
    chosen = []
    for i in range(len(images)):
        logits = [oracle.logits(start)[i] for start in starts]
        hits = [int(z.argmax()) == int(goal[i]) for z in logits]
        successes = [k for k in range(4) if hits[k] == targeted]
        losses = [
            float(functional.cross_entropy(z, goal[i]))
            if loss == "cross_entropy"
            else float(max(z[k] for k in range(4) if k != goal[i]) - z[goal[i]])
            for z in logits
        ]
        strongest = losses.index(min(losses) if targeted else max(losses))
        chosen.append(successes[0] if successes else strongest)
        assert torch.equal(kept[i], starts[chosen[-1]][i])
    assert set(chosen) > {0}


def test_given_targets_are_used(tiny_net, images, labels, stream):
    attack = PGD(targeted=True, num_steps=3)
    drawn = uniform_targets(labels, 4, stream)
    expected = attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(attack(tiny_net, images, labels, stream=stream, targets=drawn), expected)
    other = (drawn + 1) % 4
    other = torch.where(other == labels, (other + 1) % 4, other)
    result = attack(tiny_net, images, labels, stream=stream, targets=other)
    assert not torch.equal(result, expected)


def test_module_and_oracle_give_the_same_bits(tiny_net, images, labels, stream):
    oracle = GradientOracle(tiny_net)
    for _ in range(2):
        assert torch.equal(
            PGD()(oracle, images, labels, stream=stream),
            PGD()(tiny_net, images, labels, stream=stream),
        )


def test_empty_batch_stays_empty(tiny_net, images, labels, stream):
    adversarial = PGD()(tiny_net, images[:0], labels[:0], stream=stream.subset([]))
    assert adversarial.shape == (0, 2, 7, 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 16}, r"epsilon must be in \[0, 1\], got 16; .*write 16/255"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"step_size": 2}, "step_size .*write 2/255"),
        ({"epsilon": -0.1, "norm": "l2"}, "epsilon must be finite and at least 0"),
        ({"num_steps": -1}, "num_steps must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"clean_start_probability": 1.5}, "clean_start_probability"),
        ({"norm": "l1"}, "norm must be one of linf, l2; got 'l1'"),
        ({"loss": "hinge"}, "loss must be one of cross_entropy, margin, dlr; got 'hinge'"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PGD(**fields)


def test_l2_radius_may_exceed_one():
    assert PGD(epsilon=3, step_size=2, norm="l2").epsilon == 3


@pytest.mark.parametrize(
    ("attack", "replace", "message"),
    [
        (PGD(), {"labels": torch.tensor([0, 1, 2, 3, 4])}, r"labels must be in \[0, 3\].* got 4"),
        (PGD(), {"labels": torch.tensor([0, 1, 2, 3, -1])}, "got -1"),
        (PGD(), {"images": torch.full((5, 2, 7, 6), 1.5)}, r"images must be in \[0, 1\]"),
        (PGD(), {"targets": torch.zeros(5, dtype=torch.int64)}, "targeted=True"),
        (PGD(targeted=True), {"targets": torch.full((5,), 4)}, "targets must be in"),
        (
            PGD(targeted=True),
            {"targets": torch.zeros(2, dtype=torch.int64)},
            "targets must be int64",
        ),
        (PGD(targeted=True), {"targets": torch.tensor([1, 3, 2, 1, 1])}, "wrong classes"),
    ],
)
def test_bad_batches_are_refused(attack, replace, message, tiny_net, images, labels, stream):
    arguments = {"images": images, "labels": labels, "stream": stream} | replace
    with pytest.raises(ValueError, match=message):
        attack(tiny_net, **arguments)


def test_stream_of_another_batch_is_refused(tiny_net, images, labels, stream):
    with pytest.raises(ValueError, match="stream has 2 image ids, the batch 5"):
        PGD()(tiny_net, images, labels, stream=stream.subset([0, 1]))


def test_gradient_that_is_not_finite_is_an_error(images, labels, stream):
    with pytest.raises(FloatingPointError, match="not finite within 3 steps"):
        PGD(num_steps=3)(lambda x: (x - 1).sqrt().flatten(1)[:, :4], images, labels, stream=stream)
