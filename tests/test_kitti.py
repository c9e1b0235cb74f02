"""KITTI object folders and folders of clouds; how the kinds of data set are told apart."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.clouds import write_cloud
from pd_edge.errors import DataError
from pd_edge.kitti import (
    Calibration,
    CloudFolder,
    Label,
    ObjectDataset,
    RawDrive,
    crop_to_image,
    iterate,
    open_dataset,
    write_object_frame,
    write_raw_drive,
    write_split,
)

Cloud = npt.NDArray[np.float32]


@pytest.fixture
def object_root(tmp_path: Path, calibration: Calibration, car: Label, dont_care: Label, clouds: list[Cloud]) -> Path:
    for index in range(3):
        write_object_frame(tmp_path, f"{index:06d}", clouds[index], calibration, [car, dont_care][: index + 1])
    write_split(tmp_path, "val", ["000002", "000000"])
    return tmp_path


def test_object_folder_comes_back(
    object_root: Path, calibration: Calibration, car: Label, dont_care: Label, clouds: list[Cloud]
) -> None:
    data = ObjectDataset(object_root)
    assert data.ids == ["000000", "000001", "000002"]
    frames = list(data)
    np.testing.assert_array_equal(frames[2].points, clouds[2])
    assert [frame.labels for frame in frames] == [[car], [car, dont_care], [car, dont_care]]
    assert frames[0].image_size == (1000, 400)
    assert frames[0].calibration is not None
    for read, written in zip(frames[0].calibration[:4], calibration[:4], strict=True):
        np.testing.assert_allclose(np.asarray(read), np.asarray(written), rtol=1e-12)


def test_object_split_by_name_and_by_path(object_root: Path) -> None:
    assert ObjectDataset(object_root, "val").ids == ["000002", "000000"]
    assert ObjectDataset(object_root / "training", object_root / "ImageSets/val.txt").ids == ["000002", "000000"]
    with pytest.raises(DataError, match=r"no split 'test'.* has val"):
        ObjectDataset(object_root, "test")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("000001\n../../x\n", "line 2: '../../x' is no frame"),
        ("1\n1\n", "frame 1 is listed twice"),
        ("\n", "no frames"),
    ],
)
def test_bad_split_is_named(object_root: Path, lines: str, said: str) -> None:
    (object_root / "ImageSets/val.txt").write_text(lines)
    with pytest.raises(DataError, match=f"val.txt.*{said}"):
        ObjectDataset(object_root, "val")


def test_object_reduced_clouds_are_read_else_cropped(
    object_root: Path, calibration: Calibration, car: Label, clouds: list[Cloud]
) -> None:
    expected = clouds[1][crop_to_image(clouds[1], calibration)]
    assert 0 < len(expected) < 50
    np.testing.assert_array_equal(ObjectDataset(object_root, cloud="reduced").frame(1).points, expected)
    write_object_frame(object_root, "000001", clouds[9], calibration, [car], cloud="reduced")
    automatic = ObjectDataset(object_root)
    assert automatic.ids == ["000000", "000001", "000002"]
    np.testing.assert_array_equal(automatic.frame(1).points, clouds[9])
    np.testing.assert_array_equal(ObjectDataset(object_root, cloud="full").frame(1).points, clouds[1])


def test_the_image_beside_the_cloud_tells_its_size(object_root: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
    (object_root / "training/image_2").mkdir()
    (object_root / "training/image_2/000001.png").write_bytes(header)
    assert [frame.image_size for frame in ObjectDataset(object_root)] == [(1000, 400), (640, 480), (1000, 400)]


def test_a_folder_without_labels_or_calibration(tmp_path: Path, clouds: list[Cloud]) -> None:
    write_cloud(tmp_path / "testing/velodyne/000000.bin", clouds[0])
    frame = ObjectDataset(tmp_path / "testing").frame(0)
    assert (frame.labels, frame.calibration, frame.image_size) == (None, None, None)
    with pytest.raises(DataError, match="no calibration to crop it with"):
        ObjectDataset(tmp_path / "testing", cloud="reduced").frame(0)


@pytest.mark.parametrize("missing", ["velodyne/000001.bin", "label_2/000001.txt", "calib/000001.txt"])
def test_a_listed_frame_without_a_file_is_named_and_passed_over(object_root: Path, missing: str) -> None:
    write_split(object_root, "all", ["000000", "000001", "000002"])
    (object_root / "training" / missing).unlink()
    errors: list[tuple[str, str]] = []
    frames = list(iterate(ObjectDataset(object_root, "all"), lambda name, error: errors.append((name, str(error)))))
    assert [frame.id for frame in frames] == ["000000", "000002"]
    assert len(errors) == 1
    assert errors[0][0] == "000001"
    assert missing in errors[0][1]
    with pytest.raises(DataError, match=f"frame 000001 of .*{missing}"):
        ObjectDataset(object_root, "all").frame(1)


def test_changes_to_a_cloud_are_noted(object_root: Path, clouds: list[Cloud]) -> None:
    points = clouds[0].copy()
    points[4, 1] = np.nan
    write_cloud(object_root / "training/velodyne/000001.bin", points)
    frames = list(ObjectDataset(object_root))
    assert [frame.notes for frame in frames] == [(), ("1 points with NaN or infinity left out",), ()]
    assert len(frames[1].points) == 49


def test_real_object_folder(kitti_root: Path) -> None:
    assert len(ObjectDataset(kitti_root / "object")) == 132
    assert len(ObjectDataset(kitti_root / "object", "train")) == 104
    val = open_dataset(kitti_root / "object", "val")
    assert len(val) == 28
    cars = sum(label.name == "Car" for frame in val for label in frame.labels or [])
    assert cars == 124


def test_open_dataset_tells_the_kinds_apart(
    object_root: Path, tmp_path: Path, calibration: Calibration, clouds: list[Cloud]
) -> None:
    raw_drive = tmp_path / "2026_01_01" / "2026_01_01_drive_0001_sync"
    write_raw_drive(raw_drive, clouds[:2], [0, 10**8], calibration)
    assert isinstance(open_dataset(object_root), ObjectDataset)
    assert isinstance(open_dataset(str(object_root / "training")), ObjectDataset)
    assert isinstance(open_dataset(raw_drive), RawDrive)
    single = open_dataset(object_root / "training/velodyne/000001.bin")
    assert isinstance(single, CloudFolder)
    assert single.ids == ["000001"]
    assert open_dataset(object_root / "training/velodyne").ids == ["000000", "000001", "000002"]
    with pytest.raises(DataError, match="give one drive: 2026_01_01_drive_0001_sync"):
        open_dataset(raw_drive.parent)
    with pytest.raises(DataError, match="split 'val' asked for"):
        open_dataset(raw_drive, "val")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"looked for points .*training/velodyne .*velodyne_points/data .*\.bin, \.npy"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="no KITTI raw drive"):
        RawDrive(tmp_path / "empty")
    with pytest.raises(DataError, match="no KITTI object folder"):
        ObjectDataset(tmp_path / "empty")


def test_cloud_folder_names_clouds_apart(tmp_path: Path, clouds: list[Cloud]) -> None:
    for name in ("b.pcd", "a.npy", "a.bin"):
        write_cloud(tmp_path / name, clouds[0])
    (tmp_path / "notes.txt").write_text("not a cloud")
    folder = CloudFolder(tmp_path)
    assert folder.ids == ["a.bin", "a.npy", "b.pcd"]
    assert [len(frame.points) for frame in folder] == [50, 50, 50]
