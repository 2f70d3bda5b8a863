import json
from typing import Any

import pytest

from featdenoise.base.results import describe
from featdenoise.models.config import ModelConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 0}, "num_classes must be >= 1, got 0"),
        ({"mean": (0.5, 0.5)}, "mean must be three"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean must be three"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be three finite numbers above 0"),
        ({"padding": "same"}, "padding must be one of torch, tensorflow, got 'same'"),
        ({"denoise": "blur"}, "denoise must be one of none, gaussian, dot"),
        ({"denoise_at": "head"}, "denoise_at must be one of stage, block, got 'head'"),
        ({"denoise": "mean", "subsample": True}, "subsample is for the non-local"),
        ({"denoise": "mean", "no_conv": True, "no_residual": True}, "no_conv and no_residual"),
        ({"denoise_at": "block"}, "denoise_at is 'block' but denoise is 'none'"),
        ({"subsample": True}, "subsample is True but denoise is 'none'"),
        ({"no_conv": True}, "no_conv is True but denoise is 'none'"),
        ({"no_residual": True}, "no_residual is True but denoise is 'none'"),
    ],
    ids=str,
)
def test_field_that_cannot_be_built_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(name="resnet20", **fields)


def test_configuration_survives_being_written_as_json() -> None:
    config = ModelConfig(name="resnet20", denoise="dot", subsample=True, mean=(0.1, 0.2, 0.3))
    written = json.loads(json.dumps(describe(config)))
    assert ModelConfig.from_description(written) == config


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "PGD"}, "kind must be ModelConfig, got 'PGD'"),
        ({"kind": "ModelConfig"}, "no field name"),
        ({"kind": "ModelConfig", "name": "resnet20", "depth": 3}, "unknown fields depth"),
    ],
    ids=str,
)
def test_foreign_description_is_refused(description: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_description(description)
