"""Results files: a header line that says what was run, then one JSON line a row; nothing is lost.

A file's first line is the run header: `identity` (configuration with kinds, seed, data fingerprint;
compared on resume) and `volatile` facts (date, host, processes, versions; ignored). A line counts
only with its newline: a torn tail is cut. Floats are full precision, NaN and infinity are refused.
Reports read nothing else. How an evaluation's rows get into such a file: `evaluation_results`.
"""

import dataclasses
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.distributed import World

SCHEMA = 1
Row = dict[str, Any]
RESULTS_FILE = "results.jsonl"
LOG_FILE = "log.jsonl"


def describe(value: Any) -> Any:
    """A configuration as plain JSON values; dataclasses carry their class name as `kind`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if isinstance(value, (Path, torch.device, torch.dtype)):
        return str(value)
    return value


def as_read(value: Any) -> Any:
    """A configuration as it comes back from a file: tuples as lists, names of kinds as text."""
    return json.loads(json.dumps(describe(value)))


def volatile_facts(world: World | None = None) -> Row:
    """What may differ between two runs of equal identity: date, host, processes, versions."""
    world = world or World()
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None
    return {
        "command": _command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "device": gpu or platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "git": _git_revision(),
    }


def _command() -> str:
    """What was typed, as a shell runs it again."""
    program = Path(sys.argv[0])
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    if program.suffix == ".py" and program.name != "__main__.py":
        script = program.name if program.is_absolute() else str(program)
        launcher = ["torchrun", f"--nproc_per_node={processes}"] if processes else ["python"]
        return shlex.join([*launcher, script, *sys.argv[1:]])
    launcher = ["torchrun", f"--nproc_per_node={processes}", "-m"] if processes else []
    return shlex.join([*launcher, "featdenoise", *sys.argv[1:]])


def _git_revision() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def numerics(world: World) -> Row:
    """What decides the last bit besides the settings: the library and the kind of device."""
    if world.device.type == "cuda":
        device = torch.cuda.get_device_name(world.device)
    else:
        device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": str(torch.__version__), "device": device}


def make_header(identity: Mapping[str, Any], world: World | None = None) -> Row:
    """A header line for this identity, stamped with today's volatile facts."""
    return {"schema": SCHEMA, "identity": describe(identity), "volatile": volatile_facts(world)}


def to_line(row: Mapping[str, Any]) -> str:
    """One JSON line.

    Raises:
        ValueError: the row holds NaN or infinity.
    """
    try:
        return json.dumps(row, allow_nan=False) + "\n"
    except ValueError:
        name = row.get("id", row.get("step"))
        raise ValueError(f"row {name} holds a value that is not finite: {row}") from None


def read_results(path: Path) -> tuple[Row, list[Row]]:
    """The header and the rows of a results file; a last line without its newline is dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no header, or a damaged line in the middle.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no results file at {path}")
    lines = path.read_bytes().split(b"\n")[:-1]
    header = _from_line(lines[0]) if lines else None
    if header is None or "identity" not in header:
        raise ValueError(f"{path} does not begin with a run header; move it away to start afresh")
    if header.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {header.get('schema')}, this version reads {SCHEMA}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        row = _from_line(line)
        if row is None:
            raise ValueError(
                f"line {number} of {path} is damaged; delete that line to have it computed again"
            )
        rows.append(row)
    return header, rows


def has_header(path: Path) -> bool:
    """Whether the first line is whole; not so if the process that began the file was killed."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _from_line(line: bytes) -> Row | None:
    """The row, or None where the line is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def differing_fields(there: Any, here: Any, prefix: str = "") -> list[str]:
    """Where two identities differ, as lines like `attack.epsilon: 0.1 there, 0.2 here`."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = [*there, *(name for name in here if name not in there)]
        found = []
        for name in names:
            dotted = f"{prefix}.{name}" if prefix else name
            found += differing_fields(there.get(name), here.get(name), dotted)
        return found
    return [] if there == here else [f"{prefix}: {there!r} there, {here!r} here"]


def require_same_identity(header: Row, identity: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run of another configuration.

    Raises:
        ValueError: lists the differing fields and the way out.
    """
    different = differing_fields(header["identity"], as_read(identity))
    if different:
        raise ValueError(
            f"{path} belongs to a run of another configuration ({'; '.join(different)}); "
            "choose another output folder or the same settings"
        )


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append whole lines in one write and sync them."""
    with path.open("ab") as file:
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


class StepLog:
    """The log of a training run: one row a step, cut back to the checkpoint on resume.

    Rows are written at once for people to watch, and synced with each checkpoint.
    """

    def __init__(self, path: Path, header: Row, *, last_step: int) -> None:
        """Open the log, dropping the rows of steps after `last_step` (the checkpoint's).

        The header becomes that of this start: an earlier one that left no checkpoint may have been
        of another recipe.
        """
        kept: list[Row] = []
        if path.exists() and has_header(path):
            kept = [row for row in read_results(path)[1] if row["step"] <= last_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(to_line(row) for row in [header, *kept]).encode())
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Write one row, which names its `step`."""
        self._file.write(to_line(row))
        self._file.flush()

    def sync(self) -> None:
        """Make all rows survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()
