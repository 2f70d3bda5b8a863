"""The models by name: one function builds any of them, with normalisation inside."""

import dataclasses
import functools
import logging
from typing import Any

from featdenoise.base.download import fetch
from featdenoise.base.results import describe
from featdenoise.models.build import _BUILDERS as _BUILDERS
from featdenoise.models.build import HEAD as HEAD
from featdenoise.models.build import Classifier as Classifier
from featdenoise.models.build import build_model as build_model
from featdenoise.models.build import list_models as list_models
from featdenoise.models.build import load_strictly as load_strictly
from featdenoise.models.build import register_model as register_model
from featdenoise.models.config import ModelConfig
from featdenoise.models.initialize import initialize
from featdenoise.models.published import PUBLISHED, PublishedModel
from featdenoise.models.tensorpack import load_tensorpack
from featdenoise.models.timm_backbone import create_timm_model, is_timm_name, timm_cfg

logger = logging.getLogger(__name__)


def create_model(
    model: str | ModelConfig, *, seed: int = 0, pretrained: bool = False, **fields: Any
) -> Classifier:
    """Build a model with fresh or published weights, in training mode, on the CPU.

    Args:
        model: a name of `list_models` or of `PUBLISHED`, `timm/NAME` for a network of timm, or a
            whole configuration.
        seed: seed of the initial weights; the global random state is neither used nor changed.
        pretrained: download the weights of a name of `PUBLISHED`, or take them from the cache.
            Another `num_classes` than theirs gives a fresh head. For timm/NAME the weights are
            timm's, and timm downloads them.
        fields: fields of `ModelConfig`, which replace those of a configuration. With timm/NAME,
            mean and std are timm's if not given.

    Returns:
        A module from (N, 3, H, W) RGB images in [0, 1] to (N, num_classes) logits; its `config`
        rebuilds it.

    Raises:
        ValueError: an unknown name, a field outside its range, published weights of a name that has
            none or of another architecture, or a damaged file.
        RuntimeError: the download fails.
    """
    published = PUBLISHED.get(model) if isinstance(model, str) else None
    if published is not None:
        config = dataclasses.replace(published.config, **fields)
    elif isinstance(model, str):
        config = ModelConfig(name=model, **fields)
    else:
        config = dataclasses.replace(model, **fields)
    if is_timm_name(config.name):
        # The fields of a whole configuration are all chosen, unless weights bring their own.
        chosen = fields if pretrained or isinstance(model, str) else describe(config)
        return create_timm_model(config, seed=seed, pretrained=pretrained, given=chosen)
    if pretrained:
        if published is None:
            raise ValueError(
                f"{config.name} has no published weights; these have: {', '.join(PUBLISHED)}"
            )
        return _load_published(published, config, seed)
    return _with_fresh_weights(config, seed)


def _with_fresh_weights(config: ModelConfig, seed: int) -> Classifier:
    classifier = build_model(config)
    initialize(classifier, seed)
    return classifier


def _load_published(published: PublishedModel, config: ModelConfig, seed: int) -> Classifier:
    _check_only_classes_differ(published, config)
    path = fetch(published.url)
    _announce_licence(published.url, published.licence)
    source = load_tensorpack(path, published.config)
    if config == published.config:
        return source.train()
    classifier = _with_fresh_weights(config, seed)
    copy_matching_weights(classifier, source)
    return classifier


def _check_only_classes_differ(published: PublishedModel, config: ModelConfig) -> None:
    for field in dataclasses.fields(config):
        own, needed = getattr(config, field.name), getattr(published.config, field.name)
        if field.name != "num_classes" and own != needed:
            raise ValueError(
                f"{field.name} is {own!r}, but the published weights were trained with {needed!r}; "
                f"leave it out, or create {config.name} without pretrained"
            )


@functools.cache  # once a process
def _announce_licence(url: str, licence: str) -> None:
    logger.warning("the weights of %s are licensed %s", url, licence)


def copy_matching_weights(model: Classifier, source: Classifier) -> list[str]:
    """Start `model` from the weights of `source`, with a new head if the classes differ in number.

    Everything else must match exactly. The input normalisation is copied too, as the weights were
    trained with it, and `model.config` then says so.

    Returns:
        The names of the weights that were not copied.

    Raises:
        ValueError: weights other than the head's differ in name, shape or type.
    """
    weights = source.state_dict()
    kept: list[str] = []
    if model.config.num_classes != source.config.num_classes:
        head = HEAD
        if is_timm_name(source.config.name):
            head = f"backbone.{timm_cfg(source.backbone)['classifier']}"
        kept = [name for name in weights if name.startswith(f"{head}.")]
        own = model.state_dict()
        weights |= {name: own[name] for name in kept}
    load_strictly(model, weights, f"{source.config.name} with denoise {source.config.denoise}")
    model.config = dataclasses.replace(model.config, mean=source.config.mean, std=source.config.std)
    if kept:
        logger.info("new head for %d classes: %s", model.config.num_classes, ", ".join(kept))
    return kept
