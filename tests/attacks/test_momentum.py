import copy

import pytest
import torch
import torchattacks
from torch.nn import functional

from featdenoise.attacks.momentum import MIFGSM
from featdenoise.attacks.pgd import iterative_fgsm
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.rng import Stream


def naive_mifgsm(model, image, label, attack):
    """Alg. 1 of Dong et al. for one image; targeted: down the loss of the target."""
    x, g = image.clone(), torch.zeros_like(image)
    for _ in range(attack.num_steps):
        leaf = x.clone().requires_grad_(True)
        loss = functional.cross_entropy(model(leaf), label)
        (gradient,) = torch.autograd.grad(-loss if attack.targeted else loss, leaf)
        g = attack.momentum * g + gradient / gradient.abs().sum()
        x = x + attack.step_size * g.sign()
        x = torch.minimum(torch.maximum(x, image - attack.epsilon), image + attack.epsilon)
        x = x.clamp(0, 1)
    return x


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("momentum", [1.0, 0.7])
def test_mifgsm_equals_the_algorithm_for_each_image(
    targeted, momentum, tiny_net, images, labels, stream
):
    tiny_net, images = tiny_net.double(), images.double()
    attack = MIFGSM(targeted=targeted, momentum=momentum, step_size=3 / 255)
    adversarial = attack(tiny_net, images, labels, stream=stream)
    classes = uniform_targets(labels, 4, stream) if targeted else labels
    reference = copy.deepcopy(tiny_net).eval()
    for k in range(len(images)):
        expected = naive_mifgsm(reference, images[k : k + 1], classes[k : k + 1], attack)
        torch.testing.assert_close(adversarial[k : k + 1], expected, rtol=0, atol=1e-9)


def test_without_momentum_it_is_iterative_fgsm_and_with_it_is_not(tiny_net, images, labels, stream):
    plain = iterative_fgsm(16 / 255, 10)(tiny_net, images, labels, stream=stream)
    without = MIFGSM(momentum=0, step_size=16 / 255 / 10)(tiny_net, images, labels, stream=stream)
    assert torch.equal(without, plain)
    assert not torch.equal(MIFGSM()(tiny_net, images, labels, stream=stream), plain)


def test_each_path_starts_without_momentum(tiny_net, images, labels, stream):
    attack = MIFGSM()
    first = attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(attack(tiny_net, images, labels, stream=stream), first)


def test_image_without_gradient_stays_and_the_others_move(images, labels, stream):
    def model(x):
        logits = x.flatten(1)[:, :4]
        return torch.where(torch.arange(len(x)).reshape(-1, 1) == 2, 0 * logits, logits)

    adversarial = MIFGSM()(model, images, labels, stream=stream)
    assert torch.equal(adversarial[2], images[2])
    assert not torch.equal(adversarial[3], images[3])


def test_gradients_too_small_to_be_summed_keep_their_direction(images, labels, stream):
    def scaled(factor):
        return lambda x: factor * x.flatten(1)[:, :4]

    attack = MIFGSM(loss="margin")
    tiny = attack(scaled(1e-37), images, labels, stream=stream)
    assert torch.equal(tiny, attack(scaled(1.0), images, labels, stream=stream))


@pytest.mark.parametrize("momentum", [-0.1, float("inf"), float("nan")])
def test_bad_momentum_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum must be finite and at least 0"):
        MIFGSM(momentum=momentum)


def test_mifgsm_is_as_strong_as_that_of_torchattacks(trained):
    model, images, labels = trained
    peer = torchattacks.MIFGSM(model, eps=0.1, alpha=0.02, steps=10)
    attack = MIFGSM(epsilon=0.1, step_size=0.02)
    stream = Stream(seed=0, image_ids=tuple(range(len(images))))
    ours, theirs, clean = (
        model(x).detach()
        for x in (attack(model, images, labels, stream=stream), peer(images, labels), images)
    )
    losses = [float(functional.cross_entropy(z, labels)) for z in (ours, theirs, clean)]
    robust = [int((z.argmax(1) == labels).sum()) for z in (ours, theirs, clean)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] > 2 * losses[2]
    assert abs(robust[0] - robust[1]) <= 2
    assert 0 < robust[0] < robust[2]
