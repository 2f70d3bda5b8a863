"""Start the entry scripts as a user would, and compare what they leave behind."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from featdenoise.base.checkpoint import list_checkpoints, load_checkpoint
from featdenoise.base.results import read_results

ROOT = Path(__file__).parent.parent


def command(script: str, arguments: list[str], processes: int) -> list[str]:
    """The command line of one entry script on so many processes."""
    if processes == 1:
        return [sys.executable, str(ROOT / script), *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={processes}", str(ROOT / script), *arguments]


def start(script: str, arguments: list[str], processes: int = 1) -> subprocess.Popen[str]:
    """Start a script in a process group of its own, one thread a process, quietly."""
    return subprocess.Popen(
        command(script, arguments, processes),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and its descendants: torchrun gives its workers sessions of their own."""
    victims = [process.pid]
    for victim in victims:  # grows while it is walked
        for children in Path(f"/proc/{victim}/task").glob("*/children"):
            victims += [int(child) for child in children.read_text().split()]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    process.communicate()


def run(script: str, arguments: list[str], processes: int = 1) -> float:
    """Run a script to its end; gives the seconds it took."""
    began = time.perf_counter()
    process = start(script, arguments, processes)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)} failed:\n{errors[-3000:]}")
    return time.perf_counter() - began


def digest_training(folder: Path) -> str:
    """A digest of the last checkpoint's weights, running statistics and optimizer state."""
    state = load_checkpoint(list_checkpoints(folder)[-1])
    digest = hashlib.sha256()
    _feed(digest, [state["step"], state["model"], state["optimizer"]])
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            digest.update(str(key).encode())
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def evaluation_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished evaluation, without times."""
    rows = read_results(folder / "results.jsonl")[1]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def count_lines(paths: list[Path]) -> int:
    """Whole lines in files that may be growing."""
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def require(claim: str, holds: bool) -> None:
    """Print a claim with its verdict; a claim that does not hold ends the script."""
    print(f"{'ok  ' if holds else 'FAIL'} {claim}", flush=True)
    if not holds:
        raise SystemExit(1)
