"""Calibration in both of KITTI's formats, and the camera's field of view."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.clouds import read_cloud
from pd_edge.errors import DataError
from pd_edge.kitti import (
    Calibration,
    crop_to_image,
    read_object_calibration,
    read_raw_calibration,
    write_object_calibration,
    write_raw_calibration,
)
from pd_edge.kitti_calibration import png_size

Cloud = npt.NDArray[np.float32]
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def assert_same(a: Calibration, b: Calibration) -> None:
    for one, other in zip(a[:4], b[:4], strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-12)
    assert a.image_size == b.image_size


@pytest.mark.parametrize("changes", [{}, {"R0_rect": TURN}, {"image_size": None}])
def test_calibration_comes_back_in_both_layouts(
    tmp_path: Path, calibration: Calibration, changes: dict[str, Any]
) -> None:
    written = calibration._replace(**changes)
    write_object_calibration(tmp_path / "000000.txt", written)
    assert_same(read_object_calibration(tmp_path / "000000.txt"), written)
    write_raw_calibration(tmp_path / "day", written)
    assert_same(read_raw_calibration(tmp_path / "day"), written)


def test_calibration_without_an_inertial_unit(tmp_path: Path, calibration: Calibration) -> None:
    plain = calibration._replace(Tr_imu_to_velo=None)
    write_object_calibration(tmp_path / "000000.txt", plain)
    write_raw_calibration(tmp_path / "day", plain)
    assert read_object_calibration(tmp_path / "000000.txt").Tr_imu_to_velo is None
    assert read_raw_calibration(tmp_path / "day").Tr_imu_to_velo is None


def test_real_calibration_is_the_same_in_both_formats(kitti_root: Path) -> None:
    day = kitti_root / "raw/2011_09_26"
    raw, as_object = read_raw_calibration(day), read_object_calibration(day / "calib_object_format.txt")
    assert_same(raw, as_object)
    assert raw.image_size == (1242, 375)


def test_image_size_of_every_real_frame_follows_from_its_calibration(kitti_root: Path) -> None:
    rows = [line.split("\t") for line in (kitti_root / "object/frames.tsv").read_text().splitlines()]
    frame, height, width = (rows[0].index(name) for name in ("frame", "image_height", "image_width"))
    for row in rows[1:]:
        calibration = read_object_calibration(kitti_root / f"object/training/calib/{row[frame]}.txt")
        assert calibration.image_size == (int(row[width]), int(row[height]))


def test_points_go_through_the_calibration(calibration: Calibration) -> None:
    # 10.3 m ahead, 1 m left, 1.1 m below the LiDAR: 10 m ahead of the camera, 1 m left, 1 m below.
    xyz = np.array([[10.3, 1.0, -1.1]])
    np.testing.assert_allclose(calibration.lidar_to_camera(xyz), [[-1, 1, 10]])
    np.testing.assert_allclose(calibration.camera_to_lidar(calibration.lidar_to_camera(xyz)), xyz)
    pixels, depth = calibration.lidar_to_image(xyz)
    np.testing.assert_allclose(pixels, [[430, 270]])
    np.testing.assert_allclose(depth, [10])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("P2: 1 2 3\n", "line 1: 3 numbers; expected 12 numbers after 'P2:'"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 x\n", "line 1: 'x' is not a number"),
        ("P0: 1\n\nnonsense\n", "line 3: 'nonsense'; expected 'KEY: numbers'"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 0\n", "line 2: R0_rect holds no rotation"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\n", "no line 'Tr_velo_to_cam:'"),
        ("", "no line 'P2:'; it has no entries"),
    ],
)
def test_bad_calibration_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "000007.txt").write_text(text)
    with pytest.raises(DataError, match=f"000007.txt.*{said}"):
        read_object_calibration(tmp_path / "000007.txt")


def test_image_size_must_be_whole_pixels(tmp_path: Path, calibration: Calibration) -> None:
    write_object_calibration(tmp_path / "0.txt", calibration)
    text = (tmp_path / "0.txt").read_text()
    (tmp_path / "0.txt").write_text(text[: text.index("S_rect_02")] + "S_rect_02: 10.5 4\n")
    with pytest.raises(DataError, match=r"S_rect_02 10\.5 4; expected whole"):
        read_object_calibration(tmp_path / "0.txt")


def test_png_header(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1242).to_bytes(4, "big") + (375).to_bytes(4, "big"))
    assert png_size(file) == (1242, 375)
    file.write_bytes(b"\xff\xd8\xff" + bytes(30))
    with pytest.raises(DataError, match="not a PNG"):
        png_size(file)


def test_crop_is_bit_exact_with_velodyne_reduced(kitti_root: Path) -> None:
    training = kitti_root / "object/training"
    files = sorted((training / "velodyne").glob("*.bin"))
    assert len(files) == 6
    for file in files:
        points = read_cloud(file)
        seen = points[crop_to_image(points, read_object_calibration(training / "calib" / f"{file.stem}.txt"))]
        assert seen.tobytes() == (training / "velodyne_reduced" / file.name).read_bytes()


def test_crop_edges_belong_to_the_image_as_documented(calibration: Calibration) -> None:
    def seen(u: float, v: float, depth: float = 7.0) -> bool:
        camera = np.array([[(u - 500) / 700 * depth, (v - 200) / 700 * depth, depth]])
        return bool(crop_to_image(calibration.camera_to_lidar(camera), calibration)[0])

    assert seen(500, 200)
    assert seen(1e-6, 1e-6)
    assert seen(999.999, 399.999)
    assert not seen(-0.001, 200)
    assert not seen(1000.001, 200)
    assert not seen(500, 400.001)
    assert not seen(500, 200, depth=-7.0)


def test_crop_without_an_image_size_says_how_to_give_one(calibration: Calibration, clouds: list[Cloud]) -> None:
    unknown = calibration._replace(image_size=None)
    with pytest.raises(DataError, match=r"focal length 700\.0000 px.*S_rect_02.*image_size="):
        crop_to_image(clouds[0], unknown)
    np.testing.assert_array_equal(crop_to_image(clouds[0], unknown, (1000, 400)), crop_to_image(clouds[0], calibration))
