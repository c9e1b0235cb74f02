"""A frame, what every data set offers, and plain folders of clouds as the simplest one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pd_edge.cloud_formats import Wanted
from pd_edge.clouds import SUFFIXES, CheckedCloud, read_cloud
from pd_edge.errors import DataError
from pd_edge.kitti_calibration import Calibration, ImageSize, png_size
from pd_edge.kitti_labels import Label
from pd_edge.sensors import KITTI, SensorProfile, corrected

PROFILE = "sensor.yaml"
"""The profile of a data set's clouds, where one stands beside them."""


class Frame(NamedTuple):
    """One scan and what is known about it."""

    id: str
    """The frame's file name without its suffix."""
    points: npt.NDArray[np.float32]
    """(N, 4) float32: x y z [m] in the LiDAR frame, intensity 0..1; all finite."""
    calibration: Calibration | None
    """None where the data set has no calibration."""
    labels: list[Label] | None
    """Ground truth, DontCare included; None where the data set has no labels."""
    image_size: ImageSize | None
    """Width and height of the left colour image [px], where known."""
    notes: tuple[str, ...] = ()
    """What :func:`~pd_edge.clouds.check_points` had to change."""
    around: bool = False
    """Labelled all around the sensor and without a camera (own data), so that every point and every box counts."""


class Dataset(Protocol):
    """Frames in order."""

    @property
    def ids(self) -> list[str]:
        """Names of the frames."""

    def __len__(self) -> int: ...

    def frame(self, index: int) -> Frame:
        """Reads a frame; raises DataError naming the frame and the file where it cannot be read."""

    def __iter__(self) -> Iterator[Frame]: ...


def iterate(dataset: Dataset, on_error: Callable[[str, DataError], None]) -> Iterator[Frame]:
    """Frames in order; one that cannot be read goes to ``on_error`` (its name, the error) and is passed over."""
    for index, name in enumerate(dataset.ids):
        try:
            frame = dataset.frame(index)
        except DataError as error:  # noqa: PERF203 - each frame fails by itself
            on_error(name, error)
        else:
            yield frame


class CloudFolder:
    """The clouds (.bin, .npy, .pcd, .ply) of one folder in the order of their names, or one cloud by itself.

    Args:
        path: The folder or file.
        sensor: How the sensor writes points.

    Raises:
        DataError: The path does not exist or holds no cloud.
    """

    def __init__(self, path: Path | str, sensor: SensorProfile = KITTI) -> None:
        path = Path(path)
        self._sensor = sensor
        if not path.exists():
            raise DataError(f"{path}: does not exist; give a cloud, a folder of clouds, a data set or a raw drive")
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(
                f"{path}: no data set; looked for points (own data), training/velodyne or "
                "training/velodyne_reduced (KITTI object), velodyne_points/data (KITTI raw drive) and files ending in "
                f"{', '.join(SUFFIXES)}"
            )
        self.files = files
        stems = [file.stem for file in files]
        self.ids = stems if len(set(stems)) == len(stems) else [file.name for file in files]

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self, index: int) -> Frame:
        """Reads a cloud; it has neither calibration nor labels.

        Raises:
            DataError: The file cannot be read as a cloud.
        """
        cloud = read_checked(self.files[index], self._sensor)
        return Frame(self.ids[index], cloud.points, None, None, None, cloud.notes)

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))


def named(root: Path, name: str, read: Callable[[], Frame]) -> Frame:
    """Adds the frame's name to an error about one of its files."""
    try:
        return read()
    except DataError as error:
        raise DataError(f"frame {name} of {root}: {error}") from error


def read_checked(path: Path, sensor: SensorProfile = KITTI) -> CheckedCloud:
    """Reads a cloud as a sensor writes it, into its own frame [m], and checks it; raises DataError."""
    wanted = Wanted(sensor.intensity_field, sensor.coordinate_fields)
    return corrected(read_cloud(path, wanted), str(path), sensor)


def with_image_size(calibration: Calibration | None, image: Path) -> Calibration | None:
    """The image beside the cloud knows its size best."""
    if calibration is None or not image.exists():
        return calibration
    return calibration._replace(image_size=png_size(image))


def unused_profile(sensor: SensorProfile, *folders: Path) -> tuple[str, ...]:
    """A note where a profile stands in one of these folders, as `pd-edge simulate` leaves it, and none is in use."""
    found = [folder / PROFILE for folder in folders if (folder / PROFILE).is_file()] if sensor == KITTI else []
    return tuple(f"{each}, the profile of these clouds, is not in use: name it as the sensor" for each in found[:1])


def make_frame(
    name: str,
    cloud: CheckedCloud,
    calibration: Calibration | None,
    labels: list[Label] | None,
    notes: tuple[str, ...] = (),
) -> Frame:
    """A frame from its parts; the calibration tells the image size."""
    size = calibration.image_size if calibration else None
    return Frame(name, cloud.points, calibration, labels, size, (*cloud.notes, *notes))
