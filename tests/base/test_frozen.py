"""None"""

import pytest
import torch
from frozen_nets import (
    MIDDLES,
    BatchStatistics,
    DependsOnValues,
    Residual,
    assert_same_snapshot,
    evaluated,
    make_net,
    response,
    snapshot,
)
from torch import nn

from featdenoise.base.frozen import FrozenTwin, attack_mode


@pytest.fixture
def images():
    return torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("middle", MIDDLES, ids=lambda middle: middle.__name__)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["fp32", "fp64"]
)
def test_twin_equals_the_model_in_evaluation_mode(middle, dtype, tolerance, images):
    model, images = make_net(middle).to(dtype).train(), images.to(dtype)
    twin = FrozenTwin(model)
    logits, gradient = response(twin, images)
    expected_logits, expected_gradient = evaluated(model, images)
    assert twin.num_folded == MIDDLES[middle]
    assert logits.dtype == gradient.dtype == dtype
    torch.testing.assert_close(logits, expected_logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)
    assert expected_gradient.abs().max() > 0


def test_twin_does_not_touch_the_model_nor_the_random_state(images):
    model = make_net().train()
    model.middle.eval()
    model.head.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    before, state = snapshot(model), torch.random.get_rng_state()
    twin = FrozenTwin(model)
    response(twin, images)
    twin.refresh()
    assert_same_snapshot(before, snapshot(model))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("middle", [Residual, BatchStatistics, DependsOnValues, nn.Identity])
def test_twin_follows_the_weights_and_statistics_only_at_refresh(middle, images):
    model = make_net(middle)
    twin = FrozenTwin(model)
    old = twin(images)
    with torch.no_grad():
        model.train()(images)
        for weight in model.parameters():
            weight.mul_(1.3).add_(0.01)
    assert torch.equal(twin(images), old)
    twin.refresh()
    expected, _ = evaluated(model, images)
    torch.testing.assert_close(twin(images), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, old, rtol=1e-3)


def test_refresh_before_the_first_call_counts(images):
    model = make_net()
    twin = FrozenTwin(model)
    with torch.no_grad():
        model.stem[0].weight.mul_(2)
    twin.refresh()
    torch.testing.assert_close(twin(images), evaluated(model, images)[0], rtol=1e-5, atol=1e-5)


def test_refreshed_twin_equals_a_new_one_bit_for_bit(images):
    model = make_net()
    twin = FrozenTwin(model)
    twin(images)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    twin.refresh()
    assert torch.equal(twin(images), FrozenTwin(model)(images))


def test_refresh_of_a_rebuilt_model_is_an_error(images):
    model = make_net()
    twin = FrozenTwin(model)
    model.head = nn.Linear(8, 6)
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        twin.refresh()


def test_twin_takes_batches_and_images_of_other_sizes(images):
    model = make_net()
    twin = FrozenTwin(model)
    for batch in (images[:0], images, images[:1], torch.cat([images] * 3)[..., :4, :]):
        torch.testing.assert_close(twin(batch), evaluated(model, batch)[0], rtol=1e-5, atol=1e-5)


def test_module_that_cannot_be_copied_is_used_in_evaluation_mode(images, caplog):
    model = make_net().train()
    model.handle = (character for character in "generators cannot be copied")
    before = snapshot(model)
    twin = FrozenTwin(model)
    logits, gradient = response(twin, images)
    twin.refresh()
    assert_same_snapshot(before, snapshot(model))
    assert "cannot be copied" in caplog.text
    del model.handle
    expected_logits, expected_gradient = evaluated(model, images)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("middle", [Residual, DependsOnValues])
def test_bf16_twin_is_near_and_keeps_the_image_dtype(middle, images):
    model = make_net(middle)
    twin = FrozenTwin(model, precision="bf16")
    logits, gradient = response(twin, images)
    expected_logits, expected_gradient = evaluated(model, images)
    assert logits.dtype == gradient.dtype == torch.float32
    assert not torch.equal(logits, expected_logits)
    torch.testing.assert_close(logits, expected_logits, rtol=0.05, atol=0.05)
    assert (gradient - expected_gradient).norm() < 0.1 * expected_gradient.norm()
    with torch.no_grad():
        model.stem[0].weight.mul_(2)
        if middle is Residual:
            model.middle.scale.mul_(3)
    twin.refresh()
    refreshed = twin(images)
    assert torch.equal(refreshed, FrozenTwin(model, precision="bf16")(images))
    torch.testing.assert_close(refreshed, evaluated(model, images)[0], rtol=0.05, atol=0.1)


def test_channels_last_can_be_turned_off(images):
    model = make_net()
    weights = [
        fold.folded.weight for twin in (FrozenTwin(model), FrozenTwin(model, channels_last=False))
        for fold in twin._folds
    ]  # fmt: skip
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[3].is_contiguous()
    plain = FrozenTwin(model, channels_last=False)
    torch.testing.assert_close(plain(images), FrozenTwin(model)(images), rtol=1e-5, atol=1e-5)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of"):
        FrozenTwin(make_net(), precision="fp8")


def test_attack_mode_restores_everything_also_after_an_error(images):
    model = make_net().train()
    model.middle.eval()
    model.head.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    before = snapshot(model)

    def attack_that_fails():
        with attack_mode(model):
            assert not any(module.training for module in model.modules())
            assert not any(weight.requires_grad for weight in model.parameters())
            model(images)
            model.stem[0].weight.grad = None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attack_that_fails()
    assert_same_snapshot(before, snapshot(model))
