"""Training data: scenes from KITTI object folders and own data, augmented, each a function of seed and number."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from pd_edge.boxes import Detections
from pd_edge.config import ModelConfig
from pd_edge.errors import ConfigError, DataError
from pd_edge.files import read_bytes
from pd_edge.kitti import DONT_CARE, Label, ObjectDataset, boxes_to_lidar
from pd_edge.kitti_datasets import is_object_folder
from pd_edge.own_data import LEVEL, SETTINGS, OwnDataset, is_own_layout
from pd_edge.own_labels import is_ignored
from pd_edge.sensors import KITTI, SensorProfile, load_profile, mount_of
from pd_edge.training.augment import augment
from pd_edge.training.data_config import AugmentConfig, DataConfig, SourceConfig
from pd_edge.training.object_bank import ObjectBank, Progress, Scenes, build_object_bank
from pd_edge.training.scene import OTHER, Scene, ignored_label, keep_targets

__all__ = ["FolderScenes", "MoreScenes", "Scene", "SceneDataset", "open_object_bank", "training_dataset"]

_BLOCK = 64
"""Samples among which the sources are shuffled."""

_SHARE = 1 << 20
"""Sources' shares of the samples are whole multiples of 1 / this, so that counting samples is exact."""

_BANK_VERSION = 1
"""Counts up when banks of old become wrong."""

_SOURCE_ORDER, _FRAME_ORDER, _AUGMENT = range(3)
"""What a generator is for: the third number of its seed, so that no two uses share their random numbers."""


class MoreScenes(NamedTuple):
    """Scenes that are no folder's, as those whose labels a teacher gave.

    Attributes:
        scenes: The scenes, in order.
        weight: Share of the samples, relative to the other sources' weights.
        key: What the scenes were made of; part of the name of an object bank.
    """

    scenes: Scenes
    weight: float
    key: str


class FolderScenes(Dataset[Scene]):
    """The frames of one folder, in order, as they were recorded: also the data to validate on.

    Points and boxes are in the model's frame, where the source's sensor profile puts them.

    Boxes of classes that are not trained on are there too, labelled :data:`~pd_edge.training.scene.OTHER`, and those
    that own data ignore, labelled by :func:`~pd_edge.training.scene.ignored_label`; DontCare regions, which are no 3D
    boxes, are not. :func:`~pd_edge.training.scene.keep_targets` leaves what can be learnt.

    Args:
        source: Which frames.
        model: Gives the classes, in label order.
        cloud: ``reduced`` takes the points that the left colour camera sees, ``full`` all.

    Raises:
        ConfigError: There is no such sensor profile, or the settings of own data are wrong.
        DataError: The folder holds neither own data nor KITTI's objects, or has no frames.
    """

    def __init__(self, source: SourceConfig, model: ModelConfig, cloud: Literal["full", "reduced"] = "reduced") -> None:
        self._label_of = {kind.name: index for index, kind in enumerate(model.classes)}
        self._root = source.root
        self._told = False
        self.frames = open_source(source, cloud)
        self._mount = mount_of(load_profile(source.sensor))
        self._scaled = _profile(self.frames, source).intensity_max is not None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        frame = self.frames.frame(index)
        if frame.calibration is None or frame.labels is None:
            missing = "calibration" if frame.calibration is None else "labels"
            raise DataError(f"{self._root}: frame {frame.id} has no {missing}; training needs both for every frame")
        self._tell(frame.id, tuple(note for note in frame.notes if not self._expected(note)))
        objects = [label for label in frame.labels if label.name != DONT_CARE]
        self._check_sizes(objects, frame.id)
        labels = np.array([self._label_of.get(label.name, OTHER) for label in objects], dtype=np.int64)
        unsure = np.array([is_ignored(label, around=frame.around) for label in objects], dtype=bool)
        labels = np.where(unsure, ignored_label(labels), labels)
        boxes = boxes_to_lidar(objects, frame.calibration).astype(np.float32)
        boxes = self._mount.inverse.boxes(Detections(boxes, labels, np.ones(len(boxes), np.float32))).boxes
        return Scene(self._mount.points(frame.points), boxes, labels)

    def _expected(self, note: str) -> bool:
        """Whether a change of a cloud is what a profile asks for."""
        return note == LEVEL or (self._scaled and note.startswith("intensity"))

    def _tell(self, frame_id: str, notes: tuple[str, ...]) -> None:
        """Warns of what had to be changed in a cloud, once in a folder."""
        if notes and not self._told:
            self._told = True
            warnings.warn(f"{self._root}: frame {frame_id}: {'; '.join(notes)} (not said again)", stacklevel=3)

    def _check_sizes(self, objects: list[Label], frame_id: str) -> None:
        for label in objects:
            if min(label.length, label.width, label.height) <= 0:
                raise DataError(
                    f"{self._root}: frame {frame_id} has a {label.name} of {label.length} x {label.width} x "
                    f"{label.height} m (length, width, height); correct its label, or name it {DONT_CARE}"
                )


def open_source(source: SourceConfig, cloud: Literal["auto", "full", "reduced"] = "auto") -> ObjectDataset | OwnDataset:
    """The frames of a source; ``cloud`` as :class:`~pd_edge.kitti.ObjectDataset` takes it.

    Raises:
        DataError: The folder holds neither own data nor KITTI's objects, or has no frames.
        ConfigError: The settings of own data are wrong.
    """
    profile = load_profile(source.sensor)
    if is_own_layout(source.root) and not is_object_folder(source.root):  # which open_dataset looks for first
        return OwnDataset(source.root, source.split, profile)
    return ObjectDataset(source.root, source.split, cloud, profile)


def _profile(frames: ObjectDataset | OwnDataset, source: SourceConfig) -> SensorProfile:
    """The profile that the clouds of a source are read with: own data may name theirs themselves."""
    return frames.profile if isinstance(frames, OwnDataset) else load_profile(source.sensor)


class SceneDataset(Dataset[Scene]):
    """The endless stream of training scenes, each addressed by its sample number.

    Sample ``n`` depends on the configuration, the seed and ``n`` alone: any number of workers and any place to resume
    at give the same stream. In every 64 samples the sources have their shares of the weights (to within one sample), in
    random order. A source goes through all its frames, in random order, before one returns (give or take those 64).

    Args:
        data: Sources, their weights, which points and boxes to keep.
        model: Classes and grid.
        augment: Random changes.
        seed: Seed of everything random here.
        bank: Objects to paste, from :func:`open_object_bank`; needed only where ``augment.sampled_objects`` is not 0.
        more: Further sources, behind those of ``data``.

    Raises:
        ConfigError: Objects are to be pasted, but there is no bank.
        DataError: A source cannot be read.
    """

    def __init__(
        self,
        data: DataConfig,
        model: ModelConfig,
        augment: AugmentConfig,
        seed: int,
        bank: ObjectBank | None = None,
        *,
        more: Sequence[MoreScenes] = (),
    ) -> None:
        if augment.sampled_objects and bank is None:
            raise ConfigError(
                f"sampled_objects is {augment.sampled_objects}, but no object bank is given; "
                "open one with open_object_bank, or set sampled_objects to 0"
            )
        self._data, self._model, self._augment = data, model, augment
        self._seed, self._bank = seed, bank
        self.sources = _sources(data, model, more)
        self._splits = _splits(_weights(data, more))

    def __len__(self) -> int:
        """Number of frames in all sources together; sample numbers may be any greater."""
        return sum(len(source) for source in self.sources)

    def __getitem__(self, sample_number: int) -> Scene:
        return self.scene(sample_number)

    def scene(self, sample_number: int) -> Scene:
        """The augmented scene of a sample number (0 or greater).

        Raises:
            IndexError: The sample number is negative.
            DataError: The frame cannot be read.
        """
        source, index = self.frame_of(sample_number)
        recorded = self.sources[source][index]
        changed = augment(recorded, self._augment, self._bank, self._generator(_AUGMENT, sample_number))
        return keep_targets(changed, self._model.grid, self._data.min_points)

    def frame_of(self, sample_number: int) -> tuple[int, int]:
        """Source and index within it of the frame that a sample number shows."""
        if sample_number < 0:
            raise IndexError(f"sample number {sample_number}; they count from 0")
        block, place = divmod(sample_number, _BLOCK)
        order = self._generator(_SOURCE_ORDER, block).permutation(_BLOCK)
        source, drawn = _turn(block * _BLOCK + int(order[place]), self._splits)
        passes, place = divmod(drawn, len(self.sources[source]))
        frames = self._generator(_FRAME_ORDER, source, passes).permutation(len(self.sources[source]))
        return source, int(frames[place])

    def _generator(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, purpose, *numbers))


def _sources(data: DataConfig, model: ModelConfig, more: Sequence[MoreScenes]) -> list[Scenes]:
    folders: list[Scenes] = [FolderScenes(source, model, data.cloud) for source in data.sources]
    return folders + [each.scenes for each in more]


def _weights(data: DataConfig, more: Sequence[MoreScenes]) -> list[float]:
    return [source.weight for source in data.sources] + [each.weight for each in more]


def _splits(weights: list[float]) -> list[int]:
    """Shares of all sources but the last in the samples that earlier ones leave, in units of 1 / :data:`_SHARE`."""
    shares = [round(_SHARE * weight / sum(weights[index:])) for index, weight in enumerate(weights[:-1])]
    return [min(max(share, 1), _SHARE - 1) for share in shares]


def _turn(number: int, splits: list[int]) -> tuple[int, int]:
    """Whose turn it is at a place in the evenly interleaved sources, and how often it had been that source's before."""
    for source, share in enumerate(splits):
        before = number * share // _SHARE
        if (number + 1) * share // _SHARE > before:
            return source, before
        number -= before
    return len(splits), number


def training_dataset(
    data: DataConfig,
    model: ModelConfig,
    augment: AugmentConfig,
    seed: int,
    cache: Path,
    *,
    more: Sequence[MoreScenes] = (),
    progress: Progress | None = None,
) -> SceneDataset:
    """The training stream with its object bank, which is kept in the folder ``cache``; see :func:`open_object_bank`."""
    bank = open_object_bank(data, model, augment, cache, progress, more=more) if augment.sampled_objects else None
    return SceneDataset(data, model, augment, seed, bank, more=more)


def open_object_bank(
    data: DataConfig,
    model: ModelConfig,
    augment: AugmentConfig,
    cache: Path,
    progress: Progress | None = None,
    *,
    more: Sequence[MoreScenes] = (),
) -> ObjectBank:
    """Reads the object bank of these sources from the folder ``cache``, or builds it and leaves it there.

    The name of the file carries a hash of the frames and settings it was built from: changed data get a new bank.

    Args:
        data: The sources.
        model: The classes.
        augment: Which objects go into the bank.
        cache: Folder of the bank's file; made where missing.
        progress: Told about every frame read while building.
        more: Further sources, behind those of ``data``.

    Raises:
        DataError: A source, or a bank in the cache, cannot be read.
    """
    weights = _weights(data, more)
    path = cache / f"object_bank-{_bank_key(data, model, augment, more)}.npz"
    if not path.exists():
        build_object_bank(
            _sources(data, model, more),
            weights,
            len(model.classes),
            min_points=augment.bank_min_points,
            max_objects=augment.bank_max_objects,
            progress=progress,
        ).save(path)
    return ObjectBank.load(path, weights)


def _bank_key(data: DataConfig, model: ModelConfig, augment: AugmentConfig, more: Sequence[MoreScenes]) -> str:
    """Hash of what decides what is in the bank; of the clouds only which they are, not their points."""
    names = [kind.name for kind in model.classes]
    settings = (_BANK_VERSION, data.cloud, names, augment.bank_min_points, augment.bank_max_objects)
    digest = hashlib.sha256(repr(settings).encode())
    for source in data.sources:
        frames = open_source(source, data.cloud)
        digest.update(f"{frames.folder.resolve()}, {len(frames)} frames".encode())
        profile = _profile(frames, source)
        digest.update(profile.model_dump_json().encode() if profile != KITTI else b"")
        own = frames.folder / SETTINGS
        digest.update(read_bytes(own, "settings") if own.exists() else b"")
        for name in frames.ids:
            digest.update(name.encode() + read_bytes(frames.label_file(name), "a label file"))
    for each in more:
        digest.update(each.key.encode())
    return digest.hexdigest()[:16]
