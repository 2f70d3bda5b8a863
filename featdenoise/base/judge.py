"""The evaluator's own verdict: the model as given, in evaluation mode, in its own precision."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from featdenoise.base.frozen import attack_mode

FOREIGN_FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError),
    *(LookupError, RuntimeError, TypeError, ValueError),
)
"""What other people's models and attacks raise; reported as theirs, never let through as ours."""


def judge(model: Callable[[Tensor], Tensor], images: Tensor, names: Sequence[str]) -> Tensor:
    """Logits that a prediction may be read off; the model is left as it was found.

    Args:
        model: (N, C, H, W) images in [0, 1] to (N, K) logits.
        images: a batch, padded or not.
        names: what errors call the images; as many as are real, the rows behind them are padding.

    Returns:
        (len(names), K).

    Raises:
        ValueError: the model does not give (N, K) logits.
        RuntimeError: logits of a real image are not finite; names it.
    """
    # A caller's autocast must not decide: half precision turns close calls.
    autocast = torch.autocast(images.device.type, enabled=False)
    with attack_mode(model), torch.no_grad(), autocast:
        logits = model(images)
    check_logits(logits, images)
    logits = logits[: len(names)]
    bad = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise RuntimeError(f"logits of {names[bad[0]]} are not finite; no verdict can be read off")
    return logits


def check_logits(logits: Tensor, images: Tensor) -> None:
    """Refuse an output of the model that is not one row of logits an image.

    Raises:
        ValueError: names the type or the shape.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model must give logits, a Tensor, got a {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(
            f"the model must give ({len(images)}, K) logits for {len(images)} images, "
            f"got shape {tuple(logits.shape)}"
        )
