from dataclasses import replace

import pytest

from featdenoise.data.registry import DATASETS
from featdenoise.models.registry import list_models
from featdenoise.training.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_a_known_model_and_data_set(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.model.name in list_models()
    assert DATASETS[recipe.data.name].num_classes == recipe.model.num_classes


def test_the_digits_recipes_differ_only_in_what_their_names_say() -> None:
    assert replace(RECIPES["digits"], attack=None) == RECIPES["digits-clean"]
    assert replace(RECIPES["digits-denoise"], attack=None) == RECIPES["digits-denoise-clean"]
    assert replace(RECIPES["digits-denoise"], model=RECIPES["digits"].model) == RECIPES["digits"]


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'digit'; known recipes: digits-clean, "):
        find_recipe("digit")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 100),
        ("batch_size", 0),
        ("micro_batch_size", 1),
        ("epochs", 0),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("label_smoothing", 1),
        ("threads_per_process", 0),
    ],
)
def test_values_outside_their_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        replace(RECIPES["digits"], **{field: value})


def test_training_on_zero_attack_steps_is_refused() -> None:
    attack = replace(RECIPES["digits"].attack, num_steps=0)
    with pytest.raises(ValueError, match="num_steps must be >= 1 in training"):
        replace(RECIPES["digits"], attack=attack)
