"""Scans out of bags: boxes in another frame than the clouds, bags that break off, clouds that cannot be used."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from pd_edge.bags import BagReader, BagWriter
from pd_edge.errors import DataError
from pd_edge.kitti import Calibration, Label, RawDrive, boxes_to_lidar, write_raw_drive
from pd_edge.kitti_bag import CLOUDS, write_drive
from pd_edge.sensors import KITTI
from pd_edge.view.bag_source import Recorded, bag_moments, cloud_count, read_recorded
from pd_edge.view.find import nothing
from pd_edge.view.moments import Moment, posed
from pd_edge.view.sources import Choice

from .helpers import NAMES, SCORES, boxes

TIMES = [10**18 + n * 100_000_000 for n in range(8)]
FRAME = "velodyne"


@pytest.fixture(scope="module")
def bag(
    tmp_path_factory: pytest.TempPathFactory, tiny_cloud: npt.NDArray[np.float32], calibration: Calibration, car: Label
) -> Path:
    """Eight scans with ground truth, and no detections."""
    folder = tmp_path_factory.mktemp("bag")
    path = folder / "2026_01_01" / "2026_01_01_drive_0001_sync"
    poses = np.tile(np.eye(4), (8, 1, 1))
    large = np.tile(tiny_cloud, (12, 1))  # a file is cut between chunks, of a megabyte each
    write_raw_drive(path, [large] * 8, TIMES, calibration, poses=poses, labels=[[car]] * 8)
    write_drive(RawDrive(path), folder / "drive.mcap")
    return folder / "drive.mcap"


def read(bag: Path, recorded: Recorded, choice: Choice | None = None) -> tuple[list[Moment], list[str]]:
    failures: list[str] = []
    find = nothing if recorded.topic is None else None
    found = bag_moments(bag, recorded, find, KITTI, choice or Choice(), on_error=failures.append)
    return list(found), failures


def detected(bag: Path, frame_id: str, *times: int) -> Recorded:
    """What the bag holds, and boxes in some frame, the same at each time."""
    stamped = {time: (frame_id, posed(boxes(), NAMES, np.array(SCORES))) for time in times}
    return read_recorded(bag)._replace(topic="/detections", found=stamped)


def test_ground_truth_and_clouds_come_by_their_time(bag: Path, calibration: Calibration, car: Label) -> None:
    recorded = read_recorded(bag)
    assert (recorded.topic, recorded.found, cloud_count(bag)) == (None, {}, 8)
    scans, failures = read(bag, recorded, Choice(3))
    assert failures == []
    assert [scan.time_ns for scan in scans] == TIMES[::3]
    for scan in scans:
        assert scan.truth is not None
        np.testing.assert_allclose(scan.truth.boxes, boxes_to_lidar([car], calibration), atol=1e-6)


def test_boxes_in_another_frame_go_along_the_transforms(bag: Path) -> None:
    recorded = detected(bag, "base_link", TIMES[0])
    _, failures = read(bag, recorded, Choice(frames=1))
    assert len(failures) == 1
    assert "boxes are in frame 'base_link', the cloud in 'velodyne'" in failures[0]
    lidar_in_base = np.eye(4)
    lidar_in_base[:3, 3] = 1.5, 0.2, 1.7
    placed = recorded._replace(transforms={("base_link", FRAME): lidar_in_base})
    (scan,), failures = read(bag, placed, Choice(frames=1))
    assert failures == []
    np.testing.assert_allclose(scan.found.boxes, boxes() - [1.5, 0.2, 1.7, 0, 0, 0, 0], atol=1e-9)


def test_scans_that_nothing_was_recorded_for_say_so(bag: Path) -> None:
    scans, failures = read(bag, detected(bag, FRAME, TIMES[1] + 900))
    assert failures == []
    assert [len(scan.found.names) for scan in scans] == [0, 4, *[0] * 6]
    assert [bool(scan.notes) for scan in scans] == [True, False, *[True] * 6]


def test_a_bag_that_breaks_off_is_shown_up_to_there(bag: Path, tmp_path: Path) -> None:
    data = bag.read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: len(data) * 6 // 10])
    cut = tmp_path / "cut.mcap"
    recorded = read_recorded(cut)
    assert cloud_count(cut) == 0
    scans, failures = read(cut, recorded)
    assert 0 < len(scans) < 8
    assert all(scan.truth is not None for scan in scans)
    assert len(failures) == 1
    assert "cut off or damaged" in failures[0]


def test_a_cloud_that_cannot_be_used_is_passed_over(bag: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.mcap"
    with BagReader(bag) as source, BagWriter(spoilt) as out:
        for place, record in enumerate(each for each in source.records() if each.topic == CLOUDS):
            message = source.message(record)
            if place == 2:
                message.fields = message.fields[1:]
            out.write(CLOUDS, message, record.time_ns)
    scans, failures = read(spoilt, read_recorded(spoilt))
    assert [scan.time_ns for scan in scans] == TIMES[:2] + TIMES[3:]
    assert len(failures) == 1
    assert f"the cloud at {TIMES[2]} ns: PointCloud2: no field x" in failures[0]


def test_a_bag_without_the_named_boxes_is_refused(bag: Path) -> None:
    with pytest.raises(DataError, match="no Detection3DArray on /mine; there is none"):
        read_recorded(bag, "/mine")
