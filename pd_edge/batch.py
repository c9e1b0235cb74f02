"""Detection over many frames: the one loop behind ``pd-edge detect``, ``eval`` and ``demo``."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections
from pd_edge.detector import Detector, Timing
from pd_edge.errors import DataError, EngineError
from pd_edge.evaluate import OVERLAPS, Evaluation, evaluate, overlaps_of
from pd_edge.files import read_text
from pd_edge.kitti import Dataset, Frame, Label, crop_to_image, detections_to_labels, open_dataset
from pd_edge.own_labels import found_labels
from pd_edge.own_truth import within_reach
from pd_edge.sectors import Coverage
from pd_edge.sensors import KITTI, SensorProfile

Cloud = npt.NDArray[np.float32]


class FrameResult(NamedTuple):
    """What a detector found in one frame, and what is known about the frame.

    Attributes:
        id: The frame's name.
        points: Number of points given to the detector.
        in_view: Whether only points that the left colour camera sees were given.
        detections: Boxes in the LiDAR frame, best first.
        timing: Time of each stage [ms].
        labels: The detections as KITTI labels; None without calibration or image size.
        ground_truth: The frame's own labels; None where it has none.
        notes: What had to be changed in the cloud to read it.
        around: Whether it is of own data, labelled all around; labels are then in the frame of
            :data:`pd_edge.own_labels.AXES`.
    """

    id: str
    points: int
    in_view: bool
    detections: Detections
    timing: Timing
    labels: list[Label] | None
    ground_truth: list[Label] | None
    notes: tuple[str, ...]
    around: bool = False

    @property
    def judged(self) -> bool:
        """Whether it counts in average precision: labelled, and seen as its labels are."""
        return self.ground_truth is not None and self.labels is not None and (self.in_view or self.around)


class Failure(NamedTuple):
    """A frame that could not be read or detected in."""

    frame: str
    error: str


@dataclass(frozen=True)
class BatchResult:
    """What a detector found in many frames.

    Attributes:
        model: Name of the model.
        runtime: Name of the runtime.
        precision: Precision of its arithmetic.
        classes: Class names, in the order of ``Detections.labels``.
        frames: One result for each frame that could be used, in order.
        failures: The others.
        coverage: ``front``, the model's grid, or ``full``, all around.
        sensor: How the sensor is mounted and writes points.
    """

    model: str
    runtime: str
    precision: str
    classes: tuple[str, ...]
    frames: tuple[FrameResult, ...]
    failures: tuple[Failure, ...]
    coverage: Coverage = "front"
    sensor: SensorProfile = KITTI

    @property
    def timings(self) -> list[Timing]:
        """Time of each frame."""
        return [frame.timing for frame in self.frames]

    def evaluated(self) -> list[FrameResult]:
        """Frames that average precision can be computed on: labelled, calibrated, cut to the camera's view; or own."""
        return [frame for frame in self.frames if frame.judged]

    def complete_evaluation(self, min_overlap: Mapping[str, float] | None = None) -> Evaluation:
        """Average precision over every frame that was asked for; ``min_overlap`` as :meth:`evaluation` takes it.

        Raises:
            DataError: A frame failed, or has no labels or calibration.
            ConfigError: An overlap is wrong, or of no class of the model.
        """
        if self.failures:
            asked = len(self.frames) + len(self.failures)
            raise DataError(f"{len(self.failures)} of {asked} frames failed: {self.failures[0].error}")
        left_out = {frame.id for frame in self.frames} - {frame.id for frame in self.evaluated()}
        if left_out:
            raise DataError(f"frame {min(left_out)} has no labels or no calibration; AP needs both for every frame")
        evaluation = self.evaluation(min_overlap)
        if evaluation is None:
            raise DataError("there are no frames to compute AP on; name a split that has some")
        return evaluation

    def evaluation(self, min_overlap: Mapping[str, float] | None = None) -> Evaluation | None:
        """Average precision of the model's classes; None where no frame allows it.

        Args:
            min_overlap: IoU to exceed, for some of the classes; else KITTI's, and
                :data:`~pd_edge.evaluate.OTHER_OVERLAP` for classes that KITTI does not know.

        Raises:
            ConfigError: An overlap is wrong, or of no class of the model.
        """
        frames, overlaps = self.evaluated(), overlaps_of(self.classes, min_overlap)
        if not frames:
            return None
        metrics = [each for each in OVERLAPS if each != "2d" or not any(frame.around for frame in frames)]
        return evaluate([f.ground_truth or [] for f in frames], [f.labels or [] for f in frames], overlaps, metrics)


def detect_batch(
    detector: Detector,
    dataset: Dataset,
    *,
    crop: bool | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> BatchResult:
    """Detects in every frame of a data set; a frame that fails is noted and passed over.

    Args:
        detector: The detector; it is warmed up first, so that the first frame's time counts like any other.
        dataset: The frames.
        crop: Whether to give the detector only points that the left colour camera sees. By default that is done where
            there are labels, as KITTI labels nothing else.
        advance: Called with the frames done and the frames wanted, after each.
    """
    detector.warm_up()
    results: list[FrameResult] = []
    failures: list[Failure] = []
    for index, name in enumerate(dataset.ids):
        try:
            results.append(detect_frame(detector, dataset.frame(index), name, crop=crop))
        except (DataError, EngineError) as error:
            failures.append(Failure(name, str(error)))
        if advance is not None:
            advance(index + 1, len(dataset))
    runtime = detector.runtime
    return BatchResult(
        detector.name,
        runtime.name,
        runtime.precision,
        detector.classes,
        tuple(results),
        tuple(failures),
        detector.coverage,
        detector.sensor,
    )


def detect_frame(detector: Detector, frame: Frame, name: str, *, crop: bool | None = None) -> FrameResult:
    """Detects in one frame; see :func:`detect_batch`.

    Raises:
        DataError: The cloud cannot be used, or is to be cropped without calibration.
        EngineError: The network put out NaN or infinity.
    """
    points, in_view = points_to_use(frame, crop=crop)
    detections, timing = detector.detect_timed(points, f"frame {name}")
    labels, truth = None, frame.labels
    if frame.around:
        labels, truth = found_labels(detections, detector.classes), within_reach(frame, detector)
    elif frame.calibration is not None and frame.image_size is not None:
        labels = detections_to_labels(detections, detector.classes, frame.calibration, frame.image_size)
    return FrameResult(name, len(points), in_view, detections, timing, labels, truth, frame.notes, frame.around)


def points_to_use(frame: Frame, *, crop: bool | None = None) -> tuple[Cloud, bool]:
    """The points to give to a detector, and whether they are those that the left colour camera sees.

    Raises:
        DataError: ``crop`` is true, but the frame has no calibration or its image size is unknown.
    """
    known = frame.calibration is not None and frame.image_size is not None
    wanted = frame.labels is not None and known if crop is None else crop
    if not wanted:
        return frame.points, False
    if frame.calibration is None or frame.around:
        raise DataError(f"frame {frame.id}: no calibration to crop it to the camera's view with; leave --crop out")
    return frame.points[crop_to_image(frame.points, frame.calibration, frame.image_size)], True


class JoinedDataset:
    """Several data sets as one, for a command line with several inputs.

    Frames keep their names where those differ; otherwise the input's name is put before them.

    Args:
        paths: Anything :func:`pd_edge.kitti.open_dataset` takes.
        split: Which frames of object folders.
        sensor: How the sensor writes points.

    Raises:
        DataError: A path is no data set, or two inputs and frames have the same names.
    """

    def __init__(self, paths: Sequence[Path], split: str | None = None, sensor: SensorProfile = KITTI) -> None:
        self._datasets = [open_dataset(path, split, sensor) for path in paths]
        self._places = [(number, index) for number, each in enumerate(self._datasets) for index in range(len(each))]
        self.ids = [self._datasets[number].ids[index] for number, index in self._places]
        if len(set(self.ids)) < len(self.ids):
            names = [path.resolve().stem for path in paths]
            self.ids = [f"{names[number]}_{name}" for (number, _), name in zip(self._places, self.ids, strict=True)]
        repeated = [name for name, count in Counter(self.ids).items() if count > 1]
        if repeated:
            raise DataError(f"two inputs hold a frame {repeated[0]}; detect in them one at a time")

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self, index: int) -> Frame:
        """Reads a frame; raises DataError as its own data set does."""
        number, place = self._places[index]
        return self._datasets[number].frame(place)._replace(id=self.ids[index])

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))


def label_frames(predictions: Path, labels: Path, split: str | None = None) -> list[str]:
    """Names of the frames to compare in two folders of KITTI label files.

    Args:
        predictions: Folder with a file for each frame.
        labels: Folder of the ground truth.
        split: A file with one name a line, or ``val`` and the like for a list in ``ImageSets`` of the object folder
            that holds the labels; all frames of ``labels`` when left out.

    Raises:
        DataError: A folder or file is missing.
    """
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected one with a KITTI label file a frame")
    names = _listed(labels, split) if split else sorted(path.stem for path in labels.glob("*.txt"))
    if not names:
        raise DataError(f"{labels}: no label files; expected 000000.txt and so on")
    for folder, kind in ((labels, "label"), (predictions, "prediction")):
        missing = [name for name in names if not (folder / f"{name}.txt").is_file()]
        if missing:
            raise DataError(
                f"{folder}: no {kind} file for {len(missing)} of {len(names)} frames, such as {missing[0]}.txt; "
                "list the frames to compare with --split FILE.txt, or write an empty file where nothing was found"
            )
    return names


def _listed(labels: Path, split: str) -> list[str]:
    named = labels.resolve().parent.parent / "ImageSets" / f"{split}.txt"
    path = Path(split) if split.endswith(".txt") else named
    return read_text(path, "a list of frames, one a line").split()
