"""The rows of one sharded, resumable evaluation; nothing is lost, nothing is computed twice.

Its folder holds `parts/*.jsonl` while it runs, one file a process and start, and `results.jsonl`
in canonical order once every image is there with all its rows. Killed at any byte, the next start
keeps the rows of whole chunks and computes the others.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.chunks import Chunk, share_of_rank
from featdenoise.base.distributed import World
from featdenoise.base.progress import Progress
from featdenoise.base.results import (
    RESULTS_FILE,
    Row,
    append_lines,
    has_header,
    make_header,
    read_results,
    require_same_identity,
    to_line,
)


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
        self._identity = identity
        self._header = make_header(identity, self.world)
        remaining = set(self.world.on_main(self._prepare))
        todo = [chunk for chunk in self._chunks if chunk.index in remaining]
        self.remaining = share_of_rank(todo, self.world.rank, self.world.size)
        """The chunks that this process still has to compute."""
        self._num_done = sum(len(c.ids) for c in self._chunks if c.index not in remaining)
        self._part = self._parts_folder / f"{self._next_number():04d}-{self.world.rank:04d}.jsonl"
        self.world.barrier()

    @property
    def path(self) -> Path:
        """The merged file, there once the run is complete."""
        return self.folder / RESULTS_FILE

    def complete(
        self, compute: Callable[[Chunk], Iterable[Row]], *, what: str, show_progress: bool
    ) -> tuple[Row, list[Row]]:
        """Compute what remains behind a progress bar, then `finish`; every process calls this.

        Args:
            compute: the rows of one chunk, `rows_per_image` each; the bar moves as they come.
            what: stands before the bar.
            show_progress: whether the main process shows it.
        """
        shared = "" if self.world.size == 1 else f" (process 1 of {self.world.size})"
        done = self._num_done * self._rows_per_image
        own = sum(len(chunk.ids) for chunk in self.remaining) * self._rows_per_image
        with Progress(
            done + own,
            what=what + shared,
            unit="image",
            done=done,
            show=show_progress and self.world.is_main,
        ) as progress:
            for chunk in self.remaining:
                rows = []
                for row in compute(chunk):
                    rows.append(row)
                    progress.advance()
                self.write(chunk, rows)
        return self.finish()

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
            RuntimeError: on every process: an image is missing or has too many rows.
        """
        self.world.barrier()
        self.world.on_main(self._merge)
        return read_results(self.path)

    @property
    def _parts_folder(self) -> Path:
        return self.folder / "parts"

    def _parts(self) -> list[Path]:
        return sorted(self._parts_folder.glob("*.jsonl"))

    def _next_number(self) -> int:
        # Never the name of an earlier start's file, which may end in a torn line.
        return max((int(part.name.partition("-")[0]) for part in self._parts()), default=-1) + 1

    def _prepare(self) -> list[int]:
        """Keep the rows of whole chunks in one file, drop the rest; indices of what is left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # A merged file that somebody changed, as by deleting a damaged line, is one more part.
        found = [*self._parts(), *([self.path] if self.path.exists() else [])]
        rows_of = self._read_rows(found)
        whole = [chunk for chunk in self._chunks if self._is_whole(chunk, rows_of)]
        if len(whole) == len(self._chunks) and self._is_merged(rows_of):
            self._delete_parts()
        elif found:
            self._parts_folder.mkdir(exist_ok=True)
            kept = self._parts_folder / f"{self._next_number():04d}-kept.jsonl"
            self._write_rows(kept, whole, rows_of)
            for path in found:
                path.unlink()
        done = {chunk.index for chunk in whole}
        return [chunk.index for chunk in self._chunks if chunk.index not in done]

    def _merge(self) -> None:
        """Write the merged file, unless it was there when this run began."""
        if self.path.exists():
            return
        rows_of = self._read_rows(self._parts())
        wanted = [i for chunk in self._chunks for i in chunk.ids]
        wrong = [i for i in wanted if len(rows_of.get(i, [])) != self._rows_per_image]
        if wrong:
            raise RuntimeError(
                f"{len(wrong)} images do not have {self._rows_per_image} rows, first: {wrong[:5]}"
            )
        self._write_rows(self.path, self._chunks, rows_of)
        self._delete_parts()

    def _read_rows(self, paths: Sequence[Path]) -> dict[int, list[Row]]:
        """The rows of each image in these files."""
        rows_of: dict[int, list[Row]] = {}
        for path in paths:
            if path != self.path and not has_header(path):
                continue  # a part whose process was killed while it began
            header, rows = read_results(path)
            require_same_identity(header, self._identity, path)
            for row in rows:
                if type(row.get("id")) is not int:
                    raise ValueError(f"a row of {path} names no image: {row}; delete that line")
                # A kill between writing a file and deleting its sources leaves copies.
                if row not in rows_of.setdefault(row["id"], []):
                    rows_of[row["id"]].append(row)
        return rows_of

    def _is_whole(self, chunk: Chunk, rows_of: Mapping[int, list[Row]]) -> bool:
        return all(len(rows_of.get(i, [])) == self._rows_per_image for i in chunk.ids)

    def _is_merged(self, rows_of: Mapping[int, list[Row]]) -> bool:
        """Whether the merged file is there, with no row too many."""
        return self.path.exists() and read_results(self.path)[1] == _in_order(self._chunks, rows_of)

    def _write_rows(
        self, path: Path, chunks: Sequence[Chunk], rows_of: Mapping[int, list[Row]]
    ) -> None:
        rows = _in_order(chunks, rows_of)
        write_atomically(path, "".join(to_line(row) for row in [self._header, *rows]).encode())

    def _delete_parts(self) -> None:
        if self._parts_folder.exists():
            shutil.rmtree(self._parts_folder)


def _in_order(chunks: Sequence[Chunk], rows_of: Mapping[int, list[Row]]) -> list[Row]:
    return [row for chunk in chunks for i in chunk.ids for row in rows_of[i]]
