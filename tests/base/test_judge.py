import pytest
import torch
from torch import nn

from featdenoise.base.judge import judge

NAMES = [f"image {i}" for i in range(6)]


def test_verdict_is_that_of_the_model_in_evaluation_mode(tiny_model, batch):
    images, _ = batch
    expected = tiny_model.eval()(images)
    tiny_model.train()
    logits = judge(tiny_model, images, NAMES)
    assert torch.equal(logits, expected)
    assert not logits.requires_grad
    assert tiny_model.training


def test_autocast_of_the_caller_does_not_decide(tiny_model, batch):
    images, _ = batch
    expected = judge(tiny_model, images, NAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(tiny_model.eval()(images).float(), expected)
        assert torch.equal(judge(tiny_model, images, NAMES), expected)


def test_padding_gets_no_verdict_and_may_be_anything(batch):
    images, _ = batch
    logits = images.flatten(1)[:, :4].clone()
    logits[4:] = torch.nan
    assert torch.equal(judge(lambda _: logits, images, NAMES[:4]), logits[:4])


def test_first_image_whose_logits_are_not_finite_is_named(batch):
    images, _ = batch
    logits = images.flatten(1)[:, :4].clone()
    logits[3, 1] = torch.inf
    logits[5, 0] = torch.nan
    with pytest.raises(RuntimeError, match="logits of image 3 are not finite"):
        judge(lambda _: logits, images, NAMES)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (6, 4, 2, 2)])
def test_output_that_is_no_row_of_logits_an_image_is_refused(batch, shape):
    images, _ = batch
    with pytest.raises(ValueError, match=r"\(6, K\) logits for 6 images"):
        judge(lambda _: torch.zeros(shape), images, NAMES)


def test_output_that_is_no_tensor_is_refused(batch):
    images, _ = batch
    with pytest.raises(ValueError, match="must give logits, a Tensor, got a tuple"):
        judge(lambda _: (torch.zeros(6, 4), None), images, NAMES)


def test_model_is_left_in_its_mode_after_an_error(batch):
    images, _ = batch
    model = nn.Flatten().train()
    with pytest.raises(RuntimeError, match="not finite"):
        judge(model, images * torch.nan, NAMES)
    assert model.training
