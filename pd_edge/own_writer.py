"""Writing own data in the plain layout, frame by frame."""

import shutil
from pathlib import Path

from pd_edge.clouds import SUFFIXES, Cloud, write_cloud
from pd_edge.config import dump_config
from pd_edge.errors import DataError
from pd_edge.files import write_bytes
from pd_edge.own_data import LABELS, POINTS, SETTINGS, TIMES, OwnConfig
from pd_edge.own_labels import Objects, write_objects
from pd_edge.sensors import KITTI, SensorProfile

SENSOR = "sensor.yaml"
"""The profile that ``dataset.yaml`` names."""


class OwnWriter:
    """Writes frames into a new folder.

    Args:
        out: The folder; it may exist, without points.
        profile: How the sensor writes and stands, noted beside the frames; nothing is noted of KITTI's.

    Attributes:
        frames: Frames written.
        labelled: Those with a label file.
        objects: Objects in all of them.

    Raises:
        DataError: The folder holds points already.
    """

    def __init__(self, out: Path, profile: SensorProfile = KITTI) -> None:
        if (out / POINTS).exists():
            raise DataError(f"{out}: holds {POINTS} already; give another folder, or remove it")
        self._out = out
        self._times: list[str] = []
        self.frames = self.labelled = self.objects = 0
        if profile != KITTI:
            # Names of fields are of the source; the points written here have none.
            plain = {"coordinate_fields": KITTI.coordinate_fields, "intensity_field": None}
            dump_config(profile.model_copy(update=plain), out / SENSOR)
            dump_config(OwnConfig(sensor=SENSOR), out / SETTINGS)

    def add(self, name: str, points: Cloud, objects: Objects | None = None, time_ns: int | None = None) -> None:
        """Writes a frame.

        Args:
            name: Of the frame.
            points: (N, 4) as the sensor writes them; float32 in a .bin file.
            objects: Its objects in metres; no label file where None.
            time_ns: Time stamp.

        Raises:
            DataError: It cannot be written.
        """
        write_cloud(self._out / POINTS / f"{name}.bin", points)
        self._note(name, objects, time_ns)

    def add_file(self, name: str, cloud: Path, objects: Objects) -> None:
        """Copies a cloud as it is and writes its objects; see :meth:`add`."""
        target = self._out / POINTS / f"{name}{cloud.suffix.lower()}"
        if target.suffix not in SUFFIXES:
            raise DataError(f"{cloud}: unknown kind of cloud; expected {', '.join(SUFFIXES)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cloud, target)
        except OSError as error:
            raise DataError(f"{cloud}: cannot be copied to {target} ({error.strerror})") from error
        self._note(name, objects, None)

    def finish(self) -> None:
        """Writes the time stamps, where there are some."""
        if self._times:
            write_bytes(self._out / TIMES, "\n".join([*self._times, ""]).encode())

    def _note(self, name: str, objects: Objects | None, time_ns: int | None) -> None:
        self.frames += 1
        if objects is not None:
            write_objects(self._out / LABELS / f"{name}.json", objects)
            self.labelled += 1
            self.objects += len(objects.names)
        if time_ns is not None:
            self._times.append(f"{name} {time_ns}")
