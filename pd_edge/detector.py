"""The detector: a cloud in, boxes out. The one path for a file, a folder, a bag and a topic."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle, shipped_models
from pd_edge.clouds import CheckedCloud
from pd_edge.config import DecodeConfig, DetectorConfig, GridConfig, parse_config
from pd_edge.decode import Decoder, Heads
from pd_edge.encoders import EncoderNet, make_encoder
from pd_edge.engine_folder import EngineFolder, is_engine_folder
from pd_edge.errors import EngineError
from pd_edge.pillars import point_cells
from pd_edge.runtimes import AnyRuntime, BatchRuntime, PointsRuntime, open_engine, open_runtime
from pd_edge.sectors import SECTORS, Coverage, Sectors, coverage_named
from pd_edge.sensors import KITTI, SensorProfile, corrected, mount_of

_log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
ModelT = TypeVar("ModelT", Bundle, EngineFolder)


class Timing(NamedTuple):
    """Time one frame took, by stage."""

    encoder: float
    """Check of the cloud, turns to the sectors, and the encoder: pillars or voxels, up to the canvas [ms].

    Of a network that takes points, check and turns alone."""
    network: float
    """Canvas to heads, or points to heads [ms]."""
    decode: float
    """Heads to detections, and those of all sectors to one answer [ms]."""

    @property
    def total(self) -> float:
        """All stages [ms]."""
        return sum(self)


class TrainedModel(Protocol):
    """What the detector has to know of a model: a model folder, an engine folder, or a network in memory."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as in Bundle
    @property
    def config(self) -> DetectorConfig: ...  # noqa: D102
    @property
    def encoder_net(self) -> EncoderNet | None: ...  # noqa: D102


class Detector:
    """A trained detector, ready to run.

    It keeps nothing from one frame to the next but memory to work in, so it is for one thread at a time: make one per
    thread.

    Args:
        model: The model.
        runtime: That model, opened: the dense part of it, or the whole network.
        sensor: How the sensor is mounted and writes points; as KITTI's when left out.
        coverage: ``front``, the model's grid, or ``full``, the whole circle around the sensor; see
            :mod:`pd_edge.sectors`.
        threads: Most CPU threads that the encoder may use; its own choice when left out.

    Attributes:
        mount: Between the cloud's frame and the model's, which is KITTI's.
        sectors: The views that the network has of a cloud: one, or those of full coverage.
        heads: What the network put out for the last cloud, or its last sector, in the runtime's own memory; None before
            the first and for a cloud without points.

    Raises:
        EngineError: The encoder's weights are damaged, or missing for a runtime that takes a canvas.
        ConfigError: There is no such coverage, or the model's grid does not allow it.
    """

    def __init__(
        self,
        model: TrainedModel,
        runtime: AnyRuntime,
        sensor: SensorProfile = KITTI,
        coverage: Coverage = "front",
        threads: int | None = None,
    ) -> None:
        self.name = model.name
        self.config = model.config
        self.runtime = runtime
        self.sensor, self.mount = sensor, mount_of(sensor)
        self.heads: Heads | None = None
        self.coverage = coverage_named(coverage)
        self.sectors = Sectors(self.config.model.grid, SECTORS[self.coverage])
        self._encoders, self._infer = _network(model, runtime, self.sectors.count, threads)
        self._decoder = Decoder(self.config)
        self._said: set[str] = set()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of ``Detections.labels``."""
        return tuple(each.name for each in self.config.model.classes)

    def detect(self, points: npt.NDArray[np.floating], source: str = "cloud") -> Detections:
        """Finds the objects in a cloud.

        Points outside the model's grid, in full coverage outside that of every sector, play no part. Points with NaN or
        infinity are left out and intensities in 0..255 or 0..65535 are scaled to 0..1, which is logged once. A cloud
        without points has no detections, which is logged.

        Args:
            points: (N, 4) float32 or float64: x y z [m] in the LiDAR frame (x forward, y left, z up), intensity; or
                as the sensor profile says.
            source: Where the cloud comes from, for errors and the log.

        Returns:
            Boxes (K, 7) in the cloud's frame, labels and scores, best first; of a tilted sensor, each box with its own
            yaw about the cloud's z axis. At most ``decode.max_boxes`` of a sector.

        Raises:
            DataError: Wrong type, shape or dtype, no finite point, or intensities that fit no known range.
            EngineError: The network put out NaN or infinity.
        """
        return self.detect_timed(points, source)[0]

    def detect_timed(self, points: npt.NDArray[np.floating], source: str = "cloud") -> tuple[Detections, Timing]:
        """Finds the objects in a cloud and tells how long each stage took; see :meth:`detect`."""
        found, timing = self.detect_mounted(points, source)
        return self.mount.boxes(found), timing

    def detect_mounted(self, points: npt.NDArray[np.floating], source: str = "cloud") -> tuple[Detections, Timing]:
        """As :meth:`detect_timed`, with the boxes in the model's frame; :attr:`mount` leads back to the cloud's."""
        if getattr(points, "shape", None) == (0, 4):
            _log.warning("%s: no points, so no detections", source)
            self.heads = None
            return _no_detections(), Timing(0.0, 0.0, 0.0)
        start = time.perf_counter()
        cloud = corrected(points, source, self.sensor)
        cloud = cloud._replace(points=self.mount.points(cloud.points))
        views = self.sectors.views(cloud.points)
        checked = time.perf_counter()
        decoder, at_once = self._decoder, len(self._encoders)
        looks = [self._look(views[first : first + at_once], decoder) for first in range(0, len(views), at_once)]
        looked = time.perf_counter()
        detections = self.sectors.merge([each for found, _ in looks for each in found], self.config.decode.nms_iou)
        around = Timing(1e3 * (checked - start), 0.0, 1e3 * (time.perf_counter() - looked))
        self._say_notes(cloud, detections, source)
        return detections, Timing(*map(sum, zip(around, *(timing for _, timing in looks), strict=True)))

    def _look(self, views: Sequence[Floats], decoder: Decoder) -> tuple[list[Detections], Timing]:
        """What is in views that go into the network together, each in its own frame, and the time of each stage."""
        start = time.perf_counter()
        encoded_views = [encode(view) for encode, view in zip(self._encoders, views, strict=True)]
        encoded = time.perf_counter()
        heads = self._infer(encoded_views)
        inferred = time.perf_counter()
        found = [decoder.decode(each) for each in heads]
        decoded = time.perf_counter()
        self.heads = heads[-1]
        stages = (encoded - start, inferred - encoded, decoded - inferred)
        return found, Timing(*(1e3 * seconds for seconds in stages))

    def warm_up(self, runs: int = 3) -> None:
        """Runs the network on an empty cloud, so that the first cloud takes no longer than the next."""
        nothing = [np.empty((0, 4), np.float32)] * len(self._encoders)
        for _ in range(runs):
            self._look(nothing, self._decoder)
        self.heads = None

    def set_score_threshold(self, threshold: float) -> None:
        """Leaves out boxes that score less than this, from the next cloud on; may be called from any thread.

        Raises:
            ConfigError: It is not in 0..1.
        """
        decode = {**self.config.decode.model_dump(), "score_threshold": threshold}
        config = self.config.model_copy(update={"decode": parse_config(decode, DecodeConfig, "score threshold")})
        self.config, self._decoder = config, Decoder(config)

    def _say_notes(self, cloud: CheckedCloud, detections: Detections, source: str) -> None:
        """Logs, as a warning once each, what was changed in a cloud and that none of it lies in the grid."""
        if cloud.removed:
            self._say("removed", f"{source}: {cloud.removed} points with NaN or infinity left out")
        if cloud.intensity_scale != 1:
            self._say(
                f"scale {cloud.intensity_scale}", f"{source}: intensity 0..{cloud.intensity_scale:g} scaled to 0..1"
            )
        if not len(detections.boxes) and not self._any_inside(cloud.points):
            grid = _extent(self.config.model.grid) + (f" in {self.sectors.count} sectors" * (self.sectors.count > 1))
            self._say("outside", f"{source}: none of {len(cloud.points)} points lies in the grid ({grid})")

    def _any_inside(self, points: Floats) -> bool:
        grid = self.config.model.grid
        return any((point_cells(view, grid) >= 0).any() for view in self.sectors.views(points))

    def _say(self, key: str, message: str) -> None:
        level = logging.INFO if key in self._said else logging.WARNING
        self._said.add(key)
        _log.log(level, "%s%s", message, "" if level == logging.INFO else " (said once; of every cloud at level INFO)")


def load(
    name_or_path: str | Path,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    *,
    decode: DecodeConfig | None = None,
    sensor: SensorProfile = KITTI,
    coverage: Coverage = "front",
) -> Detector:
    """Loads a trained detector.

    Args:
        name_or_path: A shipped model (:func:`pd_edge.bundle.list_models`), a model folder, or an engine folder of
            `pd-edge build`.
        runtime: ``openvino`` (the default), ``onnxruntime`` or ``torch``; an engine folder has its own.
        precision: In which the network is computed: ``fp32`` (the default), or ``bf16`` (openvino, on a CPU that has
            it). An engine folder's network is computed as its file says; bf16 stands in for float32 there.
        threads: CPU threads for the network, and the most for the encoder; None leaves the choice to either.
        decode: Thresholds to use instead of the model's own.
        sensor: How the sensor is mounted and writes points (:func:`pd_edge.sensors.load_profile`); as KITTI's when
            left out.
        coverage: ``front``, the model's grid, or ``full``, the whole circle around the sensor: the model on four
            sectors, where it allows for it all in flight at once; see :mod:`pd_edge.sectors`.

    Raises:
        EngineError: The model or its weights cannot be used, or the runtime does not offer what was asked for.
        ConfigError: The model's configuration is wrong, or its grid does not allow the coverage.
        MissingExtraError: The runtime is not installed.
    """
    at_once = SECTORS[coverage_named(coverage)]
    if str(name_or_path) not in shipped_models() and is_engine_folder(name_or_path):
        engine = EngineFolder.load(Path(name_or_path))
        engine_runtime = open_engine(engine, runtime, precision, threads, at_once)
        return Detector(_decoding(engine, decode), engine_runtime, sensor, coverage, threads)
    bundle = Bundle.load(name_or_path)
    opened = open_runtime(bundle, runtime or "openvino", precision or "fp32", threads, at_once)
    return Detector(_decoding(bundle, decode), opened, sensor, coverage, threads)


def _decoding(model: ModelT, decode: DecodeConfig | None) -> ModelT:
    """The model with other thresholds than its own, where some are given."""
    if decode is None:
        return model
    return dataclasses.replace(model, config=model.config.model_copy(update={"decode": decode}))


def _network(
    model: TrainedModel, runtime: AnyRuntime, views: int, threads: int | None
) -> tuple[list[Callable[[Floats], Floats]], Callable[[list[Floats]], Sequence[Heads]]]:
    """The stages before the heads: points to what the runtime takes, for each view that goes in at once; and heads."""
    if isinstance(runtime, PointsRuntime):
        return [np.ascontiguousarray], lambda clouds: [runtime.infer_points(clouds[0])]
    net, network = model.encoder_net, model.config.model
    if net is None:
        raise EngineError(f"{model.name} takes points, but {runtime.name} was opened for a canvas; open it for points")
    if views > 1 and isinstance(runtime, BatchRuntime):
        # An encoder's canvas is its own, so that all views have theirs.
        return [make_encoder(network, net, runtime.layout, threads).encode for _ in range(views)], runtime.infer_batch
    return [make_encoder(network, net, runtime.layout, threads).encode], lambda canvases: [runtime.infer(canvases[0])]


def _no_detections() -> Detections:
    return Detections(np.empty((0, 7), np.float32), np.empty(0, np.int64), np.empty(0, np.float32))


def _extent(grid: GridConfig) -> str:
    return f"x {grid.x_min:g}..{grid.x_max:g}, y {grid.y_min:g}..{grid.y_max:g}, z {grid.z_min:g}..{grid.z_max:g} m"
