"""A user's own code on the command line: `package.module:function`, called without arguments."""

import hashlib
import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def call_function(what: str, source: str) -> Any:
    """What the function returns.

    Args:
        what: the field that named it, for errors.
        source: `package.module:function`, importable from the current folder.

    Raises:
        ValueError: there is no such function, or it needs arguments.
    """
    module_name, _, function_name = source.partition(":")
    if "" not in sys.path:  # an installed command does not search the current folder by itself
        sys.path.insert(0, "")
    try:
        function = getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what} {source} cannot be found ({error}); write package.module:function, "
            "importable from here"
        ) from error
    if not callable(function):
        raise ValueError(f"{what} {source} is a {type(function).__name__}, not a function")
    needed = _needed_arguments(function)
    if needed:
        raise ValueError(
            f"{what} {source} needs arguments ({', '.join(needed)}), but is called without any; "
            "write a function around it"
        )
    return function()


def digest_code(source: str) -> str:
    """Of the file that holds the function: a run is not continued with edited code."""
    module_name, _, function_name = source.partition(":")
    function = inspect.unwrap(getattr(import_module(module_name), function_name))
    try:
        file = inspect.getsourcefile(function)
    except TypeError:  # of a compiled or built-in one there is no source
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "no source"


def _needed_arguments(function: Any) -> list[str]:
    """Names of the arguments without a default; none where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
