import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from featdenoise.base.download import cache_folder, fetch

PAGE = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


def npz_bytes(seed: int = 0) -> bytes:
    content = io.BytesIO()
    np.savez(content, w=np.random.default_rng(seed).normal(size=(700, 700)))
    return content.getvalue()


@dataclass
class Host:
    """What the server does, and what it was asked."""

    content: bytes = field(default_factory=npz_bytes)
    content_type: str = "application/octet-stream"
    status: int = 200
    ranges: bool = True
    validator: bool = True
    says_length: bool = True
    break_after: list[int] = field(default_factory=list)
    """Bytes sent by each answer before it breaks off; later answers are whole."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:8]}"'


def make_handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            host.requests.append((self.path, asked))
            start = 0
            if asked and host.ranges and self.headers.get("If-Range") == host.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            body = host.content[start:]
            self.send_response(206 if start else host.status)
            self.send_header("Content-Type", host.content_type)
            if host.says_length:
                self.send_header("Content-Length", str(len(body)))
            if start:
                end = len(host.content)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            if host.validator:
                self.send_header("ETag", host.etag)
            self.end_headers()
            limit = host.break_after.pop(0) if host.break_after else len(body)
            self.wfile.write(body[:limit])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    monkeypatch.setenv("FEATDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEATDENOISE_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    host = Host()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(host))
    host.url = f"http://127.0.0.1:{server.server_address[1]}/v0/R152.npz"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield host
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, **options: object) -> Path:
    return fetch(url, show=False, **options)  # type: ignore[arg-type]


def names_in_cache() -> list[str]:
    return sorted(p.name for p in cache_folder().iterdir() if p.suffix != ".lock")


def test_file_comes_whole_with_its_hash_and_only_once(host: Host) -> None:
    path = get(host.url)
    assert path == cache_folder() / "R152.npz"
    assert path.read_bytes() == host.content
    assert json.loads(path.with_name("R152.npz.json").read_text()) == {
        "url": host.url,
        "sha256": hashlib.sha256(host.content).hexdigest(),
    }
    assert names_in_cache() == ["R152.npz", "R152.npz.json"]
    assert get(host.url) == path
    assert host.requests == [("/v0/R152.npz", None)]


def test_progress_is_drawn_when_asked(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(host.url)
    assert "download R152.npz" in capsys.readouterr().err


def test_file_that_breaks_off_is_continued_at_once(host: Host) -> None:
    host.break_after = [1_000_000, 500_000]
    assert get(host.url).read_bytes() == host.content
    assert [asked for _, asked in host.requests] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert names_in_cache() == ["R152.npz", "R152.npz.json"]


def test_what_came_is_kept_and_the_next_call_goes_on_from_it(host: Host) -> None:
    size = len(host.content)
    host.break_after = [1000, 1000, 1000]
    with pytest.raises(RuntimeError, match=rf"broke off after 3000 of {size} bytes.*again to go"):
        get(host.url)
    part = cache_folder() / "R152.npz.part"
    assert part.read_bytes() == host.content[:3000]
    assert not (cache_folder() / "R152.npz").exists()
    assert get(host.url).read_bytes() == host.content
    assert host.requests[-1] == ("/v0/R152.npz", "bytes=3000-")
    assert not part.exists()


def test_answer_without_any_progress_is_not_asked_for_again(host: Host) -> None:
    host.break_after = [1000, 0]
    with pytest.raises(RuntimeError, match="broke off after 1000 of"):
        get(host.url)
    assert len(host.requests) == 2


@pytest.mark.parametrize("field_name", ["ranges", "validator"])
def test_server_that_cannot_continue_sends_it_all_again(host: Host, field_name: str) -> None:
    setattr(host, field_name, False)
    host.break_after = [1000, 2000]
    assert get(host.url).read_bytes() == host.content


def test_part_of_a_file_that_has_changed_meanwhile_is_not_continued(host: Host) -> None:
    host.break_after = [1000] * 3
    with pytest.raises(RuntimeError, match="broke off"):
        get(host.url)
    host.content = npz_bytes(seed=1)
    assert get(host.url).read_bytes() == host.content
    assert host.requests[-1][1] == "bytes=3000-"


def test_part_from_elsewhere_is_not_continued(host: Host) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "R152.npz.part").write_bytes(b"?" * 5_000_000)
    assert get(host.url).read_bytes() == host.content


def test_file_without_a_stated_length_that_lacks_its_end_is_refused(host: Host) -> None:
    host.says_length = False
    host.content = host.content[:-3000]
    with pytest.raises(ValueError, match=r"R152\.npz\.part is truncated: the archive has no end"):
        get(host.url)
    assert names_in_cache() == []


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page_is_not_taken_for_weights(host: Host, content_type: str) -> None:
    host.content, host.content_type = PAGE, content_type
    with pytest.raises(ValueError, match="answered with a web page instead of the file") as error:
        get(host.url)
    assert host.url in str(error.value)
    assert "FEATDENOISE_MIRROR" in str(error.value)
    assert names_in_cache() == []


def test_html_content_type_alone_is_enough_to_refuse(host: Host) -> None:
    host.content_type = "text/html"
    with pytest.raises(ValueError, match="web page"):
        get(host.url)


def test_another_kind_of_file_is_refused(host: Host) -> None:
    host.content = b"\x1f\x8b\x08 a gzip archive, perhaps"
    with pytest.raises(ValueError, match=r"is not an \.npz file: it begins with"):
        get(host.url)
    assert names_in_cache() == []
    assert get(host.url, expect="any").read_bytes() == host.content


@pytest.mark.parametrize(("status", "text"), [(404, "404 Not Found"), (503, "503 Service")])
def test_refusal_names_address_status_and_way_out(host: Host, status: int, text: str) -> None:
    host.status = status
    with pytest.raises(RuntimeError, match=f"{host.url} answered {text}.*put it at .*R152.npz"):
        get(host.url)


def test_unreachable_server_is_named(host: Host) -> None:
    with pytest.raises(RuntimeError, match=r"http://127\.0\.0\.1:1/a\.npz cannot be reached"):
        get("http://127.0.0.1:1/a.npz")


@pytest.mark.parametrize("url", ["ftp://example.org/a.npz", "//example.org/a.npz"])
def test_other_schemes_are_refused(host: Host, url: str) -> None:
    with pytest.raises(ValueError, match="must begin with https, http, file"):
        get(url)


@pytest.mark.parametrize("url", ["https://example.org/", "https://example.org/.hidden"])
def test_address_without_a_file_name_is_refused(host: Host, url: str) -> None:
    with pytest.raises(ValueError, match="ends in no file name"):
        get(url)


def test_cached_file_that_was_changed_is_refused_by_its_hash(host: Host) -> None:
    path = get(host.url)
    content = bytearray(host.content)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has changed since it was downloaded: its sha256 is"):
        get(host.url)
    path.unlink()
    assert get(host.url).read_bytes() == host.content


def test_cached_file_that_lost_its_end_is_refused(host: Host) -> None:
    path = get(host.url)
    path.write_bytes(host.content[:-100])
    with pytest.raises(ValueError, match="is truncated"):
        get(host.url)


def test_content_that_changed_since_the_first_download_is_refused(host: Host) -> None:
    path = get(host.url)
    path.unlink()
    host.content = npz_bytes(seed=1)
    with pytest.raises(ValueError, match=r"has changed since it was first downloaded.*json to acc"):
        get(host.url)
    assert names_in_cache() == ["R152.npz.json"]


def test_two_addresses_do_not_share_one_name(host: Host) -> None:
    get(host.url)
    other = host.url.replace("v0", "v9")
    with pytest.raises(ValueError, match=r"was downloaded from .*v0/R152\.npz, not from"):
        get(other)
    assert get(other, name="other.npz").read_bytes() == host.content


def test_file_put_into_the_cache_by_hand_is_checked_and_used(host: Host) -> None:
    cache_folder().mkdir(parents=True)
    path = cache_folder() / "R152.npz"
    path.write_bytes(PAGE)
    with pytest.raises(ValueError, match="is a web page, not weights"):
        get(host.url)
    path.write_bytes(host.content)
    assert get(host.url) == path
    assert host.requests == []
    assert path.with_name("R152.npz.json").is_file()


def test_mirror_address_replaces_the_original(host: Host, monkeypatch) -> None:
    monkeypatch.setenv("FEATDENOISE_MIRROR", host.url.rpartition("/")[0].replace("v0", "mirror"))
    path = get("https://example.org/releases/R152.npz")
    assert path.read_bytes() == host.content
    assert host.requests == [("/mirror/R152.npz", None)]
    assert json.loads(path.with_name("R152.npz.json").read_text())["url"].startswith("https://exam")


@pytest.mark.parametrize("as_address", [False, True])
def test_offline_folder_replaces_the_network(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_address: bool
) -> None:
    folder = tmp_path / "off line"
    folder.mkdir()
    monkeypatch.setenv("FEATDENOISE_MIRROR", folder.as_uri() if as_address else str(folder))
    url = "https://example.org/releases/R152.npz"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*off line/R152\.npz"):
        get(url)
    (folder / "R152.npz").write_bytes(host.content)
    assert get(url).read_bytes() == host.content


def test_mirror_that_is_nothing_is_refused(host: Host, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATDENOISE_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="FEATDENOISE_MIRROR must be a folder or an address"):
        get(host.url)


def test_damaged_record_is_named(host: Host) -> None:
    path = get(host.url)
    path.with_name("R152.npz.json").write_text("{")
    with pytest.raises(ValueError, match=r"R152\.npz\.json is damaged; delete it"):
        get(host.url)


def test_many_at_once_download_once(host: Host) -> None:
    threads = [threading.Thread(target=get, args=(host.url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(host.requests) == 1
    assert get(host.url).read_bytes() == host.content


def test_cache_folder_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATDENOISE_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "featdenoise"
