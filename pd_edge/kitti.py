"""KITTI's data, object and raw layout: the one place that knows the camera frame.

Everywhere else a box is ``x y z length width height yaw`` about its geometric centre in the LiDAR frame; labels,
calibration and files of KITTI are converted here. The names below are the public ones, whichever file they live in.

Source of all formats: the development kits of KITTI's object and raw data (readme.txt).
"""

from pd_edge.kitti_boxes import boxes_to_labels, boxes_to_lidar, detections_to_labels
from pd_edge.kitti_calibration import (
    Calibration,
    ImageSize,
    crop_to_image,
    read_object_calibration,
    read_raw_calibration,
    write_object_calibration,
    write_raw_calibration,
)
from pd_edge.kitti_datasets import ObjectDataset, open_dataset
from pd_edge.kitti_frames import CloudFolder, Dataset, Frame, iterate
from pd_edge.kitti_labels import DONT_CARE, Label, dont_care, read_labels, write_labels
from pd_edge.kitti_raw import RawDrive
from pd_edge.kitti_tracklets import Tracklet, read_tracklets, write_tracklets
from pd_edge.kitti_writers import write_object_frame, write_raw_drive, write_split

__all__ = [
    "DONT_CARE",
    "Calibration",
    "CloudFolder",
    "Dataset",
    "Frame",
    "ImageSize",
    "Label",
    "ObjectDataset",
    "RawDrive",
    "Tracklet",
    "boxes_to_labels",
    "boxes_to_lidar",
    "crop_to_image",
    "detections_to_labels",
    "dont_care",
    "iterate",
    "open_dataset",
    "read_labels",
    "read_object_calibration",
    "read_raw_calibration",
    "read_tracklets",
    "write_labels",
    "write_object_calibration",
    "write_object_frame",
    "write_raw_calibration",
    "write_raw_drive",
    "write_split",
    "write_tracklets",
]
