"""The object bank: labelled objects cut out of training frames, to be pasted into other frames.

Source: SECOND (Yan, Mao, Li; Sensors 2018, section 3.2.1), there called the ground-truth sampling database. Here it is
one file of plain arrays, which data loader processes share when they are forked.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import points_in_boxes
from pd_edge.errors import DataError
from pd_edge.training.scene import Scene

Progress = Callable[[int, int], None]
"""Called with the number of frames read and the number of frames there are."""

_ARRAYS = ("points", "point_starts", "boxes", "labels", "group_sizes")


class Scenes(Protocol):
    """The unchanged scenes of one source, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Scene: ...


class _Cutout(NamedTuple):
    """One object: its points (N, 4), its box (7,) and its class."""

    points: npt.NDArray[np.float32]
    box: npt.NDArray[np.float32]
    label: int


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects of all classes and sources, in the LiDAR frame at the place where they were recorded.

    Objects are ordered by class, and by source within a class; such a run is a group.

    Attributes:
        points: (T, 4) float32, points of all objects, one object after the other: x y z [m], intensity 0..1.
        point_starts: (M + 1,) int64, first point of each object, and T.
        boxes: (M, 7) float32.
        labels: (M,) int64, index into the model's classes.
        group_sizes: (classes, sources) int64, number of objects in each group.
        weights: (sources,) float64, how often objects of a source are drawn, relative to the other sources.
    """

    points: npt.NDArray[np.float32]
    point_starts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    group_sizes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    @property
    def class_count(self) -> int:
        """Number of classes, those without any object included."""
        return len(self.group_sizes)

    def points_of(self, index: int) -> npt.NDArray[np.float32]:
        """Points (N, 4) of one object."""
        return self.points[self.point_starts[index] : self.point_starts[index + 1]]

    def draw(self, label: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draws ``count`` objects of a class, with replacement: a source by its weight, then one of its objects.

        Returns:
            (count,) int64 indices of objects; none where the class has no object or ``count`` is not positive.
        """
        sizes = self.group_sizes[label]
        shares = np.where(sizes > 0, self.weights, 0.0)
        if count <= 0 or shares.sum() == 0:
            return np.empty(0, dtype=np.int64)
        source = rng.choice(len(sizes), count, p=shares / shares.sum())
        ends = np.cumsum(self.group_sizes).reshape(self.group_sizes.shape)[label]
        drawn: npt.NDArray[np.int64] = (ends - sizes)[source] + rng.integers(sizes[source])
        return drawn

    def save(self, path: Path) -> None:
        """Writes the bank; a reader never sees an unfinished file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(unfinished, **{name: getattr(self, name) for name in _ARRAYS})
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path, weights: Sequence[float]) -> "ObjectBank":
        """Reads a bank; ``weights`` are those of the sources it was built from.

        Raises:
            DataError: The file cannot be read, is no object bank, or has another number of sources.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                bank = cls(**{name: arrays[name] for name in _ARRAYS}, weights=np.array(weights, dtype=np.float64))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: not a readable object bank ({error}); delete it and it is built again") from error
        if bank.group_sizes.shape[-1] != len(weights):
            raise DataError(
                f"{path}: holds objects of {bank.group_sizes.shape[-1]} sources, {len(weights)} are configured; "
                "delete it and it is built again"
            )
        return bank


def build_object_bank(
    sources: Sequence[Scenes],
    weights: Sequence[float],
    class_count: int,
    *,
    min_points: int,
    max_objects: int,
    progress: Progress | None = None,
) -> ObjectBank:
    """Cuts labelled objects out of the scenes of every source.

    Frames are visited in a fixed random order, so that a full class is a fair selection of the source.

    Args:
        sources: The unchanged scenes of each source.
        weights: Of each source, for drawing.
        class_count: Number of classes trained on.
        min_points: Objects with fewer points are left out.
        max_objects: Most objects of one class and source.
        progress: Told about every frame read.
    """
    total = sum(len(source) for source in sources)
    groups: list[list[_Cutout]] = [[] for _ in range(class_count * len(sources))]
    done = 0
    for position, source in enumerate(sources):
        of_source = groups[position :: len(sources)]
        for index in np.random.default_rng(0).permutation(len(source)):
            if all(len(group) >= max_objects for group in of_source):
                break
            for cutout in _cut_out(source[int(index)], min_points):
                if len(of_source[cutout.label]) < max_objects:
                    of_source[cutout.label].append(cutout)
            done += 1
            if progress is not None:
                progress(done, total)
    sizes = np.array([len(group) for group in groups], dtype=np.int64).reshape(class_count, len(sources))
    return _pack([cutout for group in groups for cutout in group], sizes, weights)


def _cut_out(scene: Scene, min_points: int) -> Iterable[_Cutout]:
    """Objects of trained classes with enough points."""
    owner = points_in_boxes(scene.points, scene.boxes)
    for index in np.flatnonzero(scene.labels >= 0):
        points = scene.points[owner == index]
        if len(points) >= min_points:
            yield _Cutout(points, scene.boxes[index], int(scene.labels[index]))


def _pack(cutouts: list[_Cutout], group_sizes: npt.NDArray[np.int64], weights: Sequence[float]) -> ObjectBank:
    """One set of arrays from objects already in the order of their groups."""
    counts = [len(cutout.points) for cutout in cutouts]
    return ObjectBank(
        points=np.concatenate([np.empty((0, 4), np.float32), *(cutout.points for cutout in cutouts)]),
        point_starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
        boxes=np.array([cutout.box for cutout in cutouts], dtype=np.float32).reshape(-1, 7),
        labels=np.array([cutout.label for cutout in cutouts], dtype=np.int64),
        group_sizes=group_sizes,
        weights=np.array(weights, dtype=np.float64),
    )
