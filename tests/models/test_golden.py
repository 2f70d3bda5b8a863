"""Our nets, attack and training step against the original TensorFlow code, within its tolerances.

What is measured is in `golden_lines.py`; `acceptance/golden.py` prints every number.
"""

import zlib
from collections.abc import Iterable

import numpy as np
import pytest
from golden_lines import (
    NETS,
    VARIABLE_LISTS,
    Line,
    attack_lines,
    attack_states,
    attack_step_lines,
    denoising_lines,
    forward_lines,
    golden,
    gradient_lines,
    images_labels_targets,
    make_net,
    training_lines,
    value_of,
    variable_list,
)

from featdenoise.models.registry import Classifier

nets = pytest.mark.parametrize("net", NETS)


@pytest.fixture(scope="module")
def models() -> dict[str, Classifier]:
    return {net: make_net(net) for net in NETS}


def require(lines: Iterable[Line]) -> list[Line]:
    lines = list(lines)
    assert [line for line in lines if not line.holds] == []
    return lines


@pytest.mark.parametrize(
    "net",
    [pytest.param(net, marks=[] if net in NETS else [pytest.mark.slow]) for net in VARIABLE_LISTS],
)
def test_weights_of_the_rule_have_the_recorded_bits(net: str) -> None:
    for v in variable_list(net):
        value = value_of(v.name, v.shape)
        assert f"{zlib.crc32(value.astype('<f4').tobytes()):08x}" == v.crc32, v.name


@nets
def test_logits_and_activations_are_the_original_s(net: str, models: dict[str, Classifier]) -> None:
    lines = require(forward_lines(net, models[net]))
    assert len(lines) == 3 + 13


def test_denoising_blocks_alone_are_the_original_s(models: dict[str, Classifier]) -> None:
    assert len(require(denoising_lines(models["ResNetDenoise50"]))) == 2


@nets
def test_input_gradient_is_the_original_s(net: str, models: dict[str, Classifier]) -> None:
    assert len(require(gradient_lines(net, models[net]))) == 4


def test_recorded_attack_states_belong_together() -> None:
    states = attack_states()
    assert states.shape == (11, 2, 3, 224, 224)
    assert np.abs(states[10] - states[0]).max() <= 16 * 2 / 255 + 1e-6
    first = np.sign(states[1] - states[0])
    gradient = golden("ResNetDenoise50")["grad1"]
    # Against the gradient, but for pixels that are already at the end of their range.
    inside = first != 0
    assert inside.mean() > 0.95
    assert np.array_equal(first[inside], -np.sign(gradient)[inside])


@pytest.mark.parametrize(
    "state", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 10))]
)
def test_single_attack_step_is_the_original_s(state: int, models: dict[str, Classifier]) -> None:
    require(attack_step_lines(models["ResNetDenoise50"], (state,)))


@pytest.mark.slow
@nets
def test_ten_attack_steps_end_where_the_original_s_do(
    net: str, models: dict[str, Classifier]
) -> None:
    require(attack_lines(net, models[net]))


def test_first_training_step_is_the_original_s() -> None:
    assert len(require(training_lines(make_net("ResNetDenoise50"), num_steps=1))) == 4


@pytest.mark.slow
def test_two_training_steps_are_the_original_s() -> None:
    assert len(require(training_lines(make_net("ResNetDenoise50").double()))) == 9


def test_a_wrong_channel_order_is_noticed(models: dict[str, Classifier]) -> None:
    images, _, _ = images_labels_targets()
    logits = models["ResNet50"](images.flip(1)).detach().numpy()
    assert np.abs(logits - golden("ResNet50")["logits"]).max() > 0.1
