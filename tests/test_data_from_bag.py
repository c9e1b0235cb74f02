"""Clouds and boxes of a bag, written here, as own data."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from pd_edge.bags import BagWriter
from pd_edge.cli import main
from pd_edge.data_from_bag import Wanted, from_bag
from pd_edge.errors import DataError
from pd_edge.own_data import OwnDataset
from pd_edge.pointcloud2 import layout_of
from pd_edge.ros_messages import Objects, bag_types, detection_array, header, transform
from pd_edge.sensors import KITTI, load_profile

BOXES = np.array([[12.0, 2.0, -1.0, 4.0, 1.7, 1.5, 0.4], [15.0, -3.0, -0.5, 8.0, 2.5, 3.0, 2.0]])
TIMES = [10**9 + number * 10**8 for number in range(5)]
Cloud = npt.NDArray[np.float32]


def write_bag(
    path: Path, clouds: list[Cloud], frame: str = "lidar", boxes: int = 4, shift: float | None = None
) -> Path:
    """Five clouds; boxes of the first few come before them, in ``frame``, whose origin is ``shift`` ahead of theirs."""
    types = bag_types()
    kinds = types.types.__getitem__
    field = kinds("sensor_msgs/msg/PointField")
    with BagWriter(path, types) as bag:
        if shift is not None:
            pose = np.eye(4)
            pose[0, 3] = shift
            moved = transform(kinds, header(kinds, TIMES[0], "lidar"), frame, pose)
            bag.write("/tf_static", kinds("tf2_msgs/msg/TFMessage")(transforms=[moved]), TIMES[0])
        for number, (time, cloud) in enumerate(zip(TIMES, clouds, strict=False)):
            if number < boxes:
                found = Objects(BOXES, ["Car", "Truck"], np.array([1.0, 0.3]))
                bag.write("/boxes", detection_array(kinds, header(kinds, time, frame), found), time)
            layout = layout_of(cloud)._asdict()
            fields = [field(*each) for each in layout.pop("fields")]
            head = header(kinds, time, "lidar")
            message = kinds("sensor_msgs/msg/PointCloud2")(header=head, fields=fields, **layout)
            bag.write("/points", message, time)
    return path


def test_every_other_cloud_with_its_time_and_boxes(tmp_path: Path, clouds: list[Cloud]) -> None:
    bag = write_bag(tmp_path / "a.mcap", clouds)
    written = from_bag(bag, tmp_path / "out", Wanted(every=2))
    assert written[:3] == (3, 2, 4)
    assert any("/boxes" in note for note in written.notes)
    data = OwnDataset(tmp_path / "out")
    assert data.ids == ["000000", "000002", "000004"]
    for number, frame in zip((0, 2, 4), data, strict=True):
        np.testing.assert_array_equal(frame.points, clouds[number])
    objects = data.objects("000002")
    assert objects is not None
    np.testing.assert_allclose(objects.boxes, BOXES, atol=1e-4)
    assert data.objects("000004") is None
    lines = (tmp_path / "out" / "times.txt").read_text().splitlines()
    assert lines == [f"{number:06d} {TIMES[number]}" for number in (0, 2, 4)]


def test_boxes_of_another_frame_and_weak_ones(tmp_path: Path, clouds: list[Cloud]) -> None:
    bag = write_bag(tmp_path / "a.mcap", clouds, "bumper", shift=2.5)
    from_bag(bag, tmp_path / "out", Wanted(score=0.5))
    objects = OwnDataset(tmp_path / "out").objects("000001")
    assert objects is not None
    np.testing.assert_allclose(objects.boxes, BOXES[:1] + np.eye(7)[0] * 2.5, atol=1e-4)
    with pytest.raises(DataError, match="boxes on /boxes are in 'map', clouds in 'lidar'"):
        from_bag(write_bag(tmp_path / "b.mcap", clouds, "map"), tmp_path / "none")


def test_a_profile_is_noted_and_applied_on_reading(tmp_path: Path, clouds: list[Cloud]) -> None:
    dim = [each * np.array([1, 1, 1, 200], np.float32) for each in clouds]
    bag = write_bag(tmp_path / "a.mcap", dim, boxes=0)
    (tmp_path / "mine.yaml").write_text("name: mine\nheight: 2.73\nintensity_max: 200\nintensity_field: intensity\n")
    from_bag(bag, tmp_path / "out", profile=load_profile(str(tmp_path / "mine.yaml")))
    frame = OwnDataset(tmp_path / "out").frame(0)
    np.testing.assert_allclose(frame.points, clouds[0] + np.array([0, 0, 1, 0], np.float32), atol=1e-5)
    turned = KITTI.model_copy(update={"axes": ("y", "x", "z")})
    with pytest.raises(DataError, match="boxes are not in the frame that the profile makes"):
        from_bag(write_bag(tmp_path / "b.mcap", clouds), tmp_path / "other", profile=turned)


def test_a_bag_that_breaks_off_gives_what_it_has(tmp_path: Path, clouds: list[Cloud]) -> None:
    large = [np.tile(each, (1000, 1)) for each in clouds[:5]]  # so that each is a chunk of its own
    bag = write_bag(tmp_path / "a.mcap", large)
    data = bag.read_bytes()
    bag.write_bytes(data[: int(0.7 * len(data))])
    written = from_bag(bag, tmp_path / "out")
    assert 0 < written.frames < 5
    assert "cannot be read beyond message" in written.notes[0]


def test_the_command(tmp_path: Path, clouds: list[Cloud], capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "a.mcap", clouds, boxes=0)
    with pytest.raises(SystemExit) as exit_:
        main(["data", "from-bag", str(bag), str(tmp_path / "out"), "--every", "3"])
    assert exit_.value.code == 0
    assert "2 frames, 0 of them labelled, 0 objects" in capsys.readouterr().out
    with pytest.raises(DataError, match="no Detection3DArray"):
        from_bag(bag, tmp_path / "more", Wanted(boxes="/boxes"))
