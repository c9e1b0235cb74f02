"""Bags of every kind, written here, read back; cut and damaged ones give what can be read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore

from pd_edge.bags import BagReader, BagWriter, Record
from pd_edge.errors import DataError
from pd_edge.pointcloud2 import layout_of, points_of

TYPES = get_typestore(Stores.LATEST)
ROS1 = get_typestore(Stores.ROS1_NOETIC)
CLOUD = "sensor_msgs/msg/PointCloud2"
START = 1_317_046_453_072_943_000
PERIOD = 103_000_000


def points(number: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(number).uniform(1, 50, (500, 4)).astype(np.float32)


def cloud(number: int, types: Any = TYPES, **header: Any) -> Any:
    """The cloud of a scan, as a message of either ROS."""
    seconds, rest = divmod(START + number * PERIOD, 10**9)
    stamp = types.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=rest)
    layout = layout_of(points(number))._asdict()
    field = types.types["sensor_msgs/msg/PointField"]
    layout["fields"] = [field(name, at, kind, count) for name, at, kind, count in layout["fields"]]
    head = types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="velodyne", **header)
    return types.types[CLOUD](header=head, **layout)


def text(value: str) -> Any:
    return TYPES.types["std_msgs/msg/String"](value)


def write(path: Path, scans: int = 4, **options: Any) -> Path:
    with BagWriter(path, **options) as bag:
        for number in range(scans):
            time_ns = START + number * PERIOD
            bag.write("/points", cloud(number), time_ns)
            bag.write("/note", text(f"scan {number}"), time_ns + 1)
    return path


def write_ros1(path: Path, scans: int = 4) -> Path:
    """As kitti2bag writes them."""
    with Ros1Writer(path) as bag:
        connection = bag.add_connection("/kitti/velo/pointcloud", CLOUD, typestore=ROS1)
        for number in range(scans):
            message = cloud(number, ROS1, seq=number)
            bag.write(connection, START + number * PERIOD, ROS1.serialize_ros1(message, CLOUD))
    return path


@pytest.mark.parametrize("name", ["drive.mcap", "drive"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_is_written_is_read_back(name: str, compression: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, compression=compression)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    with BagReader(path) as bag:
        assert bag.topics == {"/points": CLOUD, "/note": "std_msgs/msg/String"}
        records = list(bag.records())
        assert [(each.topic, each.time_ns - START) for each in records[:3]] == [
            ("/points", 0),
            ("/note", 1),
            ("/points", PERIOD),
        ]
        assert [bag.message(each).data for each in bag.records(["/note"])] == [f"scan {n}" for n in range(4)]
        for number, record in enumerate(bag.records({"/points"})):
            message = bag.message(record)
            assert message.header.frame_id == "velodyne"
            np.testing.assert_array_equal(points_of(message).points, points(number))
        assert list(bag.records(["/other"])) == []


def test_a_ros1_bag_gives_the_same_messages(tmp_path: Path) -> None:
    with BagReader(write_ros1(tmp_path / "kitti.bag")) as bag:
        assert bag.topics == {"/kitti/velo/pointcloud": CLOUD}
        records = list(bag.records())
        assert [each.time_ns for each in records] == [START + n * PERIOD for n in range(4)]
        for number, record in enumerate(records):
            np.testing.assert_array_equal(points_of(bag.message(record)).points, points(number))


@pytest.mark.parametrize("source", ["drive.mcap", "kitti.bag"])
def test_messages_are_copied_as_they_stand(source: str, tmp_path: Path) -> None:
    path = (write_ros1 if source.endswith(".bag") else write)(tmp_path / source)
    with BagReader(path) as bag, BagWriter(tmp_path / "copy.mcap") as copy:
        records = list(bag.records())
        for record in records:
            copy.copy(record, bag.types)
    with BagReader(tmp_path / "copy.mcap") as bag:
        found = list(bag.records())
        assert [(*each[:3], bytes(each.data)) for each in found] == [(*each[:3], bytes(each.data)) for each in records]
        np.testing.assert_array_equal(points_of(bag.message(found[0])).points, points(0))


def test_a_cut_mcap_gives_what_is_readable(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.mcap", scans=400)
    size = path.stat().st_size
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(path.read_bytes()[: size * 2 // 3])
    with BagReader(cut) as bag:
        found: list[Record] = []
        with pytest.raises(DataError, match=r"cut\.mcap: cannot be read beyond message \d+ .*all before it was read"):
            found.extend(_each(bag, found))
        assert bag.topics == {"/points": CLOUD, "/note": "std_msgs/msg/String"}
        clouds = [each for each in found if each.topic == "/points"]
        assert 200 < len(clouds) < 300
        np.testing.assert_array_equal(points_of(bag.message(clouds[-1])).points, points(len(clouds) - 1))


def _each(bag: BagReader, found: list[Record]) -> list[Record]:
    for record in bag.records():
        found.append(record)  # noqa: PERF402 - what came before the error is to be kept
    return []


def test_a_folder_whose_recorder_was_killed_is_read_without_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    write(folder / "killed_0.mcap")
    with BagReader(folder) as bag:
        assert len(list(bag.records())) == 8
    write(folder / "killed_1.mcap")
    with pytest.raises(DataError, match=r"no metadata\.yaml, and 2 bag files; name one of them"):
        BagReader(folder)


@pytest.mark.parametrize("name", ["drive.mcap", "drive", "kitti.bag"])
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_bag_is_an_error_of_ours(name: str, seed: int, tmp_path: Path) -> None:
    path = (write_ros1 if name.endswith(".bag") else write)(tmp_path / name, scans=20)
    file = path if path.is_file() else next(path.glob("*.db3"))
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(data), size=200):
        data[place] = rng.integers(256)
    file.write_bytes(data if seed % 2 else data[: rng.integers(len(data))])
    try:
        with BagReader(path) as bag:
            for record in bag.records():
                bag.message(record)
    except DataError as error:
        assert name in str(error)  # noqa: PT017 - damage may also go unnoticed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mcap", None, "there is no such bag"),
        ("cloud.bin", b"x", r"unknown kind of bag '\.bin'; expected \.mcap, \.db3, \.bag or a folder"),
        ("empty.bag", b"", "cannot be read as a bag"),
        ("nonsense.db3", b"nonsense", "cannot be read as a bag"),
    ],
)
def test_what_is_no_bag_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message), BagReader(tmp_path / name):
        pass


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"nonsense" * 40])
def test_an_mcap_without_content_ends_at_once(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_bytes(content)
    with (
        pytest.raises(DataError, match="cannot be read beyond message 0"),
        BagReader(tmp_path / "a.mcap") as bag,
    ):
        list(bag.records())


def test_nothing_is_left_of_a_bag_that_failed(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "a.mcap")
    with pytest.raises(AttributeError), bag:
        bag.write("/points", "no message", START)
    assert not list(tmp_path.iterdir())


def test_a_bag_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "a.mcap")
    with pytest.raises(DataError, match="exists already; remove it or name another"):
        BagWriter(tmp_path / "a.mcap")


def test_a_topic_has_one_type(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.write("/points", cloud(0), START)
        with pytest.raises(DataError, match="topic /points holds sensor_msgs/msg/PointCloud2, not std_msgs/msg/Stri"):
            bag.write("/points", text("no cloud"), START)
