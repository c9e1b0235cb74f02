"""A detector over a folder of bags, in processes and on a local Ray cluster."""

import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from pd_edge import replay_many
from pd_edge.bags import BagReader
from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.errors import DataError
from pd_edge.kitti import Calibration, RawDrive, write_raw_drive
from pd_edge.kitti_bag import write_drive
from pd_edge.replay import DETECTIONS
from pd_edge.replay_many import (
    ATTEMPTS,
    DetectorChoice,
    Outcome,
    Task,
    find_bags,
    holds_bags,
    outcome_table,
    plan,
    replay_in_processes,
    replay_on_ray,
    replay_task,
)

SCANS = 3
TIMES = [1_767_225_600_000_000_000 + n * 100_000_000 for n in range(SCANS)]


@pytest.fixture(scope="module")
def bags(
    tmp_path_factory: pytest.TempPathFactory, calibration: Calibration, tiny_cloud: npt.NDArray[np.float32]
) -> Path:
    """Three of one drive, as .mcap, as a rosbag2 folder, and one of which only the start is there; and no bag."""
    root = tmp_path_factory.mktemp("many")
    path = root / "raw" / "2026_01_01" / "2026_01_01_drive_0001_sync"
    write_raw_drive(path, [tiny_cloud] * SCANS, TIMES, calibration)
    folder = root / "bags"
    write_drive(RawDrive(path), folder / "first.mcap")
    write_drive(RawDrive(path), folder / "deeper" / "second.day")
    (folder / "damaged.mcap").write_bytes((folder / "first.mcap").read_bytes()[:40])
    (folder / "notes.txt").write_text("no bag")
    return folder


def task(bags: Path, out: Path, bundle: Bundle) -> Task:
    return Task(bags, out, DetectorChoice(str(bundle.folder), "onnxruntime", threads=1))


def test_a_choice_goes_all_around_where_it_says_so(tiny_bundle: Bundle) -> None:
    for coverage in ("front", "full"):
        chosen = DetectorChoice(str(tiny_bundle.folder), "onnxruntime", threads=1, coverage=coverage)
        assert chosen.load().coverage == coverage


def test_bags_are_found_at_any_depth(bags: Path) -> None:
    found = [str(path.relative_to(bags)) for path in find_bags(bags)]
    assert found == ["damaged.mcap", "deeper/second.day", "first.mcap"]
    assert holds_bags(bags)
    assert holds_bags(bags / "deeper")
    assert not holds_bags(bags / "deeper" / "second.day")
    assert not holds_bags(bags / "first.mcap")


def test_a_folder_with_one_file_of_a_bag_is_that_bag(bags: Path, tmp_path: Path) -> None:
    shutil.copy(bags / "first.mcap", tmp_path)
    assert not holds_bags(tmp_path)


def test_results_have_their_bag_s_name_and_are_kept(bags: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    tasks, there = plan(bags, tmp_path, task(bags, tmp_path, tiny_bundle))
    assert [str(each.out.relative_to(tmp_path)) for each in tasks] == [
        "damaged.mcap",
        "deeper/second.day.mcap",
        "first.mcap",
    ]
    assert there == []
    tasks[2].out.write_bytes(b"a result")
    tasks, there = plan(bags, tmp_path, task(bags, tmp_path, tiny_bundle))
    assert len(tasks) == 2
    assert there == [tmp_path / "first.mcap"]


def test_a_folder_that_cannot_be_replayed_is_refused(bags: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    wanted = task(bags, tmp_path, tiny_bundle)
    with pytest.raises(DataError, match=r"no bags \(.mcap, .db3, .bag, or folders"):
        plan(tmp_path, tmp_path / "out", wanted)
    with pytest.raises(DataError, match="there is no such folder"):
        plan(tmp_path / "none", tmp_path, wanted)
    with pytest.raises(DataError, match="lies in the folder of the bags"):
        plan(bags, bags / "out", wanted)
    (tmp_path / "first.mcap").touch()
    (tmp_path / "first.bag").touch()
    with pytest.raises(DataError, match=r"first\.bag and .*first\.mcap would both become"):
        plan(tmp_path, tmp_path.parent / "out", wanted)


def check(outcomes: list[Outcome], bags: Path, out: Path) -> None:
    """The two whole bags are done and the damaged one is told."""
    damaged, second, first = outcomes
    assert [each.bag.name for each in outcomes] == ["damaged.mcap", "second.day", "first.mcap"]
    assert damaged.done is None
    assert str(damaged.bag) in str(damaged.error)
    for outcome, result in ((first, "first.mcap"), (second, "deeper/second.day.mcap")):
        assert outcome.error is None
        assert outcome.done is not None
        assert len(outcome.done.timings) == SCANS
        with BagReader(out / result) as found:
            assert found.count(DETECTIONS) == SCANS
    assert sorted(path.name for path in out.iterdir()) == ["deeper", "first.mcap"]
    rows = outcome_table(outcomes, bags, 2.0).rows
    assert [row[:2] for row in rows] == [
        ["damaged.mcap", "failed"],
        ["deeper/second.day", "done"],
        ["first.mcap", "done"],
    ]
    assert rows[2][2:5] == ["3", "0", str(first.done.boxes if first.done else None)]


def test_bags_in_processes(bags: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    tasks, _ = plan(bags, tmp_path, task(bags, tmp_path, tiny_bundle))
    seen: list[tuple[int, int]] = []
    check(replay_in_processes(tasks, 2, lambda *counts: seen.append(counts)), bags, tmp_path)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_bags_on_a_ray_cluster(bags: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    tasks, _ = plan(bags, tmp_path, task(bags, tmp_path, tiny_bundle))
    seen: list[tuple[int, int]] = []
    check(replay_on_ray(tasks, "local", lambda *counts: seen.append(counts)), bags, tmp_path)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_cluster_that_is_not_there_is_told(bags: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    with pytest.raises(DataError, match=r"no Ray cluster at 'auto'.*ray start --head"):
        replay_on_ray([task(bags, tmp_path, tiny_bundle)], "auto")


def killed_at_first(task: Task) -> Outcome:
    """Leaves what a killed writer leaves, and is killed, until it was so twice."""
    marks = list(task.out.parent.glob("attempt-*"))
    if len(marks) < ATTEMPTS - 1:
        (task.out.parent / f"attempt-{len(marks)}").touch()
        (task.out.parent / f".{task.out.name}.abc").mkdir(exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return replay_task(task)


def always_killed(task: Task) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return replay_task(task)


def out_of_reach(task: Task) -> Outcome:
    raise OSError(f"{task.bag}: the network folder is gone")


def test_a_bag_whose_process_is_killed_is_tried_again(
    bags: Path, tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = task(bags, tmp_path, tiny_bundle)._replace(bag=bags / "first.mcap", out=tmp_path / "first.mcap")
    monkeypatch.setattr(replay_many, "replay_task", killed_at_first)
    (outcome,) = replay_in_processes([wanted], 1)
    assert outcome.error is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempt-0", "attempt-1", "first.mcap"]


@pytest.mark.parametrize(
    ("replaying", "message"), [(always_killed, "3 attempts failed: its process was killed"), (out_of_reach, "is gone")]
)
def test_a_bag_that_fails_again_and_again_is_given_up(
    replaying: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Task(tmp_path / "first.mcap", tmp_path / "out.mcap", DetectorChoice("none"))
    monkeypatch.setattr(replay_many, "replay_task", replaying)
    (outcome,) = replay_in_processes([wanted], 1)
    assert outcome.done is None
    assert message in str(outcome.error)
    assert str(wanted.bag) in str(outcome.error)


def test_the_command_tells_of_all_bags(
    bags: Path, tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_bundle.folder)]
    command = ["replay", str(bags), "--out", str(tmp_path), *model]
    told = failing([*command, "--workers", "2"], capsys)
    assert re.search(r"deeper/second\.day +done +3 +0 ", told)
    assert re.search(r"damaged\.mcap +failed", told)
    assert "6 clouds in" in told
    assert f"failed: {bags / 'damaged.mcap'}" in told
    assert "2 bags are in" in failing([*command, "--workers", "2"], capsys)
    assert "name one of them" in failing([*command, "--workers", "2", "--ray", "local"], capsys)
    single = ["replay", str(bags / "first.mcap"), "--out", str(tmp_path / "x.mcap"), *model, "--workers", "2"]
    assert "--workers and --ray are for a folder of bags" in failing(single, capsys)


def failing(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints that ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    printed = capsys.readouterr()
    return printed.out + printed.err
