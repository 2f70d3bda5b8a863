"""What a run folder holds: its results files and, of a white-box run, its self-checks.

A folder is a finished run if `results.jsonl` (white box, black box, certification) or `log.jsonl`
(training) lies in it, or, of a white-box run, in a sub-folder for each attack.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featdenoise.base.chunks import hash_subset
from featdenoise.base.results import LOG_FILE, RESULTS_FILE, Row, read_results
from featdenoise.base.selfcheck_results import Check, read_checks
from featdenoise.base.whitebox_plan import PLAN_FILE, read_plan
from featdenoise.base.whitebox_rows import EntryRows


@dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """One file, read."""

    path: Path
    header: Row
    rows: list[Row]

    @property
    def identity(self) -> Row:
        """What was run."""
        return dict(self.header["identity"])

    @property
    def command(self) -> str | None:
        """The shell command that wrote it, if it was noted."""
        command = self.header.get("volatile", {}).get("command")
        return shlex.join(command) if isinstance(command, list) else command


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    kind: str
    files: tuple[ResultsFile, ...]
    """One; of a white-box run, one an attack."""
    checks: tuple[Check, ...] | None = None
    """None: the run was not checked."""
    suspect: bool = False
    """Whether a check failed: the model may look more robust than it is."""
    unchecked: tuple[str, ...] = ()
    """Attacks of a white-box run that no self-check has looked at."""

    @property
    def name(self) -> str:
        """The model's label; a training run has none and is called after its folder."""
        labelled = self.files[0].identity.get("model", {})
        return str(labelled.get("name", self.folder.resolve().name))

    @property
    def entries(self) -> list[EntryRows]:
        """Of a white-box run, for counting."""
        return [EntryRows(identity=file.identity, rows=file.rows) for file in self.files]

    @property
    def failed_checks(self) -> list[Check]:
        """In the order of the run."""
        return [check for check in self.checks or () if not check.passed]


def read_runs(folder: Path) -> list[Run]:
    """The run in this folder, and the white-box run beside a training run, if there is one.

    Raises:
        FileNotFoundError: no such folder, no results, or a run that is not finished.
        ValueError: damaged files.
    """
    run = read_run(folder)
    attacked = _run_of_entries(folder) if run.kind == "training" else None
    return [run] if attacked is None else [run, attacked]


def read_run(folder: Path) -> Run:
    """Read a run folder, or the folder of one attack of a white-box run.

    Raises:
        FileNotFoundError: no such folder, no results, or a run that is not finished.
        ValueError: damaged files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder at {folder}")
    for name in (RESULTS_FILE, LOG_FILE):
        if (folder / name).is_file():
            file = _read_file(folder / name)
            kind = "training" if name == LOG_FILE else str(file.identity.get("kind"))
            # The checks of a run are about each of its attacks.
            home = folder.parent if file.identity.get("entry") else folder
            return _checked(Run(folder=folder, kind=kind, files=(file,)), home)
    run = _run_of_entries(folder)
    if run is not None:
        return run
    _require_finished(folder, *_sub_folders(folder))
    several = ""
    if any((sub_folder / RESULTS_FILE).is_file() for sub_folder in _sub_folders(folder)):
        several = f"; it holds several runs, name them: {folder}/*"
    raise FileNotFoundError(
        f"no {RESULTS_FILE} or {LOG_FILE} in {folder}; is it a run folder?{several}"
    )


def read_whitebox_run(folder: Path) -> Run:
    """Read a white-box run, also one that lies in the folder of the training run.

    Raises:
        FileNotFoundError: no such folder, no results, or a run that is not finished.
        ValueError: damaged files, or a run of another kind.
    """
    run = None
    if folder.is_dir() and not (folder / RESULTS_FILE).is_file():
        run = _run_of_entries(folder)
    run = run or read_run(folder)
    if run.kind != "whitebox":
        raise ValueError(f"{folder} is a {run.kind} run and not a white-box run")
    return run


def commands_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """The commands that made these runs, each once, in their order."""
    noted = (file.command for run in runs for file in run.files)
    return tuple(dict.fromkeys(command for command in noted if command))


def _run_of_entries(folder: Path) -> Run | None:
    """The white-box run whose attacks have sub-folders here, if there is one."""
    paths = [path / RESULTS_FILE for path in _sub_folders(folder)]
    files = [_read_file(path) for path in paths if path.is_file()]
    entries = [file for file in files if file.identity.get("entry")]
    if not entries:
        return None
    _require_finished(*(path.parent for path in paths if not path.is_file()))
    entries.sort(key=_order)
    names = [str(file.identity["entry"]) for file in entries]
    plan = list(read_plan(folder) or names)
    missing = [name for name in plan if name not in names]
    if missing:
        raise FileNotFoundError(
            f"the run in {folder} is not finished: {', '.join(missing)} have no results; start it "
            "again with the same settings to resume, or take what shall not be run out of "
            f"{folder / PLAN_FILE}"
        )
    places = {name: place for place, name in enumerate(plan)}
    entries.sort(key=lambda file: places.get(str(file.identity["entry"]), len(plan)))
    return _checked(Run(folder=folder, kind="whitebox", files=tuple(entries)), folder)


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _read_file(path: Path) -> ResultsFile:
    header, rows = read_results(path)
    # A lost row must not raise an accuracy: the header says which images the run is about.
    if not _has_all_rows(header["identity"], rows):
        raise ValueError(
            f"{path} has lost, doubled or moved rows: its {len(rows)} are not those of the images "
            "in its header; start the run again with the same settings to have them computed"
        )
    return ResultsFile(path=path, header=header, rows=rows)


def _has_all_rows(identity: Row, rows: Sequence[Row]) -> bool:
    if identity.get("kind") == "blackbox":
        num_images = identity.get("num_images")
        rows_per_image = 1 + len(identity.get("attackers", ()))  # one is about the clean image
        return num_images is None or len(rows) == num_images * rows_per_image
    images = identity.get("images")
    return images is None or hash_subset([row.get("id", -1) for row in rows]) == images


def _checked(run: Run, home: Path) -> Run:
    if run.kind != "whitebox":
        return run
    checks, suspect = read_checks(home) or (None, False)
    plan = read_plan(home) or {}
    names = [entry.name for entry in run.entries]
    return replace(
        run,
        checks=checks,
        suspect=suspect,
        unchecked=tuple(name for name in names if not plan.get(name, False)),
    )


def _require_finished(*folders: Path) -> None:
    for folder in folders:
        if (folder / "parts").is_dir():
            raise FileNotFoundError(
                f"the run in {folder} is not finished; start it again with the same settings to "
                "resume"
            )


def _order(file: ResultsFile) -> tuple[int, str, int, str]:
    """Where there is no plan: a worst-case run notes what came before, another has no order."""
    identity = file.identity
    attack = json.dumps(identity.get("attack"), sort_keys=True)
    restart = int(identity.get("restart") or 0)
    return len(identity.get("preceding") or ()), attack, restart, str(identity["entry"])
