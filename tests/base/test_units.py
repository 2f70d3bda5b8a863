import math
from decimal import Decimal

import pytest
import torch

from featdenoise.base.units import (
    check_classes,
    check_images,
    check_pixels,
    format_pixels,
    format_radius,
    parse_pixels,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("16/255", 16 / 255), ("0.05", 0.05), ("1e-3", 1e-3), ("1.6/255", 1.6 / 255)],
)
def test_pixels_are_read_as_quotients_and_as_numbers(text: str, value: float) -> None:
    assert parse_pixels(text) == value


@pytest.mark.parametrize("text", ["", "a", "16/0", "1/2/3", "16/"])
def test_other_texts_are_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 16/255"):
        parse_pixels(text)


def test_format_pixels_prints_what_parse_pixels_reads() -> None:
    assert format_pixels(16 / 255) == "16/255"
    assert format_pixels(1.6 / 255) == "1.6/255"
    assert format_pixels(0.25) == "0.25"
    assert format_pixels(0.1) == "0.1"
    assert format_pixels(0.0) == "0"
    for value in (16 / 255, 0.05, 0.125, 1 / 3, 26 / 255):
        assert parse_pixels(format_pixels(value)) == pytest.approx(value, rel=1e-5)


def test_a_bare_16_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\], got 16.*write 16/255"):
        check_pixels("epsilon", 16)
    with pytest.raises(ValueError, match="epsilon"):
        check_pixels("epsilon", float("nan"))
    with pytest.raises(ValueError, match="epsilon"):
        check_pixels("epsilon", -0.1)
    check_pixels("epsilon", 1.0)
    check_pixels("epsilon", 2.0, upper=10)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "divide uint8 pixels by 255"),
        (torch.zeros(3, 2, 2), r"must be \(N, C, H, W\)"),
        (torch.full((1, 3, 2, 2), 1.01), r"got values from 1.01 to 1.01; do not normalise"),
        (torch.full((1, 3, 2, 2), -0.01), r"\[0, 1\]"),
        (torch.full((1, 3, 2, 2), float("nan")), r"\[0, 1\]"),
    ],
)
def test_images_in_other_units_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_images(images)


def test_images_in_range_pass() -> None:
    check_images(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    check_images(torch.empty(0, 3, 2, 2))


@pytest.mark.parametrize("radius", [0.0, 0.2499996, 0.3, 0.4945029, 1.9999999, 3.81145656, 5e-7])
@pytest.mark.parametrize("digits", [3, 6])
def test_printed_radius_never_exceeds_the_radius(radius, digits):
    printed = Decimal(format_radius(radius, digits=digits))
    assert printed <= Decimal(radius) < printed + Decimal(1).scaleb(-digits)
    assert printed.as_tuple().exponent == -digits


def test_radius_just_below_a_digit_is_not_lifted_over_it():
    # Multiplying by a power of ten would round this one up before the floor sees it.
    assert format_radius(math.nextafter(0.25, 0), digits=3) == "0.249"
    assert format_radius(math.nextafter(0.25, 0), digits=6) == "0.249999"
    assert format_radius(0.25, digits=3) == "0.250"


def test_classes_are_0_to_num_classes_minus_1():
    check_classes(torch.tensor([0, 3]), 4)
    check_classes(torch.tensor([], dtype=torch.int64), 4)
    for label in (-1, 4):
        with pytest.raises(ValueError, match=rf"targets must be in \[0, 3\].* got {label}"):
            check_classes(torch.tensor([0, label, 3]), 4, "targets")
