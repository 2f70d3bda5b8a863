import pytest
import torch

from featdenoise.models.normalize import InputNormalize


def test_normalisation_is_per_channel_and_carried_by_the_weights() -> None:
    layer = InputNormalize((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    images = torch.full((2, 3, 4, 5), 0.6)
    expected = torch.tensor([1.0, 1.6, 0.15]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(layer(images), expected)
    assert set(layer.state_dict()) == {"mean", "std"}
    assert list(layer.parameters()) == []


def test_grey_images_are_refused_and_not_broadcast() -> None:
    layer = InputNormalize((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    with pytest.raises(RuntimeError, match="3"):
        layer(torch.rand(2, 1, 4, 5))
