import copy

import pytest
import torch
from torch.nn import functional

from featdenoise.attacks.losses import LOSSES
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.base.frozen import FrozenTwin


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_that_of_the_model_in_evaluation_mode(loss, dtype, tiny_net, images, labels):
    tiny_net, images = tiny_net.to(dtype), images.to(dtype)
    losses, gradient = GradientOracle(tiny_net).loss_and_gradient(images, labels, loss)
    reference, leaf = copy.deepcopy(tiny_net).eval(), images.clone().requires_grad_(True)
    expected = LOSSES[loss](reference(leaf), labels)
    expected.sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(losses, expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, leaf.grad, rtol=tolerance, atol=tolerance)
    assert gradient.dtype == dtype
    assert gradient.abs().max() > 0


def test_gradient_agrees_with_finite_differences(tiny_net, images, labels):
    tiny_net, images = tiny_net.double(), images.double()
    oracle = GradientOracle(tiny_net)
    _, gradient = oracle.loss_and_gradient(images, labels)
    step = torch.zeros_like(images)
    step[2, 1, 3, 3] = 1e-6
    above, below = (
        functional.cross_entropy(oracle.logits(images + sign * step), labels, reduction="sum")
        for sign in (1, -1)
    )
    assert float(gradient[2, 1, 3, 3]) == pytest.approx(float(above - below) / 2e-6, rel=1e-5)


def test_oracle_works_where_gradients_are_switched_off(tiny_net, images, labels):
    oracle = GradientOracle(tiny_net)
    with torch.no_grad():
        _, gradient = oracle.loss_and_gradient(images, labels)
    assert torch.equal(gradient, oracle.loss_and_gradient(images, labels)[1])
    assert not oracle.logits(images.requires_grad_(True)).requires_grad
    assert images.grad is None


def test_plain_callable_is_used_as_it_is(images, labels):
    def model(x):
        return torch.stack([x.sum((1, 2, 3)), *[x[:, 0, 0, 0] * k for k in range(3)]], dim=1)

    oracle = GradientOracle(model)
    torch.testing.assert_close(oracle.logits(images), model(images))
    assert oracle.loss_and_gradient(images, labels)[1].shape == images.shape
    oracle.refresh()
    with pytest.raises(ValueError, match=r"nn\.Module"):
        GradientOracle(model, precision="bf16")


def test_oracle_follows_the_weights_at_refresh(tiny_net, images, labels):
    oracle = GradientOracle(tiny_net)
    old = oracle.logits(images)
    with torch.no_grad():
        tiny_net.head.bias.add_(1.5)
    assert torch.equal(oracle.logits(images), old)
    oracle.refresh()
    torch.testing.assert_close(oracle.logits(images), old + 1.5)


def test_of_keeps_an_oracle_and_wraps_the_rest(tiny_net, images):
    oracle = GradientOracle(tiny_net)
    assert GradientOracle.of(oracle) is oracle
    wrapped = GradientOracle.of(FrozenTwin(tiny_net))
    assert torch.equal(wrapped.logits(images), oracle.logits(images))
    assert GradientOracle.of(tiny_net).num_classes(images) == 4


def test_bf16_oracle_gives_float32_losses_and_gradients(tiny_net, images, labels):
    losses, gradient = GradientOracle(tiny_net, precision="bf16").loss_and_gradient(images, labels)
    expected_losses, expected = GradientOracle(tiny_net).loss_and_gradient(images, labels)
    assert losses.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(losses, expected_losses, rtol=0.05, atol=0.02)
    assert 0 < (gradient - expected).norm() < 0.2 * expected.norm()


def test_model_without_gradient_is_refused(images, labels):
    with pytest.raises(RuntimeError, match="carry no gradient"):
        GradientOracle(lambda x: x.detach().flatten(1)[:, :4]).loss_and_gradient(images, labels)


def test_model_without_logits_is_refused(images):
    with pytest.raises(ValueError, match=r"\(5, K\) logits for 5 images, got shape \(5, 2, 7, 6\)"):
        GradientOracle(lambda x: x).num_classes(images)
