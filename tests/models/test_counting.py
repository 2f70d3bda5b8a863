import time

import pytest
import torch
from torch import nn

from featdenoise.models.build import build_model, list_models
from featdenoise.models.config import ModelConfig
from featdenoise.models.counting import count_parameters, measure_size
from featdenoise.models.published import PUBLISHED


def imagenet(name: str, **fields: object) -> ModelConfig:
    return ModelConfig(name=name, num_classes=1000, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"),
    [("resnet50", 25.557, 4.09), ("resnet101", 44.549, 7.80), ("resnet152", 60.193, 11.51)],
)
def test_sizes_are_the_known_ones(name: str, millions: float, gmacs: float) -> None:
    size = measure_size(imagenet(name), 224)
    assert size.parameters / 1e6 == pytest.approx(millions, abs=1e-3)
    assert size.macs / 1e9 == pytest.approx(gmacs, abs=0.01)
    assert count_parameters(imagenet(name)) == size.parameters


def test_layers_add_up_as_counted_by_hooks() -> None:
    config = ModelConfig(name="resnet8", num_classes=7)
    model, total = build_model(config).eval(), 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        places = output[0, 0].numel() if output.ndim == 4 else 1
        total += layer.weight.numel() * places

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 3, 20, 20))
    assert measure_size(config, 20).macs == total


def test_non_local_products_are_counted() -> None:
    plain, dot = ModelConfig(name="resnet20"), ModelConfig(name="resnet20", denoise="dot")
    null = ModelConfig(name="resnet20", denoise="null")
    # Convolutions of the three blocks: positions x channels^2.
    shapes = [(32, 16), (16, 32), (8, 64)]
    convolutions = sum(side**2 * channels**2 for side, channels in shapes)
    assert measure_size(null, 32).macs - measure_size(plain, 32).macs == convolutions
    # X X^T and its product with X, in the cheaper order or the other.
    products = measure_size(dot, 32).macs - measure_size(null, 32).macs
    cheap = sum(2 * side**2 * channels**2 for side, channels in shapes)
    dear = sum(2 * side**4 * channels for side, channels in shapes)
    assert cheap <= products <= dear


def test_every_model_is_counted_quickly_and_without_weights() -> None:
    start, state = time.process_time(), torch.get_rng_state()
    for name in list_models():
        assert measure_size(ModelConfig(name=name), 32).macs > 0
    for published in PUBLISHED.values():
        assert measure_size(published.config, published.image_size).macs > 1e10
    assert time.process_time() - start < 10
    assert torch.equal(torch.get_rng_state(), state)
