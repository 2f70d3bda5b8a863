import pytest

from featdenoise.attacks.pgd import PGD
from featdenoise.data.config import DataConfig
from featdenoise.models.config import ModelConfig
from featdenoise.training.recipes import Recipe


@pytest.fixture
def tiny_recipe() -> Recipe:
    """Three steps a minute-long run would take: four micro-batches of 8 digits, PGD-2."""
    return Recipe(
        model=ModelConfig(name="resnet8", denoise="gaussian"),
        data=DataConfig(name="digits", image_size=8),
        attack=PGD(epsilon=26 / 255, step_size=13 / 255, num_steps=2, clean_start_probability=0.2),
        epochs=6 / 45,  # 1,442 images make 45 steps of 32
        batch_size=32,
        micro_batch_size=8,
        learning_rate=0.05,
        warmup_epochs=0.05,
    )
