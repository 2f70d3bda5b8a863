"""Files over the network: into a cache, resumable, and refused when they are not what was asked.

A file is written to `NAME.part`, checked, renamed. Its sha256 is recorded in `NAME.json` at the
first download and checked at every use afterwards. A web page in place of the file, a truncated
file and changed content are errors that name the way out.

Environment: `FEATDENOISE_CACHE` is the cache folder, `~/.cache/featdenoise` by default;
`FEATDENOISE_MIRROR` names a base address or a folder that holds the files under their own names.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from featdenoise.base.checkpoint import sync_folder, write_atomically
from featdenoise.base.filekinds import FileKind, check_whole, kind_of, looks_like_a_web_page
from featdenoise.base.progress import Progress

CACHE_VARIABLE = "FEATDENOISE_CACHE"
MIRROR_VARIABLE = "FEATDENOISE_MIRROR"
_SCHEMES = ("https", "http", "file")
_PIECE = 1 << 20
_TIMEOUT = 60
_ATTEMPTS = 3
"""How often a transfer that breaks off is taken up again before the user is asked to."""


def cache_folder() -> Path:
    """Where downloaded files are kept."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/featdenoise").expanduser()


def fetch(
    url: str, *, name: str | None = None, expect: FileKind | None = None, show: bool = True
) -> Path:
    """The file at `url`, downloaded unless it is in the cache already.

    Processes that ask for one file at the same time wait for the first of them.

    Args:
        url: https, http or file.
        name: of the file in the cache and on a mirror; by default the last part of `url`.
        expect: what the file must be; by default what its name says.
        show: whether to draw a progress bar.

    Returns:
        A whole file of the expected kind, with the sha256 of its first download.

    Raises:
        ValueError: another scheme, a web page or another kind of file, or content that has changed.
        FileNotFoundError: a folder that does not hold the file.
        RuntimeError: the server refuses or the transfer breaks off; what has come is kept, and the
            same call goes on from there.
    """
    name = name or unquote(urlsplit(url).path.rpartition("/")[2])
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"the address {url} ends in no file name; give one as name")
    path = cache_folder() / name
    kind = expect or kind_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path):
        record = _read_record(path)
        if record is not None and record.url != url:
            raise ValueError(f"{path} was downloaded from {record.url}, not from {url}; move it")
        if not path.exists():
            _download(_address(url, name), path, kind, record, show=show)
        else:
            check_whole(path, kind, _way_out(path))
        _check_and_record(path, url, record)
    return path


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What is remembered of a whole file."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Partial:
    """What a part must still agree with when it is continued."""

    address: str
    validator: str | None
    size: int | None


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """An open transfer: its bytes from `start`, and what the whole file is."""

    content: BufferedIOBase
    start: int
    partial: _Partial
    web_page: bool = False


def _address(url: str, name: str) -> str:
    """Where the file is read from: the mirror's, if one is named."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        address = url
    elif urlsplit(mirror).scheme in _SCHEMES:
        address = f"{mirror.rstrip('/')}/{name}"
    elif Path(mirror).expanduser().is_dir():
        address = (Path(mirror).expanduser().resolve() / name).as_uri()
    else:
        raise ValueError(
            f"{MIRROR_VARIABLE} must be a folder or an address that begins with "
            f"{', '.join(_SCHEMES)}, got {mirror!r}"
        )
    if urlsplit(address).scheme not in _SCHEMES:
        raise ValueError(f"an address must begin with {', '.join(_SCHEMES)}, got {address!r}")
    return address


def _download(
    address: str, path: Path, kind: FileKind, record: _Record | None, *, show: bool
) -> None:
    part = path.with_name(path.name + ".part")
    memory = part.with_name(part.name + ".json")
    for attempt in range(1, _ATTEMPTS + 1):
        before = _size_of(part)
        size, is_whole = _transfer(address, part, memory, path, show=show)
        if is_whole:
            break
        if attempt == _ATTEMPTS or _size_of(part) <= before:
            raise RuntimeError(
                f"{address} broke off after {_size_of(part)} of {size or 'unknown'} bytes; what "
                f"came is kept in {part}, run the same command again to go on"
            )
    try:
        check_whole(part, kind, _way_out(path))
        if record is not None and _sha256(part) != record.sha256:
            raise ValueError(
                f"{address} has changed since it was first downloaded (sha256 {record.sha256[:12]} "
                f"then); delete {_record_path(path)} to accept the new content"
            )
    except ValueError:
        # Whole but wrong: to go on from it would only lengthen it.
        part.unlink()
        raise
    finally:
        memory.unlink(missing_ok=True)
    part.replace(path)
    sync_folder(path.parent)


def _transfer(
    address: str, part: Path, memory: Path, path: Path, *, show: bool
) -> tuple[int | None, bool]:
    """Append what is missing to the part, as far as the connection holds.

    Returns:
        The size of the whole file, if the server says it, and whether all of it is there.
    """
    known = _what_is_there(address, part, memory)
    if known is not None and known.size == _size_of(part):
        return known.size, True
    answer = _open(address, _size_of(part), known, path)
    with closing(answer.content):
        pieces = _Pieces(answer.content)
        first = next(iter(pieces), b"")
        if answer.web_page or looks_like_a_web_page(first):
            raise ValueError(
                f"{address} answered with a web page instead of the file (a sign-in, quota or "
                f"error page); {_way_out(path)}"
            )
        if not answer.start:  # gone before the memory speaks of another content
            part.unlink(missing_ok=True)
        memory.write_text(json.dumps(asdict(answer.partial)))
        total = 0 if answer.partial.size is None else answer.partial.size // _PIECE
        with (
            part.open("r+b" if answer.start else "wb") as file,
            Progress(
                total,
                what=f"download {path.name}",
                unit="MiB",
                done=answer.start // _PIECE,
                show=show,
            ) as progress,
        ):
            file.seek(answer.start)
            for piece in chain([first], pieces):
                before = file.tell()
                file.write(piece)
                progress.advance(file.tell() // _PIECE - before // _PIECE)
            file.flush()
            os.fsync(file.fileno())
    size = answer.partial.size
    return size, not pieces.broke_off and size in (None, _size_of(part))


class _Pieces:
    """The bytes of a transfer as they come; a connection that breaks ends them."""

    def __init__(self, content: BufferedIOBase) -> None:
        self._content = content
        self.broke_off = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            # read1: what has come counts, even if the connection breaks before a piece is full.
            while piece := self._content.read1(_PIECE):
                yield piece
        except (OSError, HTTPException):
            self.broke_off = True


def _what_is_there(address: str, part: Path, memory: Path) -> _Partial | None:
    """What an earlier transfer from this address left, if it can be continued."""
    if not part.exists() or not memory.exists():
        return None
    try:
        known = _Partial(**json.loads(memory.read_text()))
    except (ValueError, TypeError):
        return None
    fits = known.address == address and known.size is not None and _size_of(part) <= known.size
    return known if fits else None


def _open(address: str, offset: int, known: _Partial | None, path: Path) -> _Answer:
    """Ask for the file, or for what is missing after the first `offset` bytes of `known`."""
    if urlsplit(address).scheme == "file":
        return _open_file(address)
    headers = {"User-Agent": "featdenoise"}
    if known is not None and known.validator is not None and offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known.validator}
    response = _ask(Request(address, headers=headers), path)
    length = response.headers.get("Content-Length")
    size = None if length is None else int(length)
    start = 0
    if response.status == 206 and known is not None:
        start, size = offset, None if size is None else size + offset
        position = response.headers.get("Content-Range", "")
        if size != known.size or not position.startswith(f"bytes {offset}-"):
            response.close()
            return _open(address, 0, None, path)
    return _Answer(
        content=response,
        start=start,
        partial=_Partial(
            address=address,
            validator=response.headers.get("ETag") or response.headers.get("Last-Modified"),
            size=size,
        ),
        web_page=response.headers.get_content_type() in ("text/html", "application/xhtml+xml"),
    )


def _ask(request: Request, path: Path) -> HTTPResponse:
    try:
        return urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        raise RuntimeError(
            f"{request.full_url} answered {error.code} {error.reason}; {_way_out(path)}"
        ) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RuntimeError(
            f"{request.full_url} cannot be reached ({reason}); {_way_out(path)}"
        ) from None


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open_file(address: str) -> _Answer:
    path = Path(unquote(urlsplit(address).path))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}, where {address} was to be read")
    partial = _Partial(address=address, validator=None, size=path.stat().st_size)
    return _Answer(content=path.open("rb"), start=0, partial=partial)


def _check_and_record(path: Path, url: str, record: _Record | None) -> None:
    sha256 = _sha256(path)
    if record is None:
        text = json.dumps(asdict(_Record(url=url, sha256=sha256)), indent=2) + "\n"
        write_atomically(_record_path(path), text.encode())
    elif sha256 != record.sha256:
        raise ValueError(
            f"{path} has changed since it was downloaded: its sha256 is {sha256[:12]}, not "
            f"{record.sha256[:12]}; delete it to download it again"
        )


def _read_record(path: Path) -> _Record | None:
    place = _record_path(path)
    if not place.exists():
        return None
    try:
        return _Record(**json.loads(place.read_text()))
    except (ValueError, TypeError):
        raise ValueError(
            f"{place} is damaged; delete it and {path.name} to download again"
        ) from None


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _way_out(path: Path) -> str:
    return (
        f"download it another way and put it at {path}, or set {MIRROR_VARIABLE} to a mirror or "
        "to a folder that holds it"
    )


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of one cached file; the system lets go of it if the process is killed."""
    with path.with_name(path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
