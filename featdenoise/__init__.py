"""Feature-denoising image classifiers and everything that proves their robustness."""

from featdenoise.attacks.pgd import PGD as PGD
from featdenoise.base.rng import Stream as Stream
from featdenoise.data.config import DataConfig as DataConfig
from featdenoise.data.registry import load_dataset as load_dataset
from featdenoise.evaluation.entries import Entry as Entry
from featdenoise.evaluation.entries import WhiteboxEvaluation as WhiteboxEvaluation
from featdenoise.evaluation.whitebox import evaluate_whitebox as evaluate_whitebox

# Imported because it makes the zoo known to timm.
from featdenoise.models import timm_names as timm_names
from featdenoise.models.config import ModelConfig as ModelConfig
from featdenoise.models.registry import create_model as create_model
from featdenoise.models.registry import list_models as list_models
from featdenoise.models.weights import load_model as load_model
from featdenoise.models.weights import save_weights as save_weights
from featdenoise.smoothing.certify import Smooth as Smooth
from featdenoise.smoothing.noise import Gaussian as Gaussian
