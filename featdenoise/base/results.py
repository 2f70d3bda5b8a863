"""Results files: a header line that says what was run, then one JSON line a row; nothing is lost.

A file's first line is the run header: `identity` (configuration with kinds, seed, data fingerprint;
compared on resume) and `volatile` facts (date, host, processes, versions; ignored). A line counts
only with its newline: a torn tail is cut. Floats are full precision, NaN and infinity are refused.

An evaluation's folder holds `parts/*.jsonl` while it runs, one file a process and start, and
`results.jsonl` in canonical order once every image is there exactly once.
"""

import dataclasses
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.chunks import Chunk, share_of_rank
from featdenoise.base.distributed import World

SCHEMA = 1
Row = dict[str, Any]
RESULTS_FILE = "results.jsonl"


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


def volatile_facts(world: World | None = None) -> Row:
    """What may differ between two runs of equal identity: date, host, processes, versions."""
    world = world or World()
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "device": gpu or platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


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
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except ValueError:
            raise ValueError(
                f"line {number} of {path} is damaged; delete that line to recompute its image"
            ) from None
    if not parsed or "identity" not in parsed[0]:
        raise ValueError(f"{path} does not begin with a run header; move it away to start afresh")
    if parsed[0].get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {parsed[0].get('schema')}, this version reads {SCHEMA}")
    return parsed[0], parsed[1:]


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
    # Through JSON, so that tuples and lists, 1 and 1.0 compare as they were written.
    here = json.loads(json.dumps(describe(identity)))
    different = differing_fields(header["identity"], here)
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


class EvaluationResults:
    """The rows of one evaluation: opened by all processes, resumable, merged at the end."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        chunks: Sequence[Chunk],
        *,
        rows_per_image: int = 1,
        world: World | None = None,
    ) -> None:
        """Open a folder to start or to continue; every process calls this.

        Args:
            folder: made if missing.
            identity: what defines the run; must equal the one already in the folder.
            chunks: all chunks of the run.
            rows_per_image: how many rows each image gets, for instance one an attacker.
            world: this process among all.

        Raises:
            ValueError: on every process: another configuration, or a damaged file.
        """
        self.folder = folder
        self.world = world or World()
        self._chunks = list(chunks)
        self._rows_per_image = rows_per_image
        self._header = make_header(identity, self.world)
        self.done_images = 0
        remaining = self.world.share(self._prepare(identity) if self.world.is_main else None)
        if isinstance(remaining, str):
            raise ValueError(remaining)
        kept = set(remaining)
        todo = [chunk for chunk in self._chunks if chunk.index in kept]
        self.done_images = sum(len(c.ids) for c in self._chunks if c.index not in kept)
        self.remaining = share_of_rank(todo, self.world.rank, self.world.size)
        """The chunks that this process still has to compute."""
        self._part = self._parts_folder / f"{self._count_parts():04d}-{self.world.rank:04d}.jsonl"
        self.world.barrier()

    @property
    def path(self) -> Path:
        """The merged file, there once the run is complete."""
        return self.folder / RESULTS_FILE

    def write(self, chunk: Chunk, rows: Sequence[Row]) -> None:
        """Append the rows of one finished chunk; each row names its image in `id`.

        Raises:
            RuntimeError: the rows are not those of the chunk's images.
        """
        wanted = sorted(i for i in chunk.ids for _ in range(self._rows_per_image))
        if sorted(row["id"] for row in rows) != wanted:
            raise RuntimeError(f"rows of chunk {chunk.index} do not match its images")
        lines = [to_line(row) for row in rows]
        if not self._part.exists():
            self._parts_folder.mkdir(parents=True, exist_ok=True)
            lines.insert(0, to_line(self._header))
        append_lines(self._part, lines)

    def finish(self) -> tuple[Row, list[Row]]:
        """Merge the parts in canonical order; every process gets the header and all rows.

        Raises:
            RuntimeError: an image is missing or has too many rows.
        """
        self.world.barrier()
        error = self.world.share(self._merge() if self.world.is_main else None)
        if error:
            raise RuntimeError(error)
        return read_results(self.path)

    @property
    def _parts_folder(self) -> Path:
        return self.folder / "parts"

    def _count_parts(self) -> int:
        # Never the name of an earlier start's file, which may end in a torn line.
        names = [int(p.name[:4]) for p in self._parts_folder.glob("*.jsonl")]
        return max(names, default=-1) + 1

    def _prepare(self, identity: Mapping[str, Any]) -> list[int] | str:
        """On rank 0: the indices of unfinished chunks, or the text of an error."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                header, _ = read_results(self.path)
                require_same_identity(header, identity, self.path)
                return []
            return self._compact(identity)
        except ValueError as error:
            return str(error)

    def _compact(self, identity: Mapping[str, Any]) -> list[int]:
        """Keep the rows of complete chunks in one file, drop the rest, say what is left to do."""
        parts = sorted(self._parts_folder.glob("*.jsonl"))
        rows_of: dict[int, list[Row]] = {}
        for part in parts:
            if b"\n" not in part.read_bytes():
                continue  # killed before the header was whole
            header, rows = read_results(part)
            require_same_identity(header, identity, part)
            for row in rows:
                # A kill between writing the compacted file and deleting its sources leaves copies.
                if row not in rows_of.setdefault(row["id"], []):
                    rows_of[row["id"]].append(row)
        complete = [c for c in self._chunks if self._is_complete(c, rows_of)]
        if parts:
            kept = [to_line(row) for chunk in complete for i in chunk.ids for row in rows_of[i]]
            target = self._parts_folder / f"{self._count_parts():04d}-kept.jsonl"
            write_atomically(target, "".join([to_line(self._header), *kept]).encode())
            for part in parts:
                part.unlink()
        done = {chunk.index for chunk in complete}
        return [chunk.index for chunk in self._chunks if chunk.index not in done]

    def _is_complete(self, chunk: Chunk, rows_of: Mapping[int, list[Row]]) -> bool:
        return all(len(rows_of.get(i, [])) == self._rows_per_image for i in chunk.ids)

    def _merge(self) -> str | None:
        """On rank 0: write the merged file, or give the text of an error."""
        if self.path.exists():
            return None
        rows_of: dict[int, list[Row]] = {}
        parts = sorted(self._parts_folder.glob("*.jsonl"))
        for part in parts:
            for row in read_results(part)[1]:
                rows_of.setdefault(row["id"], []).append(row)
        wanted = [i for chunk in self._chunks for i in chunk.ids]
        wrong = [i for i in wanted if len(rows_of.get(i, [])) != self._rows_per_image]
        if wrong:
            return f"{len(wrong)} images do not have {self._rows_per_image} rows, first: {wrong[:5]}"
        lines = [to_line(row) for i in wanted for row in rows_of[i]]
        write_atomically(self.path, "".join([to_line(self._header), *lines]).encode())
        for part in parts:
            part.unlink()
        if self._parts_folder.exists():
            self._parts_folder.rmdir()
        return None
