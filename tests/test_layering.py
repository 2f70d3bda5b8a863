"""The architecture as a test: who may import whom, which libraries stay behind which wall."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "featdenoise"
FILES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "base": set(),
    "data": {"base"},
    "models": {"base"},
    "attacks": {"base"},
    "smoothing": {"base"},
    "evaluation": {"data", "models", "attacks", "smoothing", "base"},
    "blackbox": {"data", "models", "attacks", "smoothing", "base"},
    "report": {"base"},
    "training": {"evaluation", "blackbox", "data", "models", "attacks", "smoothing", "base"},
    "cli": {
        "training", "evaluation", "blackbox", "report", "data", "models", "attacks", "smoothing",
        "base",
    },
}  # fmt: skip

WALLS = {
    "tyro": ("cli/", "base/units.py"),
    "tqdm": ("base/progress.py",),
    "tensorboard": ("base/progress.py",),
    "scipy": ("base/binomial.py", "smoothing/"),
    "matplotlib": ("report/plots.py",),
    "timm": ("models/timm_", "models/registry.py"),
}


def imported_modules(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_down(path: Path) -> None:
    if path.parent == PACKAGE:
        return
    room = room_of(path)
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] != "featdenoise" or len(parts) < 2:
            continue
        assert parts[1] == room or parts[1] in MAY_IMPORT[room], f"{room} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_imports_the_init_of_its_own_package(path: Path) -> None:
    if path.name == "__init__.py":
        return
    tree = ast.parse(path.read_text())
    own = {"featdenoise", ".".join(("featdenoise", *path.relative_to(PACKAGE).parts[:-1]))}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in own, node.module


@pytest.mark.parametrize("library", WALLS)
def test_third_party_libraries_stay_behind_their_walls(library: str) -> None:
    for path in FILES:
        where = path.relative_to(PACKAGE).as_posix()
        uses = any(
            library in (part for part in module.split(".")) for module in imported_modules(path)
        )
        if uses:
            assert where.startswith(WALLS[library]), f"{where} imports {library}"


def test_pyplot_is_never_imported() -> None:
    assert not [p for p in FILES if "pyplot" in p.read_text().replace("no pyplot", "")]


def test_importing_everything_has_no_side_effect(tmp_path: Path) -> None:
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES
    ]
    program = f"""
import logging, os, random, sys
import numpy, torch, torchvision, timm, matplotlib.figure, tensorboard, sklearn.datasets, tyro
before = (os.listdir("."), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(),
          random.getstate(), logging.getLogger().handlers[:], torch.is_grad_enabled(),
          torch.get_num_threads())
for name in {modules!r}:
    __import__(name)
after = (os.listdir("."), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(),
         random.getstate(), logging.getLogger().handlers[:], torch.is_grad_enabled(),
         torch.get_num_threads())
assert before == after
assert not torch.cuda.is_initialized()
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_entry_scripts_are_thin() -> None:
    scripts = sorted(ROOT.glob("*.py"))
    assert [s.name for s in scripts] == ["eval_blackbox.py", "eval_whitebox.py", "train_adv.py"]
    for script in scripts:
        assert len(script.read_text().splitlines()) <= 15
