"""Folding batch norm into the convolution before it (evaluation mode only).

With constant statistics, batch norm is y -> (y - mean) * scale + beta with
scale = gamma / sqrt(variance + eps), so conv(x) * scale + shift is one convolution with scaled
weights. torch.fx finds the pairs.

Left as they are: a batch norm without running statistics (it is not constant) or of a subclass (as
timm's with an activation inside), one that does not directly and alone follow a plain
`nn.Conv1d/2d/3d` that is called once, a pair of which one has a forward hook, and batch norm inside
modules that torch.fx cannot trace, which is said in a warning; around them everything is folded.
"""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

logger = logging.getLogger(__name__)

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

# What code that was not written for symbolic tracing raises when it meets a proxy.
_TRACE_FAILURES = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    NameError,
    AssertionError,
    ArithmeticError,
)


class Fold(NamedTuple):
    """A convolution, the batch norm after it, and the convolution that replaces both."""

    convolution: Convolution
    batch_norm: BatchNorm
    folded: Convolution


def fold_batch_norm(model: nn.Module) -> tuple[nn.Module, list[Fold]]:
    """Fold the batch norm of a model in evaluation mode.

    Returns:
        The folded module and its folds; it shares every submodule that is in no fold with `model`,
        which stays whole. `model` itself and no folds where there is nothing to fold.
    """
    if not any(isinstance(module, BatchNorm) for module in model.modules()):
        return model, []
    traced = _trace(model)
    parts = dict(traced.named_modules(remove_duplicate=False))
    calls = Counter(parts[str(n.target)] for n in traced.graph.nodes if n.op == "call_module")
    folds: list[Fold] = []
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        convolution, batch_norm = parts.get(str(source.target)), parts[str(node.target)]
        # Another call or another user of the convolution does not pass through this batch norm.
        if calls[convolution] != 1 or len(source.users) != 1 or len(node.all_input_nodes) != 1:
            continue
        fold = _pair(convolution, batch_norm)
        if fold is None:
            continue
        name = f"folded_convolution_{len(folds)}"
        traced.add_submodule(name, fold.folded)
        source.target = name
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
        folds.append(fold)
    if not folds:
        return model, []
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced, folds


@torch.no_grad()
def write_folded(fold: Fold) -> None:
    """Write the folded weights from the present weights and statistics of the pair."""
    convolution, batch_norm, folded = fold
    # In float64, so that folding adds one rounding and not three.
    assert batch_norm.running_mean is not None
    assert batch_norm.running_var is not None
    assert folded.bias is not None
    scale = (batch_norm.running_var.double() + batch_norm.eps).rsqrt()
    if batch_norm.weight is not None:
        scale = scale * batch_norm.weight.double()
    bias = 0 if convolution.bias is None else convolution.bias.double()
    shift = (bias - batch_norm.running_mean.double()) * scale
    if batch_norm.bias is not None:
        shift = shift + batch_norm.bias.double()
    rows = scale.reshape(-1, *[1] * (convolution.weight.ndim - 1))
    folded.weight.copy_(convolution.weight.double() * rows)
    folded.bias.copy_(shift)


def _pair(convolution: nn.Module | None, batch_norm: nn.Module) -> Fold | None:
    """The pair with its folded convolution, or None where these two cannot be folded."""
    if not isinstance(convolution, Convolution) or not isinstance(batch_norm, BatchNorm):
        return None
    # A subclass may compute something else.
    if not all(type(part).__module__.startswith("torch.nn.") for part in (convolution, batch_norm)):
        return None
    # What a hook does to an output would be lost.
    if convolution._forward_hooks or batch_norm._forward_hooks:
        return None
    statistics = batch_norm.running_var
    if batch_norm.training or statistics is None or statistics.dtype != convolution.weight.dtype:
        return None
    folded = copy.deepcopy(convolution)
    bias = convolution.weight.new_zeros(convolution.out_channels)
    folded.bias = nn.Parameter(bias, requires_grad=False)
    fold = Fold(convolution, batch_norm, folded)
    write_folded(fold)
    return fold


class _Entry(nn.Module):
    """Calls the model as a caller does, so that default arguments and hooks are traced too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Hand the images on."""
        return self.model(images)


class _UntraceableError(Exception):
    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__(reason)
        self.module = module


class _Tracer(fx.Tracer):
    """Names the innermost module that cannot be traced; treats the `opaque` types as one piece."""

    def __init__(self, opaque: dict[type[nn.Module], str]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self.is_leaf_module(m, ""):
            return super().call_module(m, forward, args, kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except _TRACE_FAILURES as error:
            raise _UntraceableError(m, str(error).partition("\n")[0]) from error


@contextmanager
def _refusing_custom_gradients() -> Iterator[None]:
    """Make `autograd.Function` untraceable: torch.fx would keep its forward, lose its backward."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(argument, fx.Proxy) for argument in (*args, *kwargs.values())):
            raise TypeError(f"{cls.__name__} has a backward of its own")
        return original.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


def _trace(model: nn.Module) -> fx.GraphModule:
    """Trace around what cannot be traced, saying so where that keeps a batch norm unfolded."""
    opaque: dict[type[nn.Module], str] = {}
    entry = _Entry(model)
    while True:
        tracer = _Tracer(opaque)
        try:
            with _refusing_custom_gradients():
                graph = tracer.trace(entry)
        except _UntraceableError as error:
            opaque[type(error.module)] = str(error)
            continue
        break
    lost = sorted(
        f"{type(module).__name__} ({opaque[type(module)]})"
        for module in {type(m): m for m in model.modules() if type(m) in opaque}.values()
        if any(isinstance(part, BatchNorm) for part in module.modules())
    )
    if lost:
        logger.warning(
            "torch.fx cannot trace %s: batch norm inside it stays unfolded (same values, slower)",
            ", ".join(lost),
        )
    return fx.GraphModule(entry, graph)
