"""What is folded into convolutions, what stays as it is, and that neither goes unsaid."""

import logging
import random

import pytest
import torch
from frozen_nets import (
    DependsOnValues,
    PythonNoise,
    Rounding,
    ScaledConvolution,
    StraightThrough,
    evaluated,
    make_net,
    randomise_,
)
from torch import nn

from featdenoise.base.folding import fold_batch_norm
from featdenoise.base.frozen import FrozenTwin


@pytest.fixture
def images():
    return torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def test_untraceable_module_stays_unfolded_and_says_so_once(images, caplog):
    model = make_net(DependsOnValues)
    twin = FrozenTwin(model)
    for _ in range(2):
        logits = twin(images)
    torch.testing.assert_close(logits, evaluated(model, images)[0], rtol=1e-5, atol=1e-5)
    assert twin.num_folded == 1  # the stem, around it
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "DependsOnValues (symbolically traced variables" in record.getMessage()


def test_untraceable_model_is_copied_whole_and_says_so(images, caplog):
    model = randomise_(nn.Sequential(nn.Conv2d(3, 8, 1), DependsOnValues()))
    twin = FrozenTwin(model[1])
    x = model[0](images).detach()
    torch.testing.assert_close(twin(x), evaluated(model[1], x)[0])
    assert twin.num_folded == 0
    assert "DependsOnValues" in caplog.text


def test_subclass_of_a_convolution_is_not_folded(images):
    model = randomise_(nn.Sequential(ScaledConvolution(3, 8, 1), nn.BatchNorm2d(8)))
    twin = FrozenTwin(model)
    assert twin.num_folded == 0
    torch.testing.assert_close(twin(images), evaluated(model, images)[0])


def test_module_whose_trace_lies_is_used_unfolded_and_says_so(images, caplog):
    state = random.getstate()
    random.seed(0)  # from before the trace: what it bakes in must differ from what comes later
    twin = FrozenTwin(make_net(PythonNoise))
    different = [twin(images) for _ in range(2)]
    random.setstate(state)
    assert not torch.equal(*different)
    assert twin.num_folded == 0
    assert "differs from the module" in caplog.text


def test_hooks_are_traced(images):
    model = make_net()
    model.register_forward_hook(lambda module, inputs, logits: logits * 3)
    model.middle.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    twin = FrozenTwin(model)
    assert twin.num_folded == 3
    torch.testing.assert_close(twin(images), evaluated(model, images)[0], rtol=1e-5, atol=1e-5)


def test_folding_leaves_the_given_model_whole(images):
    model = make_net().eval()
    expected = model(images)
    folded, folds = fold_batch_norm(model)
    assert torch.equal(model(images), expected)
    assert len(folds) == 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_custom_gradients_work_again_after_tracing():
    FrozenTwin(make_net(Rounding))
    x = torch.tensor([0.3], requires_grad=True)
    StraightThrough.apply(x).backward()
    assert x.grad == 1
