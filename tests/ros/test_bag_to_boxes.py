"""A bag that is played, the node that answers it, and a bag that keeps what it says, with each family of detectors."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test-ros` brings it")
pytest.importorskip("vision_msgs", reason="needs vision_msgs; `make test-ros` builds it")

from pd_edge.bags import BagReader, BagWriter
from pd_edge.boxes import SHOWN_SCORE
from pd_edge.detector import load
from pd_edge.pointcloud2 import layout_of, points_of
from pd_edge.ros_messages import bag_types, header, objects_of, time_of
from tests.ros.harness import HERE, Process, command, street

pytestmark = pytest.mark.ros
TIMES = [1_767_225_600_000_000_000 + place * 100_000_000 for place in range(12)]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clouds of a street at 10 Hz."""
    path, types = tmp_path_factory.mktemp("bag") / "street.mcap", bag_types()
    kinds = types.types.__getitem__
    with BagWriter(path, types) as out:
        for place, stamp in enumerate(TIMES):
            layout = layout_of(street(place))
            fields = [kinds("sensor_msgs/msg/PointField")(*each) for each in layout.fields]
            message = kinds("sensor_msgs/msg/PointCloud2")(
                header=header(kinds, stamp, "velodyne"), **{**layout._asdict(), "fields": fields}
            )
            out.write("/velodyne_points", message, stamp)
    return path


@pytest.fixture(params=["pointpillars-16x", "second-4x"])
def model(request: pytest.FixtureRequest) -> Iterator[str]:
    """A shipped model that a node runs, which subscribes to clouds."""
    parameters = [f"model:={request.param}", "threads:=1", "diagnostics_period:=0.1"]
    with Process(command("detector", parameters=parameters)) as running:
        running.wait_for("subscribed to /points")
        yield request.param


def test_three_processes(model: str, bag: Path, tmp_path: Path) -> None:
    """What a player, the node and a recorder give is what the detector finds in the bag, box by box."""
    out = tmp_path / "out.mcap"
    with Process([sys.executable, str(HERE / "recorder.py"), str(out)]) as recorder:
        recorder.wait_for("a detector is there")
        with Process([sys.executable, str(HERE / "player.py"), str(bag), "--rate", "10"]) as player:
            assert player.running.wait(60) == 0, player.output
        time.sleep(1.0)
        recorder.end()
    detector, expected = load(model, threads=1), {}
    with BagReader(bag) as source:
        for record in source.records():
            message = source.message(record)
            expected[time_of(message)] = (message.header, detector.detect(points_of(message).points))
    with BagReader(out) as recorded:
        found = [recorded.message(each) for each in recorded.records(["/detections"])]
        shown = [recorded.message(each) for each in recorded.records(["/detections/markers"])]
        told = [recorded.message(each).status[0] for each in recorded.records(["/diagnostics"])]
    assert 2 <= len(found) <= len(TIMES)
    assert len({time_of(each) for each in found}) == len(found)
    for message in found:
        head, detections = expected[time_of(message)]
        assert message.header.frame_id == "velodyne"
        assert all((each.header.stamp, each.header.frame_id) == (head.stamp, "velodyne") for each in message.detections)
        objects = objects_of(message)
        assert len(objects.boxes) == len(detections.boxes) > 5
        np.testing.assert_allclose(objects.boxes[:, :6], detections.boxes[:, :6], atol=1e-3)
        turned = np.angle(np.exp(1j * (objects.boxes[:, 6] - detections.boxes[:, 6])))
        np.testing.assert_allclose(turned, 0, atol=1e-3)
        np.testing.assert_allclose(objects.scores, detections.scores, atol=1e-3)
        assert list(objects.names) == [detector.classes[label] for label in detections.labels]
    scores = [objects_of(each).scores for each in found]
    assert [len(each.markers) for each in shown] == [1 + 3 * int((each >= SHOWN_SCORE).sum()) for each in scores]
    last = {each.key: each.value for each in told[-1].values}
    assert int(last["detected"]) == len(found)
    assert int(last["received"]) == int(last["detected"]) + int(last["dropped"])
