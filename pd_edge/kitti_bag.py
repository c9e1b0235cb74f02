"""A KITTI raw drive as a bag: clouds, transforms, camera, and ground truth both for viewers and for evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pd_edge.bags import BagWriter, Compression
from pd_edge.errors import DataError
from pd_edge.kitti import DONT_CARE, Calibration, Frame, Label, RawDrive, boxes_to_lidar
from pd_edge.kitti_calibration import Matrix, homogeneous
from pd_edge.kitti_labels import format_label
from pd_edge.pointcloud2 import layout_of
from pd_edge.ros_messages import Objects, bag_types, detection_array, header, transform

CLOUDS, CAMERA, TRUTH, LABELS = "/velodyne_points", "/camera/camera_info", "/ground_truth", "/ground_truth/labels"
TF, TF_STATIC = "/tf", "/tf_static"
LIDAR_FRAME, CAMERA_FRAME, IMU_FRAME, WORLD_FRAME = "velodyne", "camera", "imu_link", "odom"


class Written(NamedTuple):
    """What a bag was given.

    Attributes:
        scans: Scans of the drive that are in the bag.
        objects: Ground-truth objects with a box.
        left_out: (name, why) of each scan that could not be read.
        notes: What the drive lacks.
    """

    scans: int
    objects: int
    left_out: list[tuple[str, str]]
    notes: list[str]


def write_drive(
    drive: RawDrive,
    out: Path,
    compression: Compression = "none",
    advance: Callable[[int, int], None] | None = None,
) -> Written:
    """Writes a drive as a bag.

    ``/velodyne_points`` are the scans with their time stamps, intensities as the sensor wrote them. ``/tf_static`` has
    the LiDAR on the inertial unit and the reference camera on the LiDAR, ``/tf`` the inertial unit in the frame it had
    at the first scan.
    ``/camera/camera_info`` is the left colour camera, rectified. Where the drive has labels, ``/ground_truth`` has the
    boxes as Detection3DArray and ``/ground_truth/labels`` the lines of KITTI's label file, DontCare included.

    Args:
        drive: The drive.
        out: The bag; see :class:`pd_edge.bags.BagWriter`.
        compression: As the writer takes it.
        advance: Called with the scans done and the scans there are, after each.

    Raises:
        DataError: Time stamps are missing, no scan can be read, or the bag cannot be written.
    """
    times, scans, objects = drive.times_ns, 0, 0
    notes: list[str] = []
    left_out: list[tuple[str, str]] = []
    poses = _poses(drive, notes)
    with BagWriter(out, bag_types(), compression) as bag:
        writer = _DriveWriter(bag)
        if drive.calibration is None:
            notes.append("no calibration: no camera, no transforms and no ground truth")
        else:
            writer.mounting(drive.calibration, int(times[0]))
        for index, name in enumerate(drive.ids):
            try:
                frame = drive.frame(index)._replace(points=drive.written(index))
            except DataError as error:
                left_out.append((name, str(error)))
                continue
            objects += writer.scan(frame, int(times[index]), None if poses is None else poses[index])
            scans += 1
            if advance is not None:
                advance(index + 1, len(drive))
        if not scans:
            raise DataError(f"{drive.path}: no scan could be read; the first: {left_out[0][1]}")
    return Written(scans, objects, left_out, notes)


class _DriveWriter:
    """Writes the messages of scans."""

    def __init__(self, bag: BagWriter) -> None:
        self._bag = bag
        self._kinds = bag.types.types.__getitem__

    def mounting(self, calibration: Calibration, time_ns: int) -> None:
        """Where the sensors are on the car."""
        moved = [self._transform(time_ns, LIDAR_FRAME, CAMERA_FRAME, _inverse(calibration.Tr_velo_to_cam))]
        if calibration.Tr_imu_to_velo is not None:
            moved.append(self._transform(time_ns, IMU_FRAME, LIDAR_FRAME, _inverse(calibration.Tr_imu_to_velo)))
        self._bag.write(TF_STATIC, self._kinds("tf2_msgs/msg/TFMessage")(transforms=moved), time_ns)

    def scan(self, frame: Frame, time_ns: int, pose: Matrix | None) -> int:
        """Everything of one scan, all with its time stamp; returns the number of objects."""
        if pose is not None:
            moved = [self._transform(time_ns, WORLD_FRAME, IMU_FRAME, pose)]
            self._bag.write(TF, self._kinds("tf2_msgs/msg/TFMessage")(transforms=moved), time_ns)
        if frame.calibration is not None:
            self._bag.write(CAMERA, self._camera(frame.calibration, time_ns), time_ns)
        objects = 0
        if frame.labels is not None and frame.calibration is not None:
            objects = self._truth(frame.labels, frame.calibration, time_ns)
        # The cloud comes last: who reads the bag has all that belongs to a scan when its cloud comes.
        self._bag.write(CLOUDS, self._cloud(frame, time_ns), time_ns)
        return objects

    def _truth(self, labels: list[Label], calibration: Calibration, time_ns: int) -> int:
        solid = [label for label in labels if label.name != DONT_CARE]
        boxes = boxes_to_lidar(solid, calibration)
        found = Objects(boxes, [label.name for label in solid], np.ones(len(solid)))
        head = header(self._kinds, time_ns, LIDAR_FRAME)
        self._bag.write(TRUTH, detection_array(self._kinds, head, found), time_ns)
        lines = "".join(format_label(label) + "\n" for label in labels)
        self._bag.write(LABELS, self._kinds("std_msgs/msg/String")(data=lines), time_ns)
        return len(solid)

    def _cloud(self, frame: Frame, time_ns: int) -> Any:
        fields = layout_of(frame.points)._asdict()
        field = self._kinds("sensor_msgs/msg/PointField")
        fields["fields"] = [field(name, at, kind, count) for name, at, kind, count in fields["fields"]]
        head = header(self._kinds, time_ns, LIDAR_FRAME)
        return self._kinds("sensor_msgs/msg/PointCloud2")(header=head, **fields)

    def _camera(self, calibration: Calibration, time_ns: int) -> Any:
        """The left colour camera as image_proc rectifies it: ``r`` and ``p`` are KITTI's, distortion is none."""
        width, height = calibration.image_size or (0, 0)
        region = self._kinds("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, do_rectify=False)
        return self._kinds("sensor_msgs/msg/CameraInfo")(
            header=header(self._kinds, time_ns, CAMERA_FRAME),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=calibration.P2[:, :3].flatten(),
            r=calibration.R0_rect.flatten(),
            p=calibration.P2.flatten(),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def _transform(self, time_ns: int, parent: str, child: str, matrix: Matrix) -> Any:
        return transform(self._kinds, header(self._kinds, time_ns, parent), child, matrix)


def _inverse(rigid: Matrix) -> Matrix:
    """Of a motion (3, 4), as (4, 4)."""
    return np.linalg.inv(homogeneous(rigid)).astype(np.float64)


def _poses(drive: RawDrive, notes: list[str]) -> Matrix | None:
    """The inertial unit's poses, (N, 4, 4); None where the drive has none, which is noted."""
    try:
        return drive.imu_poses
    except DataError as error:
        notes.append(f"no ego motion: {error}")
        return None
