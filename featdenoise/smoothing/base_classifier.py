"""The adapter that makes any of our models the base classifier of a smoothed one.

Scripts in the style of Cohen et al. 2019 expect a module that maps noisy pixels (N, C, H, W) to
logits (N, K), whatever its mode; this is that module. Noise is added before it and never clipped;
normalisation is the wrapped model's own first layer.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featdenoise.base.frozen import attack_mode


class BaseClassifier(nn.Module):
    """A model as run by the smoother: evaluation mode, its own precision, no autocast.

    The wrapped model is in evaluation mode only during a call and is left in the mode it had, so
    a model can be certified in the middle of its training. `train()` and `eval()` of the adapter
    do nothing for the same reason.
    """

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        """Wrap a module or any other callable from pixels (N, C, H, W) to logits (N, K)."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Noisy pixels (N, C, H, W), any float values -> logits (N, K)."""
        # A certificate is about the classifier as run: a caller's autocast must not change it.
        with attack_mode(self.model), torch.autocast(images.device.type, enabled=False):
            return self.model(images)

    def train(self, mode: bool = True) -> "BaseClassifier":
        """Do nothing: the mode of the wrapped model belongs to its owner."""
        del mode
        return self

    @property
    def precision(self) -> str:
        """The arithmetic of the votes, to be recorded beside a certificate.

        The parameters' types, such as "float32"; "unknown" for a callable that shows none. On a
        GPU that may round convolutions or products to TF32, this is added.
        """
        if not isinstance(self.model, nn.Module):
            return "unknown"
        parameters = list(self.model.parameters())
        kinds = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
        if any(p.is_cuda for p in parameters) and _may_use_tf32():
            kinds.append("tf32")
        return "+".join(kinds) or "unknown"


def _may_use_tf32() -> bool:
    backends = torch.backends
    convolution = backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # made at run time
    return "tf32" in (convolution, backends.cuda.matmul.fp32_precision)
