import shutil
import socket

import pytest
import torch

from featdenoise.base.chunks import cut_chunks
from featdenoise.base.distributed import World, join_world
from featdenoise.base.evaluation_results import EvaluationResults
from featdenoise.base.results import make_header, read_results, to_line

IDENTITY = {"kind": "test", "seed": 0}
IDS = (9, 3, 5, 1, 7, 2, 8)
CHUNKS = cut_chunks(IDS, 3)


def rows_of(chunk, rows_per_image=1):
    return [
        {"id": i, "attacker": k, "value": (i + k) / 7}
        for i in chunk.ids
        for k in range(rows_per_image)
    ]


ROWS = [row for chunk in CHUNKS for row in rows_of(chunk)]


def open_run(folder, identity=IDENTITY, **settings):
    return EvaluationResults(folder, identity, CHUNKS, **settings)


def run(folder, compute=rows_of, **settings):
    """The rows of a finished run, and the indices of the chunks that were computed."""
    computed = []

    def compute_and_note(chunk):
        computed.append(chunk.index)
        return compute(chunk)

    results = open_run(folder, **settings)
    _, rows = results.complete(compute_and_note, what="test", show_progress=False)
    return rows, computed


def die_in_chunk(index):
    def compute(chunk):
        if chunk.index == index:
            raise KeyboardInterrupt
        return rows_of(chunk)

    return compute


def interrupted_part(folder, index=2):
    """Kill a run in a chunk; the one file of rows that it leaves."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, die_in_chunk(index))
    (part,) = (folder / "parts").glob("*.jsonl")
    return part


def test_rows_stand_in_the_order_asked_for_behind_the_header(tmp_path):
    rows, computed = run(tmp_path / "new" / "run")
    assert rows == ROWS
    assert computed == [0, 1, 2]
    header, stored = read_results(tmp_path / "new" / "run" / "results.jsonl")
    assert stored == ROWS
    assert header["identity"] == IDENTITY
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["results.jsonl"]


def test_chunks_finished_in_any_order_are_merged_in_canonical_order(tmp_path):
    results = open_run(tmp_path)
    for chunk in reversed(results.remaining):
        results.write(chunk, rows_of(chunk)[::-1])
    assert results.finish()[1] == ROWS


def test_rows_of_an_image_keep_their_order(tmp_path):
    rows, _ = run(tmp_path, lambda chunk: rows_of(chunk, 4), rows_per_image=4)
    assert rows == [row for chunk in CHUNKS for row in rows_of(chunk, 4)]


def test_completed_run_is_not_computed_again(tmp_path):
    run(tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    rows, computed = run(tmp_path)
    assert rows == ROWS
    assert computed == []
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_finished_chunks_survive_an_interruption(tmp_path):
    interrupted_part(tmp_path, index=1)
    assert not (tmp_path / "results.jsonl").exists()
    rows, computed = run(tmp_path)
    assert rows == ROWS
    assert computed == [1, 2]


def test_half_written_chunk_is_dropped_and_computed_again(tmp_path):
    part = interrupted_part(tmp_path)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:-1]))  # the second chunk lacks its last row
    rows, computed = run(tmp_path)
    assert rows == ROWS
    assert computed == [1, 2]


def test_no_start_appends_to_the_torn_line_of_an_earlier_one(tmp_path):
    part = interrupted_part(tmp_path)
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, die_in_chunk(2))
    rows, computed = run(tmp_path)
    assert rows == ROWS
    assert computed == [2]


def test_killed_at_any_byte_a_run_ends_with_equal_rows(tmp_path):
    part = interrupted_part(tmp_path / "first")
    content = part.read_bytes()
    last_lines = [to_line(rows_of(chunk)[-1]).encode() for chunk in CHUNKS[:2]]
    chunk_ends = [content.index(line) + len(line) for line in last_lines]
    for size in range(len(content) + 1):
        folder = tmp_path / "cut"
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / part.name).write_bytes(content[:size])
        rows, computed = run(folder)
        assert rows == ROWS
        assert computed == [0, 1, 2][sum(end <= size for end in chunk_ends) :]
        shutil.rmtree(folder)


@pytest.mark.parametrize("merged", [False, True])
def test_kill_before_the_sources_are_deleted_leaves_no_second_rows(tmp_path, merged):
    part = interrupted_part(tmp_path, index=1)
    kept = part.read_bytes()
    if merged:
        run(tmp_path)
        part.parent.mkdir()
    else:
        open_run(tmp_path)  # compacts the parts into another file
    part.write_bytes(kept)
    rows, computed = run(tmp_path)
    assert rows == ROWS
    assert computed == ([] if merged else [1, 2])
    assert not part.parent.exists()


def test_line_deleted_from_the_merged_file_is_computed_again(tmp_path):
    run(tmp_path)
    path = tmp_path / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5] + lines[6:]))  # of image 7, in the second chunk
    rows, computed = run(tmp_path)
    assert rows == ROWS
    assert computed == [1]


@pytest.mark.parametrize("line", [to_line(ROWS[0]), to_line({**ROWS[0], "id": 77})])
def test_row_too_many_in_the_merged_file_does_not_reach_a_count(tmp_path, line):
    run(tmp_path)
    merged = tmp_path / "results.jsonl"
    merged.write_text(merged.read_text() + line)
    assert run(tmp_path) == (ROWS, [])
    assert read_results(merged)[1] == ROWS


@pytest.mark.parametrize("row", [{"value": 1}, {"id": [1]}, {"id": "a"}])
def test_row_that_names_no_image_is_an_error_and_nothing_is_deleted(tmp_path, row):
    run(tmp_path)
    merged = tmp_path / "results.jsonl"
    merged.write_text(merged.read_text() + to_line(row))
    before = merged.read_bytes()
    with pytest.raises(ValueError, match=r"results\.jsonl names no image.*delete that line"):
        run(tmp_path)
    assert merged.read_bytes() == before


def test_damaged_line_of_a_part_is_an_error_and_nothing_is_deleted(tmp_path):
    part = interrupted_part(tmp_path)
    content = part.read_bytes()
    lines = content.split(b"\n")
    lines[2] = lines[2][:-3]
    part.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match="line 3 of"):
        open_run(tmp_path)
    assert part.exists()


@pytest.mark.parametrize("finished", [True, False])
def test_run_of_another_identity_is_refused_by_the_differing_fields(tmp_path, finished):
    if finished:
        run(tmp_path)
    else:
        interrupted_part(tmp_path)
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        open_run(tmp_path, identity={**IDENTITY, "seed": 1})
    assert run(tmp_path)[0] == ROWS


def test_missing_image_is_an_error(tmp_path):
    results = open_run(tmp_path)
    for chunk in results.remaining[:-1]:
        results.write(chunk, rows_of(chunk))
    with pytest.raises(RuntimeError, match=r"1 images do not have 1 rows, first: \[8\]"):
        results.finish()
    assert not (tmp_path / "results.jsonl").exists()


def test_image_with_two_different_rows_is_an_error(tmp_path):
    results = open_run(tmp_path)
    for chunk in results.remaining:
        results.write(chunk, rows_of(chunk))
    extra = [make_header(IDENTITY), {**ROWS[2], "value": -1.0}]
    (tmp_path / "parts" / "0099-0000.jsonl").write_text("".join(map(to_line, extra)))
    with pytest.raises(RuntimeError, match=r"do not have 1 rows, first: \[5\]"):
        results.finish()


@pytest.mark.parametrize(
    "wrong", [lambda r: r[:-1], lambda r: [*r, r[0]], lambda r: [{**r[0], "id": 77}, *r[1:]]]
)
def test_rows_of_other_images_than_the_chunks_are_refused(tmp_path, wrong):
    with pytest.raises(RuntimeError, match="rows of chunk 0 do not match its images"):
        run(tmp_path, lambda chunk: wrong(rows_of(chunk)))
    assert not (tmp_path / "parts").exists()


def test_row_that_is_not_finite_is_refused_and_its_chunk_not_written(tmp_path):
    with pytest.raises(ValueError, match="row 9 holds a value that is not finite"):
        run(tmp_path, lambda c: [{"id": i, "value": float("nan")} for i in c.ids])
    assert not (tmp_path / "parts").exists()


def test_run_without_images_has_a_header_and_no_rows(tmp_path):
    results = EvaluationResults(tmp_path, IDENTITY, [])
    header, rows = results.complete(rows_of, what="test", show_progress=False)
    assert header["identity"] == IDENTITY
    assert rows == []


def test_part_left_behind_by_a_kill_in_the_middle_of_a_write_does_not_stop_the_end(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0000-kept.jsonl.tmp").write_bytes(b"torn")
    assert run(tmp_path)[0] == ROWS
    assert not (tmp_path / "parts").exists()


class ShareOfTwo(World):
    """One of two processes, without the other: enough to see which chunks it would take."""

    def share(self, value):
        return value if self.is_main else [0, 1, 2]

    def barrier(self):
        pass


def test_processes_take_whole_chunks_and_each_exactly_once(tmp_path):
    taken = [open_run(tmp_path, world=ShareOfTwo(rank=rank, size=2)).remaining for rank in (0, 1)]
    assert [[chunk.index for chunk in chunks] for chunks in taken] == [[0, 2], [1]]


def run_as_one_of_two(rank, folder, port):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            patch.setenv(name, str(value))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", port)
        with join_world("cpu") as world:
            results = open_run(folder, world=world)
            header, rows = results.complete(rows_of, what="test", show_progress=False)
            assert rows == ROWS
            assert header["volatile"]["processes"] == 2
            with pytest.raises(ValueError, match="seed: 0 there, 5 here"):  # on every process
                open_run(folder, identity={**IDENTITY, "seed": 5}, world=world)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_and_share_errors(tmp_path):
    interrupted_part(tmp_path, index=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    torch.multiprocessing.spawn(run_as_one_of_two, (tmp_path, port), nprocs=2)
    assert run(tmp_path) == (ROWS, [])
