"""Own data in a plain layout: ``points/ID.bin`` (or .npy, .pcd, .ply), ``labels/ID.json``, ``splits/NAME.txt``."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from pd_edge.boxes import Detections
from pd_edge.clouds import SUFFIXES, CheckedCloud
from pd_edge.config import Config, load_config
from pd_edge.errors import DataError
from pd_edge.files import read_text
from pd_edge.kitti_frames import Frame, named, read_checked
from pd_edge.own_labels import AXES, Boxes, Objects, read_objects, to_labels
from pd_edge.sensors import KITTI, MODEL_HEIGHT, Mount, SensorProfile, load_profile, mount_of, shipped_profiles

POINTS, LABELS, SPLITS, CALIBRATION, SETTINGS = "points", "labels", ("splits", "ImageSets"), "calib", "dataset.yaml"
"""What is where in the layout; lists of frames in one of the two folders."""
TIMES = "times.txt"
"""Time stamps, a line ``ID nanoseconds`` for each frame."""

LEVEL = f"points and boxes are level, {MODEL_HEIGHT} m above the ground, by the sensor of {SETTINGS}"
"""Note on frames that are not as their clouds are written."""


class OwnConfig(Config):
    """``dataset.yaml``: what holds for all frames of a folder."""

    sensor: str = Field("", description="Sensor profile: a shipped one's name, or a YAML file beside this one.")
    classes: dict[str, str] = Field({}, description="Names in the labels, and the classes that they are to be.")


class OwnDataset:
    """Frames of a folder in the plain layout.

    With a profile of its own (``sensor`` in ``dataset.yaml``), points and boxes are brought to the frame that the
    models know, level and 1.73 m above the ground; without one they stay in the clouds' frame.

    Args:
        root: The folder that holds ``points``.
        split: A list in ``splits`` (or ``ImageSets``), or the path of a list file ending in .txt; all when left out.
        sensor: How the sensor writes points, where ``dataset.yaml`` does not say.

    Attributes:
        folder: The folder.
        ids: Names of the frames, in order.
        profile: The profile in use.
        mount: From the clouds' frame to that of the frames.

    Raises:
        DataError: There are no clouds, a listed one is missing, two have one name, or the split is unknown.
        ConfigError: ``dataset.yaml`` or the profile is wrong.
    """

    def __init__(self, root: Path | str, split: str | Path | None = None, sensor: SensorProfile = KITTI) -> None:
        self.folder = Path(root)
        settings = self.folder / SETTINGS
        config = load_config(settings, OwnConfig) if settings.exists() else OwnConfig()
        if config.sensor and sensor != KITTI:
            raise DataError(f"{settings}: names the sensor {config.sensor!r}; leave --sensor out, or `sensor` there")
        self.profile = load_profile(_profile_path(config.sensor, self.folder)) if config.sensor else sensor
        self.mount = mount_of(self.profile if config.sensor else KITTI)
        self._classes = config.classes
        self._files = _clouds(self.folder / POINTS)
        self.ids = list(self._files) if split is None else self._listed(split)

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self, index: int) -> Frame:
        """Reads a frame; its labels are None where it has no label file.

        Raises:
            DataError: A file of the frame is malformed; frame and file are named.
        """
        name = self.ids[index]
        return named(self.folder, name, lambda: self._read(name))

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))

    def times_ns(self) -> list[int] | None:
        """Time stamps of the frames [ns]; None where ``times.txt`` is missing.

        Raises:
            DataError: It is malformed, or lacks a frame.
        """
        file = self.folder / TIMES
        if not file.exists():
            return None
        rows = [line.split() for line in read_text(file, "time stamps").split("\n") if line.strip()]
        wrong = next((row for row in rows if len(row) != 2 or not row[1].isdecimal()), None)
        times = {} if wrong else {name: int(time) for name, time in rows}
        lacking = next((name for name in self.ids if name not in times), None)
        if wrong or lacking is not None:
            what = f"{' '.join(wrong)!r} is no time stamp" if wrong else f"lacks frame {lacking}"
            raise DataError(f"{file}: {what}; expected a line `ID nanoseconds` for every frame, or no such file")
        return [times[name] for name in self.ids]

    def cloud_file(self, name: str) -> Path:
        """The cloud of a frame."""
        return self._files[name]

    def label_file(self, name: str) -> Path:
        """The labels of a frame, which may be missing; of two, the JSON file."""
        text = self.folder / LABELS / f"{name}.txt"
        json = text.with_name(f"{name}.json")
        return text if text.exists() and not json.exists() else json

    def cloud(self, name: str) -> CheckedCloud:
        """The cloud of a frame, in metres, in its own frame.

        Raises:
            DataError: It cannot be read as a cloud.
        """
        return read_checked(self._files[name], self.profile)

    def objects(self, name: str) -> Objects | None:
        """The objects of a frame, in the cloud's own frame, with their classes renamed; None without a label file.

        Raises:
            DataError: The label file is malformed.
        """
        path = self.label_file(name)
        if not path.exists():
            return None
        objects = read_objects(path, self.folder / CALIBRATION / f"{name}.txt")
        return objects._replace(names=[self._classes.get(each, each) for each in objects.names])

    def _read(self, name: str) -> Frame:
        cloud, objects = self.cloud(name), self.objects(name)
        points, notes = self.mount.points(cloud.points), cloud.notes
        labels = None
        if objects is not None:
            labels = to_labels(objects._replace(boxes=placed(objects.boxes, self.mount)), points)
        return Frame(name, points, AXES, labels, None, notes if self.mount.needless else (*notes, LEVEL), around=True)

    def _listed(self, split: str | Path) -> list[str]:
        names = _read_list(_list_file(self.folder, split))
        missing = [name for name in names if name not in self._files]
        if missing:
            raise DataError(
                f"{self.folder}: split {str(split)!r} lists {missing[0]!r}, of which there is no cloud in {POINTS}; "
                f"it has {next(iter(self._files))} and so on"
            )
        return names


def is_own_layout(root: Path) -> bool:
    """Whether a folder holds data in the plain layout."""
    return (root / POINTS).is_dir()


def profile_of(root: Path, sensor: SensorProfile = KITTI) -> SensorProfile:
    """The profile that the clouds at a path are read with: own data may name theirs, else it is ``sensor``.

    Raises:
        DataError: It is own data without clouds, or with a profile of its own beside another ``sensor``.
        ConfigError: ``dataset.yaml`` or the profile in it is wrong.
    """
    return OwnDataset(root, sensor=sensor).profile if is_own_layout(root) else sensor


def _clouds(folder: Path) -> dict[str, Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder}: no clouds; expected files ending in {', '.join(SUFFIXES)}")
    twice = [name for name, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise DataError(f"{folder}: two clouds of the name {twice[0]}; a frame has one file")
    return {file.stem: file for file in files}


def _list_file(folder: Path, split: str | Path) -> Path:
    if Path(split).suffix == ".txt":
        return Path(split)
    known = {path.stem: path for each in reversed(SPLITS) for path in sorted((folder / each).glob("*.txt"))}
    if str(split) not in known:
        raise DataError(
            f"{folder}: no split {str(split)!r}; {SPLITS[0]} has {', '.join(known) or 'no list'}. Write "
            f"{SPLITS[0]}/{split}.txt, one frame a line; or give the path of a list ending in .txt"
        )
    return known[str(split)]


def _read_list(file: Path) -> list[str]:
    names = [line.strip() for line in read_text(file, "a list of frames, one a line").split("\n") if line.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not names:
        problem = f"frame {repeated[0]} is listed twice" if repeated else "lists no frames"
        raise DataError(f"{file}: {problem}; expected each frame once, one a line")
    return names


def _profile_path(sensor: str, folder: Path) -> str:
    """A shipped profile's name as it is; a file's relative to the folder."""
    return sensor if sensor in shipped_profiles() else str(folder / sensor)


def placed(boxes: Boxes, mount: Mount) -> Boxes:
    """Boxes (K, 7) of the cloud in the model's frame; those of the model in the cloud's are what a mount gives."""
    if mount.needless:
        return boxes
    some = Detections(boxes.astype(np.float32), np.zeros(len(boxes), np.int64), np.ones(len(boxes), np.float32))
    return mount.inverse.boxes(some).boxes.astype(np.float64)
