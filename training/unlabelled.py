"""Training scenes from clouds without labels: a teacher's boxes stand for the labels, within a band of scores.

The boxes are computed once. Cloud by cloud they stay in the cache, in the model's frame and cut to the ground that the
teacher sees: beyond it there are no boxes, so there must be no objects either, wherever augmentation turns the scene.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from pd_edge.boxes import Detections, bev_iou, wrap_angle
from pd_edge.config import DecodeConfig, DetectorConfig, GridConfig
from pd_edge.detector import Detector
from pd_edge.doctor_sources import cloud_files
from pd_edge.errors import DataError
from pd_edge.files import read_json
from pd_edge.kitti import open_dataset
from pd_edge.own_data import profile_of
from pd_edge.report import write_json
from pd_edge.runtimes.torch import ModuleRuntime
from pd_edge.sensors import corrected, load_profile, mount_of
from pd_edge.training.checkpoint import tensors_sha256
from pd_edge.training.network import Network
from pd_edge.training.scene import Scene, ignored_label
from pd_edge.training.unlabelled_config import UnlabelledConfig, UnlabelledSource
from pd_edge.training.validate import InMemory

Cloud = npt.NDArray[np.float32]
Advance = Callable[[int, int], None]

CACHE_VERSION = 1
"""Counts up when what the cache holds of old becomes wrong."""
INDEX, BOXES = "index.json", "boxes.npz"
SAME_OBJECT = 0.3
"""BEV IoU from which boxes of two looks are of one object."""


class PseudoScenes(Dataset[Scene]):
    """The clouds of one source with a teacher's boxes, in order.

    Args:
        folder: Of the cache, as :func:`pseudo_scenes` leaves it.
        high: Score from which a box is a label; the others are ignored.

    Attributes:
        index: What stands in the folder: the source's name, clouds and boxes.
        key: What the boxes were made of, as a hash.

    Raises:
        DataError: The folder's files cannot be read.
    """

    def __init__(self, folder: Path, high: float) -> None:
        self._folder, self._high = folder, high
        self.key = folder.name
        self.index = read_json(folder / INDEX, "the index of a teacher's boxes")
        try:
            with np.load(folder / BOXES, allow_pickle=False) as arrays:
                self._boxes, self._labels, self._scores, self._starts = (
                    arrays[name] for name in ("boxes", "labels", "scores", "starts")
                )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: unreadable ({error}); delete it and it is made again") from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"cloud {index} of {len(self)}")
        part = slice(self._starts[index], self._starts[index + 1])
        labels = self._labels[part]
        sure = self._scores[part] >= self._high
        try:
            points = np.load(_cloud_file(self._folder, index), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self._folder}: unreadable ({error}); delete it and it is made again") from error
        return Scene(points, self._boxes[part], np.where(sure, labels, ignored_label(labels)))

    def counts(self, classes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Boxes of each class that are labels, and that are ignored."""
        sure = self._scores >= self._high
        labelled, unsure = (np.bincount(self._labels[chosen], minlength=classes) for chosen in (sure, ~sure))
        return labelled.astype(np.int64), unsure.astype(np.int64)


def pseudo_scenes(
    config: UnlabelledConfig, teacher: Network, cache: Path, advance: Advance | None = None
) -> list[PseudoScenes]:
    """The scenes of every source, from the cache where the same teacher saw the same clouds before.

    Args:
        config: Sources and band.
        teacher: In evaluation mode, laid out on the student's grid; see
            :func:`pd_edge.training.distillation.load_teacher`.
        cache: Folder of the caches; each stands in a folder named by a hash of what it was made of.
        advance: Told about every cloud, with the number of clouds where it is known.

    Raises:
        ConfigError: There is no such sensor profile.
        DataError: A source cannot be read, or the teacher is sure of nothing in it.
        MissingExtraError: A source is a bag, and ``rosbags`` is not installed.
    """
    sha256 = tensors_sha256(teacher.state_dict())
    found = []
    for source in config.sources:
        folder = cache / f"unlabelled-{_key(source, config, teacher, sha256)}"
        if not (folder / INDEX).is_file():
            _look_through(source, config, teacher, folder, advance)
        scenes = PseudoScenes(folder, config.high)
        labelled, unsure = scenes.counts(len(teacher.config.classes))
        if not labelled.any():
            raise DataError(
                f"{source.path}: in {len(scenes)} clouds the teacher has no box that scores {config.high} or more "
                f"({unsure.sum()} score {config.low} or more); look at them with `pd-edge doctor`, give the sensor's "
                "profile, or lower `high`"
            )
        found.append(scenes)
    return found


def describe_scenes(scenes: PseudoScenes, classes: tuple[str, ...]) -> str:
    """How many boxes of each class a source gave, in words."""
    counts = zip(classes, *scenes.counts(len(classes)), strict=True)
    parts = (f"{name} {labelled} labels, {unsure} ignored" for name, labelled, unsure in counts)
    return f"{scenes.index['source']}: {len(scenes)} clouds; {'; '.join(parts)}"


class Looker:
    """A teacher that looks at clouds in the model's frame.

    Args:
        teacher: In evaluation mode.
        low: Boxes scoring less are left out.
        mirrored: Look at the mirrored cloud, too.
    """

    def __init__(self, teacher: Network, low: float, *, mirrored: bool) -> None:
        self._mirrored, self._low = mirrored, low
        # A box that only one look has in full may still reach `low` with the other's weaker one.
        config = DetectorConfig(model=teacher.config, decode=DecodeConfig(score_threshold=low / 2 if mirrored else low))
        self._detector = Detector(InMemory("teacher", config, teacher.fold_encoder()), ModuleRuntime(teacher))

    def look(self, cloud: Cloud) -> Detections:
        """The boxes in a cloud (N, 4), in its frame."""
        found = self._detector.detect(cloud)
        if self._mirrored:
            other = self._detector.detect(cloud * np.array([1, -1, 1, 1], np.float32))
            found = agreed(found, _mirror(other))
        kept = found.scores >= self._low
        return Detections(found.boxes[kept], found.labels[kept], found.scores[kept])


def _mirror(found: Detections) -> Detections:
    boxes = found.boxes.copy()
    boxes[:, 1] *= -1
    boxes[:, 6] = wrap_angle(-boxes[:, 6])
    return found._replace(boxes=boxes)


def agreed(first: Detections, second: Detections) -> Detections:
    """The boxes of the first look, with the mean of their score and that of the second's best box there, or zero."""
    scores = np.zeros_like(first.scores)
    if len(second.boxes) and len(first.boxes):
        same = (bev_iou(first.boxes, second.boxes) >= SAME_OBJECT) & (first.labels[:, None] == second.labels)
        scores = np.where(same, second.scores, np.float32(0)).max(axis=1)
    return first._replace(scores=((first.scores + scores) / 2).astype(np.float32))


def _look_through(
    source: UnlabelledSource, config: UnlabelledConfig, teacher: Network, folder: Path, advance: Advance | None
) -> None:
    """Writes the cache of a source; it appears whole."""
    looker = Looker(teacher, config.low, mirrored=config.mirrored)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        looks: list[Detections] = []
        for name, cloud, total in clouds_of(source, config.every):
            seen = cloud[_above(cloud, teacher.config.grid)]
            if len(seen):
                np.save(_cloud_file(partial, len(looks)), seen)
                looks.append(_named(name, lambda seen=seen: looker.look(seen)))  # type: ignore[misc]
            if advance is not None:
                advance(len(looks), max(total, len(looks)))
        if not looks:
            raise DataError(f"{source.path}: no cloud has a point above the grid; look at one with `pd-edge doctor`")
        _write(partial, looks, source.path.name)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _named(name: str, look: Callable[[], Detections]) -> Detections:
    try:
        return look()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _write(folder: Path, looks: list[Detections], source: str) -> None:
    starts = np.cumsum([0, *(len(each.boxes) for each in looks)])
    boxes, labels, scores = (np.concatenate([getattr(each, name) for each in looks]) for name in Detections._fields)
    np.savez(folder / BOXES, boxes=boxes, labels=labels, scores=scores, starts=starts)
    write_json(folder / INDEX, {"source": source, "clouds": len(looks), "boxes": len(boxes)})


def _above(cloud: Cloud, grid: GridConfig) -> npt.NDArray[np.bool_]:
    x, y = cloud[:, 0], cloud[:, 1]
    return np.asarray((x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max))


def _cloud_file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npy"


def clouds_of(source: UnlabelledSource, every: int = 1) -> Iterator[tuple[str, Cloud, int]]:
    """The clouds of a source in the model's frame, with their names and how many there are (0: unknown).

    Raises:
        ConfigError: There is no such sensor profile.
        DataError: The source or one of its clouds cannot be read.
    """
    profile = load_profile(source.sensor)
    mount = mount_of(profile)
    if not cloud_files(source.path):
        for name, points, total in _messages(source, every):
            yield name, mount.points(corrected(points, name, profile).points), total
        return
    if source.topic is not None:
        raise DataError(f"{source.path}: clouds in files have no topic; leave it out")
    frames = open_dataset(source.path, sensor=profile)
    for index in range(0, len(frames), every):
        frame = frames.frame(index)
        yield f"{source.path}, frame {frame.id}", mount.points(frame.points), -(-len(frames) // every)


def _messages(source: UnlabelledSource, every: int) -> Iterator[tuple[str, Any, int]]:
    """The clouds of a bag as the sensor wrote them; those without a point are passed over."""
    from pd_edge.bags import BagReader  # noqa: PLC0415 - needs the extra bags
    from pd_edge.pointcloud2 import points_of  # noqa: PLC0415
    from pd_edge.replay import CLOUD_KIND, cloud_topic  # noqa: PLC0415

    profile = load_profile(source.sensor)
    with BagReader(source.path) as bag:
        topic = cloud_topic(bag, source.topic)
        records = bag.records(None if topic is None else [topic])
        clouds = (record for record in records if record.kind == CLOUD_KIND)
        total = 0 if topic is None else -(-bag.count(topic) // every)
        for place, record in enumerate(clouds):
            if place % every == 0:
                read = points_of(bag.message(record), profile.intensity_field, profile.coordinate_fields)
                if len(read.points):
                    yield f"{source.path}, {record.topic} at {record.time_ns} ns", read.points, total


class _Made(NamedTuple):
    """What a cache depends on."""

    version: int
    teacher: str
    model: str
    profile: str
    source: str
    files: tuple[tuple[str, int, int], ...]
    settings: str


def _key(source: UnlabelledSource, config: UnlabelledConfig, teacher: Network, sha256: str) -> str:
    """Hash of the teacher, the lower end of the band, the profile and the source's files by name, size and time."""
    made = _Made(
        CACHE_VERSION,
        sha256,
        teacher.config.model_dump_json(),
        profile_of(source.path, load_profile(source.sensor)).model_dump_json(),
        f"{source.path.resolve()} {source.topic}",
        tuple(_stamp(file) for file in _files(source.path)),
        f"{config.low} {config.every} {config.mirrored}",
    )
    return hashlib.sha256(repr(made).encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    clouds = cloud_files(path)
    if clouds or path.is_file():
        return clouds or [path]
    return sorted(file for file in path.iterdir() if file.is_file())


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns
