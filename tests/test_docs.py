"""Names that the documents use exist."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from featdenoise.training.recipes import RECIPES

ROOT = Path(__file__).parent.parent
NAMES = re.findall(r"`(featdenoise\.[\w.]+)`", (ROOT / "docs" / "paper_map.md").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_paper_map_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(import_module(module), attribute)


def test_the_paper_map_names_something() -> None:
    assert len(NAMES) > 10


def test_the_readme_names_every_recipe_and_links_to_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for name in RECIPES:
        assert name in text or name.endswith("-clean")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target
