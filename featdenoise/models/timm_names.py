"""The zoo under timm's names: `timm.create_model("featdenoise_resnet50")`, with timm's conventions.

Importing this file registers every model of `list_models` as `featdenoise_NAME` (the one side
effect of importing the package); timm's own names stay as they are. Published weights are tags, as
`featdenoise_resnet152.xie2019_gaussian`; a tag fixes the architecture that its weights need.

The input is RGB in [0, 1]: `pretrained_cfg` has mean 0 and std 1, so that timm's transforms give
it, and the normalisation is inside. Fields of `ModelConfig` (denoise, denoise_at, ...) are keywords
of `timm.create_model`. Not supported, and refused: dropout, stochastic depth, other channels than
three, other output strides.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import (
    FeatureInfo,
    PretrainedCfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

import featdenoise.models.cifar as cifar
import featdenoise.models.resnet as resnet
from featdenoise.models.build import Classifier, list_models
from featdenoise.models.config import ModelConfig
from featdenoise.models.initialize import initialize
from featdenoise.models.published import PUBLISHED
from featdenoise.models.registry import copy_matching_weights, create_model
from featdenoise.models.timm_backbone import probe_shapes
from featdenoise.models.weights import HUB_PREFIX, load_model

PREFIX = "featdenoise_"
"""What timm calls a model of ours begins with."""

_POOLS = ("avg", "")
_IGNORED_IF = {"drop_rate": 0.0, "drop_path_rate": 0.0, "output_stride": 32, "in_chans": 3}
"""Keywords of timm that would change the network, with the value at which they do not."""


class TimmClassifier(Classifier):
    """A model of the zoo that answers timm's conventions; weights are called as without timm."""

    def __init__(
        self, model: Classifier, pretrained_cfg: dict[str, Any], *, global_pool: str = "avg"
    ) -> None:
        """Take over the parts of a model.

        Args:
            model: as by `create_model`, of the zoo.
            pretrained_cfg: timm's description of input and weights.
            global_pool: `avg`, or empty for maps in place of vectors, without a classifier.
        """
        super().__init__(model.config, model.backbone)
        self.normalize = model.normalize
        self.pretrained_cfg = pretrained_cfg
        self.default_cfg = pretrained_cfg
        self.num_classes = model.config.num_classes
        self.num_features = self.head_hidden_size = _linear(model.backbone).in_features
        self.drop_rate = 0.0
        self.feature_info = _feature_info(model)
        self.global_pool = global_pool

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) pixels in [0, 1] to logits (N, num_classes), or features without classes."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) pixels in [0, 1] to the last maps (N, num_features, h, w)."""
        return self._finish(self.forward_intermediates(images, [-1], intermediates_only=True)[0])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps of `forward_features` to logits, or with `pre_logits` to what the head takes."""
        pooled = features.mean(dim=(2, 3)) if self.global_pool else features
        return pooled if pre_logits else self.get_classifier()(pooled)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps after stages, each with the denoising blocks of its stage.

        Args:
            images: (N, 3, H, W) pixels in [0, 1].
            indices: which stages, from the end where negative; a number: so many last ones; None:
                all.
            norm: apply what stands between the last stage and the pooling to the last stage's map.
            stop_early: compute no stage after the last one wanted.
            output_fmt: NCHW.
            intermediates_only: give the maps alone, and stop early.

        Returns:
            Maps (N, C, h, w) in the order of the stages; before them, unless `intermediates_only`,
            what `forward_features` gives.

        Raises:
            ValueError: another output format, or no such stage.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt!r}")
        stages = _stages(self.backbone)
        wanted = _take_indices(indices, len(stages))
        maps: list[Tensor] = []
        x = self.backbone.stem(self.normalize(images))  # type: ignore[operator]
        for k, stage in enumerate(stages):
            if (stop_early or intermediates_only) and k > max(wanted):
                return maps if intermediates_only else (x, maps)
            x = stage(x)
            if k in wanted:
                maps.append(self._finish(x) if norm and k == len(stages) - 1 else x)
        return maps if intermediates_only else (self._finish(x), maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages after the last one wanted; which stages these are, counted from 0."""
        stages = _stages(self.backbone)
        wanted = _take_indices(indices, len(stages))
        del stages[max(wanted) + 1 :]
        if prune_norm and hasattr(self.backbone, "final"):
            self.backbone.final = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def get_classifier(self) -> nn.Module:
        """The last layer; the identity without classes."""
        return self.backbone.get_submodule("head")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh last layer in place; none for 0 classes.

        Raises:
            ValueError: another pooling than avg and none, or classes without pooling.
        """
        pool = self.global_pool if global_pool is None else global_pool
        _check_pool(pool, num_classes)
        self.global_pool, self.num_classes = pool, num_classes
        head: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.backbone.parameters())
            with torch.random.fork_rng(devices=[]):
                head = nn.Linear(self.num_features, num_classes)
            # Under its full name, so that it begins as the head of `create_model` with seed 0.
            initialize(nn.ModuleDict({"backbone": nn.ModuleDict({"head": head})}), 0)
            head.to(device=like.device, dtype=like.dtype)
            self.config = dataclasses.replace(self.config, num_classes=num_classes)
        self.backbone.head = head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse to trade computation for memory, which these nets cannot.

        Raises:
            ValueError: asked to.
        """
        if enable:
            raise ValueError("grad_checkpointing must be off: these nets do not support it")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names for learning rates by depth."""
        del coarse
        return {"stem": r"^backbone\.(conv|bn)\.", "blocks": r"^backbone\.stages\.(\d+)\."}

    def _finish(self, x: Tensor) -> Tensor:
        return self.backbone.final(x) if isinstance(self.backbone, cifar.PreActResNet) else x


class TimmFeatures(nn.Module):
    """Feature maps of a model of the zoo, as timm's `features_only=True`: a list, finest first."""

    def __init__(self, model: TimmClassifier, out_indices: int | Sequence[int] | None) -> None:
        """Take a model apart.

        Args:
            model: loses its classifier and the stages that are not wanted.
            out_indices: which stages; as for `TimmClassifier.forward_intermediates`.
        """
        super().__init__()
        rows = model.feature_info
        self.out_indices = model.prune_intermediate_layers(out_indices, prune_norm=True)
        self.feature_info = FeatureInfo(rows, tuple(self.out_indices))
        self.pretrained_cfg = self.default_cfg = model.pretrained_cfg
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) pixels in [0, 1] to maps (N, C, H / reduction, W / reduction)."""
        return self.model.forward_intermediates(images, self.out_indices, intermediates_only=True)


def create_timm_classifier(
    name: str,
    *,
    pretrained: bool = False,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    num_classes: int | None = None,
    global_pool: str = "avg",
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **fields: Any,
) -> nn.Module:
    """What `timm.create_model("featdenoise_NAME", ...)` calls.

    Args:
        name: a model of `list_models`.
        pretrained: load weights: those of the tag, or the file that the overlay names.
        pretrained_cfg: timm's; a tag as a string.
        pretrained_cfg_overlay: timm's; `file` or `hf_hub_id` names weights of ours, which
            `load_model` reads.
        cache_dir: refused, since our cache has a place of its own.
        num_classes: 1000 for ImageNet's nets and 10 for the others if not given; 0 for no head.
        global_pool: `avg`, or empty with `num_classes=0`.
        features_only: give `TimmFeatures`.
        out_indices: which stages' maps.
        fields: `seed` and fields of `ModelConfig`.

    Raises:
        ValueError: a field outside its range, weights of another net, or something that these nets
            do not support.
    """
    if cache_dir is not None:
        raise ValueError("cache_dir is not used here; set the environment variable of the cache")
    _check_keywords(fields)
    if not features_only and out_indices is not None:
        raise ValueError("out_indices is for features_only=True; leave it out")
    _check_pool(global_pool, 0 if features_only or num_classes == 0 else 1)
    if isinstance(pretrained_cfg, PretrainedCfg):
        pretrained_cfg = dataclasses.asdict(pretrained_cfg)
    cfg = resolve_pretrained_cfg(PREFIX + name, pretrained_cfg, pretrained_cfg_overlay)
    if num_classes:
        fields["num_classes"] = num_classes
    source = _source_of_ours(cfg, pretrained_cfg_overlay or {}) if pretrained else None
    tagged = f"{name}.{cfg.tag}"
    if source:
        model = _load_ours(name, source, fields)
    elif tagged in PUBLISHED and (pretrained or pretrained_cfg):
        model = create_model(tagged, pretrained=pretrained, **fields)
    else:
        # Without a tag and without weights no weights decide the architecture.
        fields.setdefault("num_classes", cfg.num_classes)
        model = create_model(name, pretrained=pretrained, **fields)
    classifier = TimmClassifier(model, cfg.to_dict(), global_pool=global_pool)
    if features_only:
        return TimmFeatures(classifier, out_indices)
    if num_classes == 0:
        classifier.reset_classifier(0)
    return classifier


def _check_keywords(fields: dict[str, Any]) -> None:
    """Refuse what these nets do not have; take out what changes nothing."""
    for keyword, harmless in _IGNORED_IF.items():
        value = fields.pop(keyword, harmless)
        if value != harmless:
            raise ValueError(f"{keyword} must be {harmless} for {PREFIX} models, got {value!r}")
    known = {"seed"} | {f.name for f in dataclasses.fields(ModelConfig)} - {"name"}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ValueError(
            f"{PREFIX} models take no {', '.join(unknown)}; their own keywords are "
            f"{', '.join(sorted(known))}"
        )


def _check_pool(pool: str, num_classes: int) -> None:
    if pool not in _POOLS:
        raise ValueError(f"global_pool must be 'avg' or '', got {pool!r}")
    if not pool and num_classes:
        raise ValueError("global_pool '' leaves maps, which the classifier cannot take; give avg")


def _source_of_ours(cfg: PretrainedCfg, overlay: dict[str, Any]) -> str | None:
    """What `load_model` is to read, if the user named weights."""
    for key in ("url", "state_dict"):
        if overlay.get(key):
            raise ValueError(
                f"{key} in pretrained_cfg_overlay cannot be loaded; give file (a weights folder "
                "or a checkpoint) or hf_hub_id"
            )
    if overlay.get("hf_hub_id"):
        return f"{HUB_PREFIX}{overlay['hf_hub_id']}"
    if cfg.file is None:
        return None
    path = Path(cfg.file)
    return str(path.parent if path.suffix == ".safetensors" else path)


def _load_ours(name: str, source: str, fields: dict[str, Any]) -> Classifier:
    """A model of our weight format, with a new head for another number of classes."""
    loaded = load_model(source)
    if loaded.config.name != name:
        raise ValueError(f"{source} holds weights of {loaded.config.name}, not of {name}")
    seed = fields.pop("seed", 0)
    config = dataclasses.replace(loaded.config, **fields)
    if config == loaded.config:
        return loaded.train()
    model = create_model(config, seed=seed)
    copy_matching_weights(model, loaded)
    return model


def _linear(backbone: nn.Module) -> nn.Linear:
    head = backbone.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return head


def _stages(backbone: nn.Module) -> nn.Sequential:
    stages = backbone.get_submodule("stages")
    assert isinstance(stages, nn.Sequential)
    return stages


def _feature_info(model: Classifier) -> list[dict[str, Any]]:
    """Channels and stride of the map after each stage."""
    side = 64
    names = [f"backbone.stages.{k}" for k in range(len(_stages(model.backbone)))]
    rows = []
    for name, shapes in probe_shapes(model, names, (side, side)).items():
        assert shapes[0] is not None
        _, channels, height, _ = shapes[0]
        rows.append({"module": name, "num_chs": channels, "reduction": side // height})
    return rows


def _take_indices(indices: int | Sequence[int] | None, count: int) -> list[int]:
    if indices is None:
        indices = count
    taken = range(count - indices, count) if isinstance(indices, int) else indices
    wanted = sorted({k + count if k < 0 else k for k in taken})
    if not wanted or wanted[0] < 0 or wanted[-1] >= count:
        raise ValueError(f"indices must be among the {count} stages 0 to {count - 1}: {indices}")
    return wanted


def _describe(name: str) -> PretrainedCfg:
    """What timm is to know of the input and the weights of a name of the zoo, maybe with a tag."""
    small = not hasattr(resnet, name.partition(".")[0])
    published = PUBLISHED.get(name)
    cfg = PretrainedCfg(
        input_size=(3, 32, 32) if small else (3, 224, 224),
        crop_pct=1.0 if small else 0.875,
        interpolation="bicubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_classes=10 if small else 1000,
        first_conv="backbone.conv",
        classifier="backbone.head",
    )
    if published is None:
        return cfg
    return dataclasses.replace(
        cfg,
        url=published.url,
        custom_load=True,
        num_classes=published.config.num_classes,
        input_size=(3, published.image_size, published.image_size),
        crop_pct=published.image_size / published.resize_shorter_side,
        license=published.licence,
        origin_url=published.source,
        notes=("figures published, not verified here; the original resizes without antialiasing",),
    )


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **keywords: Any) -> nn.Module:
        return create_timm_classifier(name, pretrained=pretrained, **keywords)

    create.__name__ = create.__qualname__ = PREFIX + name
    create.__doc__ = f"The model {name} of featdenoise, by timm's conventions."
    return create


_TAGGED = {published.partition(".")[0] for published in PUBLISHED}

# timm looks for this name in the module of an entry point. Published tags first: a default.
default_cfgs = generate_default_cfgs(
    {
        PREFIX + name: _describe(name)
        for name in (*PUBLISHED, *(name for name in list_models() if name not in _TAGGED))
    }
)

for _name in list_models():
    globals()[PREFIX + _name] = register_model(_entrypoint(_name))
