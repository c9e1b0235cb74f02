"""From what was asked for to what is to be shown: opens the input and decides where boxes come from."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pd_edge.detector import Detector
from pd_edge.errors import DataError
from pd_edge.sensors import SensorProfile, mount_of
from pd_edge.view.find import Find, Results, by_detector, nothing
from pd_edge.view.moments import Moment, at_least
from pd_edge.view.scene import Scene, Volume
from pd_edge.view.sources import Choice, is_bag, moments_of, open_set


class Request(NamedTuple):
    """What to show.

    Attributes:
        inputs: Data sets, or one bag.
        choice: Which scans.
        load: Loads a model by its name, for points that the profile has mended already.
        model: The model to run; None where nobody named one.
        usual_model: The one to run then, unless a bag has boxes.
        of_a_run: Options given that mean nothing unless a model runs, such as ``--runtime``.
        boxes: Whether boxes are wanted.
        results: Folder of an earlier run whose boxes are to be shown.
        score: Least score of a box; that of the model or the record, and 0.3 to begin with, where None.
        split: Frames of object folders.
        profile: The sensor.
        crop: Keep only what the left colour camera sees.
        topic: Of a bag's clouds.
        boxes_topic: Of a bag's boxes.
    """

    inputs: list[Path]
    choice: Choice
    load: Callable[[str], Detector]
    model: str | None
    usual_model: str
    of_a_run: tuple[str, ...]
    boxes: bool
    results: Path | None
    score: float | None
    split: str | None
    profile: SensorProfile
    crop: bool
    topic: str | None
    boxes_topic: str | None


class Prepared(NamedTuple):
    """What is ready to be shown.

    Attributes:
        scene: Still without scans.
        moments: The scans; they are read, and detection goes on, as they are taken. Raises DataError where none can be
            used.
        expected: How many there will be at most; 0 where that is not known.
        whence: Where the boxes come from, in words.
        failures: Why scans were passed over; it grows.
    """

    scene: Scene
    moments: Iterator[Moment]
    expected: int
    whence: str
    failures: list[str]


class _Boxes(NamedTuple):
    """Where boxes come from (None: what a bag has recorded), in words, and what is known of all of them."""

    find: Find | None
    whence: str
    classes: tuple[str, ...] = ()
    volume: Volume | None = None


def prepare(request: Request) -> Prepared:
    """Opens the input, and loads a detector where one is needed.

    Raises:
        DataError: An input cannot be read, or an option would do nothing with it.
        EngineError, ConfigError, MissingExtraError: As :func:`pd_edge.detector.load`, or an extra is missing.
    """
    bags = [path for path in request.inputs if is_bag(path)]
    if bags and len(request.inputs) > 1:
        raise DataError(f"{bags[0]}: a bag is shown by itself; give it alone")
    return _of_bag(request, bags[0]) if bags else _of_files(request)


def _of_files(request: Request) -> Prepared:
    _refuse(request, {"--topic": request.topic, "--boxes-topic": request.boxes_topic}, "it is no bag")
    dataset = open_set(request.inputs, request.split, request.profile)
    mount, failures = mount_of(request.profile), list[str]()
    if request.results is not None:
        results = Results(request.results)
        boxes = _Boxes(results.find(mount), f"of {results.path}", results.classes)
    else:
        boxes = _run(request)
    moments = moments_of(
        dataset, boxes.find or nothing, mount, request.choice, crop=request.crop, on_error=failures.append
    )
    return _prepared(request, boxes, moments, request.choice.count(len(dataset)), failures)


def _of_bag(request: Request, bag: Path) -> Prepared:
    from pd_edge.view.bag_source import bag_moments, cloud_count, read_recorded  # noqa: PLC0415 - needs the extra bags

    unfit = {"--split": request.split, "--crop": request.crop or None, "--results": request.results}
    _refuse(request, unfit, "it is a bag")
    recorded, failures = read_recorded(bag, request.boxes_topic), list[str]()
    if request.boxes and request.model is None and recorded.topic is not None:
        boxes = _Boxes(None, f"recorded on {recorded.topic}")
        _refuse(request, dict.fromkeys(request.of_a_run, 1), "its boxes are recorded; --model NAME runs one")
    else:
        _refuse(request, {"--boxes-topic": request.boxes_topic}, "its recorded boxes are not shown")
        boxes = _run(request)
    moments = bag_moments(
        bag, recorded, boxes.find, request.profile, request.choice, topic=request.topic, on_error=failures.append
    )
    return _prepared(request, boxes, moments, request.choice.count(cloud_count(bag, request.topic)), failures)


def _run(request: Request) -> _Boxes:
    """A detector's boxes, or none where none are wanted."""
    if not request.boxes:
        return _Boxes(nothing, "")
    detector = request.load(request.model or request.usual_model)
    runtime = detector.runtime
    around = detector.coverage == "full"
    whence = f"of {detector.name} ({runtime.name} {runtime.precision}{', all around' if around else ''})"
    volume = Volume(detector.config.model.grid, around)
    return _Boxes(by_detector(detector), whence, detector.classes, volume)


def _prepared(request: Request, boxes: _Boxes, moments: Iterator[Moment], count: int, failures: list[str]) -> Prepared:
    title = ", ".join(path.resolve().name for path in request.inputs)
    subtitle = f"boxes {boxes.whence}" if boxes.whence else "clouds alone"
    if not request.profile.name.startswith("KITTI"):
        subtitle += f"   sensor {request.profile.name}"
    scene = Scene(title, subtitle, boxes.classes, boxes.volume, request.score)
    scored = _scored(moments, request.score or 0.0)
    return Prepared(scene, _some(scored, title, failures), count, boxes.whence, failures)


def _scored(moments: Iterator[Moment], score: float) -> Iterator[Moment]:
    return (moment._replace(found=at_least(moment.found, score)) for moment in moments)


def _some(moments: Iterator[Moment], title: str, failures: list[str]) -> Iterator[Moment]:
    """The same; it is an error where there is none."""
    none = True
    for moment in moments:
        none = False
        yield moment
    if none:
        why = f"; the first of {len(failures)}: {failures[0]}" if failures else ""
        raise DataError(f"{title}: no scan could be used{why}")


def _refuse(request: Request, options: Mapping[str, object], why: str) -> None:
    """Raises DataError where an option was given that would do nothing."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise DataError(f"{request.inputs[0]}: {why}; leave {' and '.join(given)} out")
