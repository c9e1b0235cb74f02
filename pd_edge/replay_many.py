"""A detector over many bags: one bag a process, or one bag a task of a Ray cluster."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

from pd_edge.bags import METADATA, SUFFIXES, Compression
from pd_edge.boxes import SHOWN_SCORE
from pd_edge.config import DecodeConfig
from pd_edge.detector import Detector, load
from pd_edge.errors import DataError, MissingExtraError, PdEdgeError
from pd_edge.replay import Replayed, replay
from pd_edge.sectors import Coverage
from pd_edge.sensors import KITTI, SensorProfile
from pd_edge.tables import Table

ATTEMPTS = 3
"""How often a bag is tried whose process is killed or cannot reach its files."""

Advance = Callable[[int, int], None]


class DetectorChoice(NamedTuple):
    """What :func:`pd_edge.detector.load` takes, for a process that loads a detector of its own."""

    model: str
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    decode: DecodeConfig | None = None
    sensor: SensorProfile = KITTI
    coverage: Coverage = "front"

    def load(self) -> Detector:
        """The detector.

        Raises:
            EngineError, ConfigError, MissingExtraError: As :func:`pd_edge.detector.load`.
        """
        model, decode = self.model, self.decode
        return load(
            model, self.runtime, self.precision, self.threads, decode=decode, sensor=self.sensor, coverage=self.coverage
        )


class Task(NamedTuple):
    """A bag to be replayed; the fields are those of :func:`pd_edge.replay.replay`."""

    bag: Path
    out: Path
    detector: DetectorChoice
    topic: str | None = None
    rate: float | None = None
    clouds: bool = False
    shown: float = SHOWN_SCORE
    compression: Compression = "none"

    def run(self, detector: Detector, advance: Advance | None = None) -> Replayed:
        """Replays it.

        Raises:
            DataError: As :func:`pd_edge.replay.replay`.
        """
        return replay(
            self.bag,
            detector,
            self.out,
            topic=self.topic,
            rate=self.rate,
            clouds=self.clouds,
            shown=self.shown,
            compression=self.compression,
            advance=advance,
        )


class Outcome(NamedTuple):
    """What came of a task.

    Attributes:
        bag: The bag.
        done: What the replay gave; None where there is no result.
        error: Why there is none, or why the bag could not be read to its end.
    """

    bag: Path
    done: Replayed | None
    error: str | None


def find_bags(folder: Path) -> list[Path]:
    """The bags below a folder, at any depth, in the order of their names: files, and folders of a rosbag2.

    Raises:
        DataError: It is no folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    return sorted(_bags_below(folder))


def holds_bags(path: Path) -> bool:
    """Whether it is a folder of bags, rather than a bag: a rosbag2, or a folder with the one file of a bag."""
    if not path.is_dir() or (path / METADATA).is_file():
        return False
    bags = find_bags(path)
    return not (len(bags) == 1 and bags[0].is_file() and bags[0].parent == path)


def _bags_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):  # what a writer has not finished
            continue
        if (path / METADATA).is_file() or (path.is_file() and path.suffix in SUFFIXES):
            yield path
        elif path.is_dir():
            yield from _bags_below(path)


def plan(folder: Path, out: Path, task: Task) -> tuple[list[Task], list[Path]]:
    """A task for every bag below a folder whose result is not there yet, and the results that are.

    Args:
        folder: Of the bags.
        out: Folder of the results, an .mcap file each, under the names of their bags.
        task: What all tasks are like, but for the bag and the file.

    Raises:
        DataError: There are no bags, the results would be among them, or two would have one name.
    """
    bags = find_bags(folder)
    if not bags:
        raise DataError(f"{folder}: no bags ({', '.join(SUFFIXES)}, or folders with {METADATA}) in it")
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{out}: lies in the folder of the bags; a second run would take its results for bags")
    results: dict[Path, Path] = {}
    for bag in bags:
        name = bag.stem if bag.is_file() else bag.name
        result = out / bag.relative_to(folder).with_name(f"{name}.mcap")
        if result in results:
            raise DataError(f"{results[result]} and {bag} would both become {result}; rename one")
        results[result] = bag
    there = [result for result in results if result.exists()]
    return [task._replace(bag=bag, out=result) for result, bag in results.items() if result not in there], there


def replay_task(task: Task) -> Outcome:
    """Replays one bag with a detector loaded for it. A bag that cannot be used is told in the outcome.

    Raises:
        OSError: A file cannot be reached, which may be otherwise another time.
    """
    _remove_unfinished(task.out)
    try:
        done = task.run(task.detector.load())
    except PdEdgeError as error:
        return Outcome(task.bag, None, str(error))
    return Outcome(task.bag, done, done.cut)


def _remove_unfinished(out: Path) -> None:
    """What a writer of this bag left that was killed."""
    for folder in out.parent.glob(f".{out.name}.*"):
        shutil.rmtree(folder)


def replay_in_processes(tasks: Sequence[Task], workers: int, advance: Advance | None = None) -> list[Outcome]:
    """Replays bags side by side, each in a process of its own, so that a crash costs one attempt at one bag.

    Where the number of threads is left open, the detectors share the cores.

    Args:
        tasks: The bags.
        workers: How many at a time.
        advance: Called with the bags done and the bags there are, after each.

    Returns:
        The outcomes in the order of the tasks.
    """
    with ThreadPoolExecutor(workers) as pool:
        share = max((cpu_count() or 1) // workers, 1)
        futures = [pool.submit(_in_a_process, _with_threads(task, share)) for task in tasks]
        try:
            for done, _ in enumerate(as_completed(futures), 1):
                if advance is not None:
                    advance(done, len(tasks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _with_threads(task: Task, share: int) -> Task:
    return task._replace(detector=task.detector._replace(threads=task.detector.threads or share))


def _in_a_process(task: Task) -> Outcome:
    why = ""
    for _ in range(ATTEMPTS):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                return pool.submit(replay_task, task).result()
            except BrokenProcessPool:
                why = "its process was killed, as the system does when memory runs out; try fewer workers"
            except OSError as error:
                why = str(error)
    return Outcome(task.bag, None, f"{task.bag}: {ATTEMPTS} attempts failed: {why}")


def replay_on_ray(tasks: Sequence[Task], address: str, advance: Advance | None = None) -> list[Outcome]:
    """Replays bags on a Ray cluster, one bag a task, which takes as many cores as its detector has threads.

    Where the number of threads is left open, it is one. Every node needs this package, and reaches bags and results
    under the same paths.

    Args:
        tasks: The bags.
        address: As ``ray.init`` takes it: ``auto`` for the cluster this machine belongs to, ``ray://host:10001`` for
            another, ``local`` for one that is started here and ends with the call.
        advance: Called with the bags done and the bags there are, after each.

    Returns:
        The outcomes in the order of the tasks.

    Raises:
        MissingExtraError: Ray is not installed.
        DataError: There is no cluster at the address.
    """
    try:
        import ray  # noqa: PLC0415 - one way of several
        from ray.exceptions import RayError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "ray") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DataError(f"no Ray cluster at {address!r} ({error}); start one with: ray start --head") from error
    outcomes: dict[Path, Outcome] = {}
    try:
        remote = ray.remote(max_retries=ATTEMPTS - 1, retry_exceptions=True)(replay_task)
        tasks = [_with_threads(each, 1) for each in tasks]
        running = {remote.options(num_cpus=each.detector.threads).remote(each): each for each in tasks}
        while running:
            (reference,), _ = ray.wait(list(running))
            task = running.pop(reference)
            try:
                outcomes[task.bag] = ray.get(reference)
            except (RayError, OSError) as error:
                why = str(error).splitlines()[0]
                outcomes[task.bag] = Outcome(task.bag, None, f"{task.bag}: {ATTEMPTS} attempts failed: {why}")
            if advance is not None:
                advance(len(outcomes), len(tasks))
    finally:
        ray.shutdown()
    return [outcomes[task.bag] for task in tasks]


def outcome_table(outcomes: Sequence[Outcome], folder: Path, seconds: float) -> Table:
    """What came of all bags; ``seconds`` is the wall time of the whole."""
    rows = [_row(each, folder) for each in outcomes]
    clouds = sum(len(each.done.timings) for each in outcomes if each.done is not None)
    return Table(
        f"{len(outcomes)} bags of {folder}",
        ["bag", "result", "clouds", "passed over", "boxes", "clouds/s"],
        rows,
        [f"{clouds} clouds in {seconds:.1f} s, {clouds / seconds:.1f} a second in all"],
        text_columns=2,
    )


def _row(outcome: Outcome, folder: Path) -> list[str]:
    name, done = str(outcome.bag.relative_to(folder)), outcome.done
    if done is None:
        return [name, "failed", "", "", "", ""]
    clouds = len(done.timings)
    counts = [f"{clouds}", f"{len(done.failures)}", f"{done.boxes}", f"{clouds / done.seconds:.1f}"]
    return [name, "cut off" if done.cut else "done", *counts]
