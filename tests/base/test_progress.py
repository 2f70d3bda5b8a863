from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from featdenoise.base.progress import Progress, Scalars


def test_a_bar_shows_what_is_done_and_the_rate(capsys) -> None:
    with Progress(10, what="attack", unit="image", done=4) as progress:
        progress.advance(6, loss="0.5")
    shown = capsys.readouterr().err
    assert "attack" in shown
    assert "10/10" in shown
    assert "loss=0.5" in shown


def test_other_processes_show_nothing(capsys) -> None:
    with Progress(10, what="attack", unit="image", show=False) as progress:
        progress.advance(10)
    assert capsys.readouterr().err == ""


def test_scalars_are_readable_by_tensorboard(tmp_path: Path) -> None:
    scalars = Scalars(tmp_path)
    for step in (1, 2):
        scalars.add({"loss": 1 / step}, step)
    scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(1, 1.0), (2, 0.5)]


def test_points_of_a_run_cut_short_are_hidden_on_resume(tmp_path: Path) -> None:
    first = Scalars(tmp_path)
    for step in (1, 2, 3):
        first.add({"loss": 1.0}, step)
    first.close()
    again = Scalars(tmp_path, purge_step=3)
    again.add({"loss": 2.0}, 3)
    again.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scalars = Scalars(None)
    scalars.add({"loss": 1.0}, 1)
    scalars.close()
    assert not list(tmp_path.iterdir())
