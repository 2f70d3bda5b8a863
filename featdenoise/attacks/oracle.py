"""The gradient oracle: what a white-box attack may ask of a network.

An attack moves images and keeps their bounds; the oracle knows how loss and input gradient are
computed. The attacked network is constant, so a module is asked through its frozen twin; parameters
never get a gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featdenoise.attacks.losses import LOSSES, Loss
from featdenoise.base.frozen import FrozenTwin, Precision
from featdenoise.base.judge import check_logits


class GradientOracle:
    """Logits, losses and input gradients of a network.

    Keep one for many batches: making it copies and folds the network. Weights are those of the
    last `refresh()`.

    Args:
        model: an `nn.Module` (in any mode; it is copied and not touched), a `FrozenTwin`, or any
            other differentiable callable images (N, C, H, W) -> logits (N, K). A callable is used
            as it is: that it is in evaluation mode is the caller's promise.
        precision: of the twin's arithmetic; image, loss and gradient stay float32 or higher.

    Raises:
        ValueError: a precision other than `fp32` for something that is no `nn.Module`.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], *, precision: Precision = "fp32") -> None:
        if isinstance(model, nn.Module):
            model = FrozenTwin(model, precision=precision)
        elif precision != "fp32":
            raise ValueError(f"precision {precision!r} needs an nn.Module, got {model!r}")
        self._predict = model
        self._num_classes: int | None = None

    @classmethod
    def of(
        cls, model: "Callable[[Tensor], Tensor] | GradientOracle", *, precision: Precision = "fp32"
    ) -> "GradientOracle":
        """The oracle itself where `model` is one, else a new one."""
        return model if isinstance(model, GradientOracle) else cls(model, precision=precision)

    def refresh(self) -> None:
        """Take over the weights that the module has now; a plain callable has nothing to renew."""
        if isinstance(self._predict, FrozenTwin):
            self._predict.refresh()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), differentiable with respect to the images."""
        return self._predict(images)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), without a gradient."""
        return self._predict(images)

    def num_classes(self, images: Tensor) -> int:
        """K, the width of the logits; asked once, with one forward pass of `images`.

        Raises:
            ValueError: the model does not give (N, K) logits.
        """
        if self._num_classes is None:
            logits = self.logits(images)
            check_logits(logits, images)
            self._num_classes = logits.shape[1]
        return self._num_classes

    def loss_and_gradient(
        self, images: Tensor, labels: Tensor, loss: Loss = "cross_entropy"
    ) -> tuple[Tensor, Tensor]:
        """The loss of each image and the gradient of their sum with respect to the images.

        Args:
            images: (N, C, H, W), pixels in [0, 1].
            labels: (N,) int64, the classes that the loss is taken against.
            loss: name of the loss.

        Returns:
            (N,) losses and (N, C, H, W) gradient in the dtype of the images.

        Raises:
            RuntimeError: the logits are not differentiable.
        """
        _, losses, gradient = self.differentiate(images, lambda z: LOSSES[loss](z, labels))
        return losses, gradient

    def differentiate(
        self, images: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, a loss of them, and the loss's input gradient, from one pass.

        Args:
            images: (N, C, H, W), pixels in [0, 1].
            loss: (N, K) logits to (N,), each image's from its own logits alone.

        Returns:
            (N, K) logits, (N,) losses and (N, C, H, W) gradient of the losses' sum.

        Raises:
            RuntimeError: the logits are not differentiable.
        """
        with torch.enable_grad():
            leaf = images.detach().requires_grad_(True)
            logits = self._predict(leaf)
            losses = loss(logits)
            if not losses.requires_grad:
                raise RuntimeError(
                    "the model's logits carry no gradient to the images (it detaches them or "
                    "runs without autograd); a gradient attack cannot run on it"
                )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return logits.detach(), losses.detach(), gradient
