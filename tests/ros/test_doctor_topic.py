"""``pd-edge doctor`` on a live topic."""

import threading
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test-ros` brings it")
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from pd_edge.doctor_topic import listen
from pd_edge.errors import DataError
from pd_edge.sensors import KITTI
from tests.ros.harness import cloud_message, street

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("offered", ["reliable", "best_effort"])
def test_clouds_of_a_topic_as_it_is_offered(offered: str, listener: Any) -> None:
    policy = ReliabilityPolicy.RELIABLE if offered == "reliable" else ReliabilityPolicy.BEST_EFFORT
    publisher = listener.node.create_publisher(PointCloud2, "/examined", QoSProfile(depth=5, reliability=policy))
    ended = threading.Event()
    points = street(0)

    def publish() -> None:
        stamp = 0
        while not ended.wait(0.1):
            stamp += 100_000_000
            publisher.publish(cloud_message(points, stamp))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        sample = listen("/examined", KITTI, 2, seconds=30)
    finally:
        ended.set()
        thread.join()
        listener.node.destroy_publisher(publisher)
    assert [len(each) for each in sample.clouds] == [len(points)] * 2
    assert (sample.reliability, sample.frame_id, sample.intensity) == (offered, "lidar", True)
    assert sample.message_bytes == 16 * len(points)


def test_a_silent_topic(listener: Any) -> None:
    publisher = listener.node.create_publisher(PointCloud2, "/silent", 5)
    with pytest.raises(DataError, match="/silent: published reliable, but no cloud came in 6 s"):
        listen("/silent", KITTI, 1, seconds=6)
    with pytest.raises(DataError, match=r"/nowhere: nobody publishes it; clouds are on .*/silent"):
        listen("/nowhere", KITTI, 1, seconds=6)
    listener.node.destroy_publisher(publisher)
