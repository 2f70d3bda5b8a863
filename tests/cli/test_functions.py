"""`package.module:function` on the command line: what is called, what is refused and how."""

import sys

import pytest

from featdenoise.cli.functions import call_function, digest_code

CODE = """
import torch

number = 3

def seven():
    return 7

def variable(*args, size=2, **kwargs):
    return size

def of_width(width, depth=2):
    return width

class Net(torch.nn.Module):
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_functions.py").write_text(CODE)
    for name in ("own_functions", "own_names"):  # of an earlier test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_functions_and_classes_are_called(own) -> None:
    assert call_function("model", "own_functions:seven") == 7
    assert call_function("model", "own_functions:variable") == 2
    assert type(call_function("model", "own_functions:Net")).__name__ == "Net"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("own_functions:nothing", "cannot be found .*write package.module:function"),
        ("no_such_module:f", "cannot be found"),
        (":f", "cannot be found"),
        ("own_functions:number", "is a int, not a function"),
        ("own_functions:of_width", r"needs arguments \(width\).*write a function around it"),
    ],
)
def test_what_cannot_be_called_is_refused(own, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"model {source} {message}"):
        call_function("model", source)


def test_the_digest_is_of_the_file_that_holds_the_function(own, tmp_path) -> None:
    (tmp_path / "own_names.py").write_text("from own_functions import seven\n")
    before = digest_code("own_names:seven")
    assert before == digest_code("own_functions:seven")
    (tmp_path / "own_functions.py").write_text(CODE + "# edited\n")
    assert digest_code("own_names:seven") != before
    assert digest_code("math:floor") == "no source"
