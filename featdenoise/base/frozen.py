"""The frozen twin: a read-only copy of a network for attacking it and for smoothing it.

An attacked or smoothed network is constant and its batch norm is in evaluation mode, so its batch
norm is one more linear map: the twin folds it into the convolution before it. Less memory, fewer
passes, the same function and the same input gradient up to rounding. What can be folded, and what
stays as it is: `base/folding.py`.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from featdenoise.base.folding import Fold, fold_batch_norm, write_folded

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
"""`fp32`: the module's own precision (a float64 module stays float64); `bf16`: bfloat16 inside."""

# The twin is compared once with the unfolded copy. Wide enough for TF32, far below what a baked-in
# random number, a state flag or a lost custom backward does.
_CHECKED_IMAGES = 8
_LOGITS_TOLERANCE = 1e-2
_GRADIENT_TOLERANCE = 0.25


class FrozenTwin:
    """A read-only copy of `model` in evaluation mode, `images -> logits`.

    Parameters carry no gradients and batch norm is folded into the convolutions. The model itself
    is only read: its mode, parameters, gradients and buffers stay as they are. Weights and running
    statistics are those of the last `refresh()`; tensors that are neither parameters nor buffers
    are constants. A twin stays on the device on which it was made.

    Args:
        model: the network, in any mode.
        precision: `fp32` keeps the model's own precision; `bf16` computes in bfloat16, takes the
            images as they are and gives float32 logits.
        channels_last: keep 4-d weights and activations in channels-last memory format.

    Raises:
        ValueError: unknown precision, or `bf16` for a module that cannot be copied.
    """

    def __init__(
        self, model: nn.Module, *, precision: Precision = "fp32", channels_last: bool = True
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
        self._source = model
        self._precision = precision
        self._channels_last = channels_last
        self._folds: list[Fold] = []
        self._copy = _frozen_copy(model)
        if self._copy is None:
            if precision != "fp32":
                raise ValueError(f"precision {precision!r} needs a module that can be copied")
            self._is_checked = True
            return
        self._module, self._folds = fold_batch_norm(self._copy)
        self._is_checked = not self._folds
        self._convert()

    @property
    def num_folded(self) -> int:
        """How many batch norms are folded away."""
        return len(self._folds)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), differentiable with respect to the images."""
        if self._copy is None:
            with attack_mode(self._source):
                return self._source(images)
        if not self._is_checked and len(images):
            self._check(images.detach()[:_CHECKED_IMAGES])
        if self._channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        # Only the network is rounded to bfloat16: rounding the image itself would move pixels.
        if self._precision == "bf16" and self._is_checked:
            return self._module(images.to(torch.bfloat16)).float()
        return self._module(images)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's current weights and statistics, in place and without a new trace.

        Raises:
            RuntimeError: the model's parameters or buffers are not those it was copied from.
        """
        if self._copy is None:
            return
        source, frozen = dict(_named_tensors(self._source)), dict(_named_tensors(self._copy))
        changed = [
            name
            for name in source.keys() | frozen.keys()
            if name not in source or name not in frozen or source[name].shape != frozen[name].shape
        ]
        if changed:
            raise RuntimeError(
                f"the model changed its tensors since its frozen twin was made: "
                f"{sorted(changed)[:5]}; make a new twin"
            )
        for name, tensor in frozen.items():
            tensor.copy_(source[name])
        for fold in self._folds:
            write_folded(fold)

    @torch.no_grad()
    def _convert(self) -> None:
        """Set memory format and precision in place: buffers are shared with the unfolded copy."""
        # Rounded to bfloat16 only after the check, which would otherwise measure that rounding.
        rounds = self._precision == "bf16" and self._is_checked
        for _, tensor in _named_tensors(self._module):
            if self._channels_last and tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
            if rounds and tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.bfloat16)

    def _check(self, images: Tensor) -> None:
        """Compare the traced twin with the unfolded copy once, in value and input gradient.

        Tracing keeps what it saw: random numbers drawn in Python and state outside the tensors are
        baked in, a custom backward may be lost. Such a module is used unfolded instead.
        """
        assert self._copy is not None
        self._is_checked = True
        difference = _disagreement(self._module, self._copy, images)
        if difference:
            logger.warning(
                "the batch-norm-folded copy of %s differs from the module (%s): it may be random "
                "or depend on state outside its tensors; using an unfolded copy",
                type(self._source).__name__,
                difference,
            )
            self._module, self._folds = self._copy, []
        self._convert()


@contextmanager
def attack_mode(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Evaluation mode without parameter gradients, for the length of a `with` block.

    On exit, also after an error, every submodule's training flag and every parameter's
    `requires_grad` and `.grad` are what they were. A callable that is no module has no mode.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    try:
        model.eval()
        for weight, _, _ in gradients:
            weight.requires_grad_(False)
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training
        for weight, requires_grad, gradient in gradients:
            weight.requires_grad_(requires_grad)
            weight.grad = gradient


def _frozen_copy(model: nn.Module) -> nn.Module | None:
    """A copy in evaluation mode without parameter gradients; None, saying so, if there is none."""
    try:
        duplicate = copy.deepcopy(model)
    except (TypeError, RuntimeError, ValueError, AttributeError) as error:
        logger.warning(
            "%s cannot be copied (%s): using the module itself, switched to evaluation mode for "
            "the length of each call, without folding",
            type(model).__name__,
            str(error).partition("\n")[0],
        )
        return None
    return duplicate.eval().requires_grad_(False)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _response(model: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the input gradient of a fixed combination of them."""
    with torch.enable_grad():
        leaf = images.clone().requires_grad_(True)
        logits = model(leaf)
        if not logits.requires_grad:
            return logits, torch.zeros_like(images)
        # Unequal weights: where batch statistics are used, equal ones cancel to a zero gradient.
        weights = torch.linspace(1, 2, logits.numel(), dtype=logits.dtype, device=logits.device)
        (gradient,) = torch.autograd.grad((logits.flatten() * weights).sum(), leaf)
    return logits.detach(), gradient


def _disagreement(twin: nn.Module, reference: nn.Module, images: Tensor) -> str | None:
    """In words, how far the twin is from the reference; None when they agree up to rounding."""
    logits, gradient = _response(twin, images)
    expected_logits, expected_gradient = _response(reference, images)
    if not (expected_logits.isfinite().all() and expected_gradient.isfinite().all()):
        return None  # nothing to compare with; whoever uses the values meets them and says so
    error = float((logits - expected_logits).abs().max())
    scale = float(expected_logits.abs().max())
    if not error <= _LOGITS_TOLERANCE * scale:
        return f"logits of size {scale:.3g} are off by {error:.3g}"
    error = float((gradient - expected_gradient).norm())
    scale = float(expected_gradient.norm())
    if not error <= _GRADIENT_TOLERANCE * scale:
        return f"an input gradient of norm {scale:.3g} is off by {error:.3g}"
    return None
