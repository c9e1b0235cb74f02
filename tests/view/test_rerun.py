"""A recording of Rerun."""

import subprocess
import sys
from pathlib import Path

import pytest

from pd_edge.errors import DataError, MissingExtraError
from pd_edge.view.rerun_log import log_rerun
from pd_edge.view.scene import Scene

from .helpers import moments


def test_without_rerun_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"rerun-sdk is not installed; .* 'pd-edge\[view\]'"):
        log_rerun(tmp_path / "a.rrd", Scene("drive"), moments())


def test_a_recording_has_points_boxes_and_times(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="needs the view extra")
    seen: list[int] = []
    written = log_rerun(tmp_path / "a" / "view.rrd", Scene("drive"), moments(), advance=seen.append)
    assert (written.frames, written.boxes, seen) == (4, 16, [1, 2, 3, 4])
    assert written.size == written.path.stat().st_size > 4 * 2000 * 12
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-vvv", str(written.path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for expected in ("/world/points", "/world/detections", "/world/ground_truth", "frame", "time", "Car 0.90"):
        assert expected in text
    assert "Cyclist 0.20" not in text


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="needs the view extra")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        log_rerun(tmp_path / "file" / "view.rrd", Scene("drive"), moments())
