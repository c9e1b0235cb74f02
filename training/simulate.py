"""Writes simulated LiDAR data sets: a KITTI object folder, or a raw drive with moving objects.

Frame ``i`` of seed ``s`` depends on ``(s, i)`` and the configuration alone: the number of frames, of workers, and
interruptions change nothing.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field

from pd_edge.clouds import write_cloud
from pd_edge.config import Config, dump_config, load_config, parse_config
from pd_edge.errors import ConfigError, DataError
from pd_edge.files import write_bytes
from pd_edge.kitti import write_labels, write_object_calibration, write_raw_calibration
from pd_edge.kitti_frames import PROFILE
from pd_edge.kitti_oxts import packets_from_poses, write_oxts, write_timestamps
from pd_edge.kitti_tracklets import write_tracklets
from pd_edge.sensors import KITTI
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.drive import PERIOD, DriveScan, draw_street, drive_scan, imu_poses, tracklets
from pd_edge.training.sim.scene import SimulateConfig, simulate_frame

RECIPE = "recipe.yaml"
GENERATOR_VERSION = 4
"""Raised whenever the same recipe would give other bytes."""

DAY = "2026_01_01"
START_NS = 1_767_225_600_000_000_000
"""2026-01-01 00:00 UTC, when every simulated drive starts."""
WORTH_PROCESSES = 16
"""Fewer frames are made faster than processes start."""
NO_USE_IN_DRIVES = ("placement.", "world.curb_min", "world.curb_max", "full_cloud", "val_share")
"""Beginnings of the fields that only object folders heed: the traffic of a drive has lanes, curbs and gaps of its own,
its clouds are whole turns, and it has no splits."""

Advance = Callable[[int, int], None]
ResultT = TypeVar("ResultT")


class Recipe(Config):
    """What a simulated data set was made of; written beside it."""

    kind: Literal["object", "drive"] = Field(description="KITTI object folder or raw drive.")
    generator: int = Field(description="Version of the generator.")
    seed: int = Field(ge=0, description="Seed of the data set.")
    frames: int = Field(gt=0, description="Number of frames.")
    config: SimulateConfig


def simulate_object(
    out: Path,
    frames: int,
    seed: int,
    config: SimulateConfig | None = None,
    workers: int = 2,
    *,
    advance: Advance | None = None,
) -> Recipe:
    """Writes a KITTI object folder of simulated frames.

    Frames that are complete already are kept, so an interrupted run goes on where it stopped, and a longer run adds
    to a shorter one.

    Args:
        out: The folder; gets ``training/`` (clouds, labels, calibration), ``ImageSets/``, the recipe and, of another
            sensor than KITTI's, the profile to read the clouds with.
        frames: How many frames.
        seed: 0 or more.
        config: What to simulate; the defaults when left out.
        workers: Processes.
        advance: Called with the frames done and the frames wanted, after each.

    Returns:
        The recipe as written.

    Raises:
        ConfigError: The folder holds data of another recipe, or an argument is out of range.
        DataError: The folder holds something else, or cannot be written.
    """
    recipe = _recipe("object", frames, seed, config, workers)
    claim(out, recipe)
    missing = [index for index in range(frames) if not _complete(out, index, recipe.config)]
    done = frames - len(missing)
    for _ in _each(partial(_write_frame, out, recipe), missing, workers):
        done += 1
        if advance is not None:
            advance(done, frames)
    _write_lists(out, recipe)
    return recipe


def simulate_drive(
    out: Path,
    frames: int,
    seed: int,
    config: SimulateConfig | None = None,
    workers: int = 2,
    *,
    advance: Advance | None = None,
) -> Path:
    """Writes a raw drive: a street with parked and moving objects, scanned all around at 10 Hz from a moving car.

    A drive that is complete is kept; one that was interrupted is made anew. The street depends on the number of scans,
    so a drive never becomes longer or shorter.

    Args:
        out: The folder; gets the day's folder, with calibration and the drive in it, and the recipe.
        frames: How many scans.
        seed: 0 or more.
        config: What to simulate; the defaults when left out. What starts as :data:`NO_USE_IN_DRIVES` must be default.
        workers: Processes.
        advance: Called with the scans done and the scans wanted, after each.

    Returns:
        The drive's folder, as :class:`pd_edge.kitti.RawDrive` takes it.

    Raises:
        ConfigError: The folder holds data of another recipe or a drive of another length, an argument is out of range,
            or the configuration sets a field that drives have no use for.
        DataError: The folder holds something else, or cannot be written.
    """
    recipe = _recipe("drive", frames, seed, config, workers)
    _check_drive(recipe.config)
    claim(out, recipe)
    path = out / DAY / f"{DAY}_drive_{seed % 10_000:04d}_sync"
    if (path / "tracklet_labels.xml").exists() and _scan_file(path, frames - 1).exists():
        return path
    scans = []
    for scan in _each(partial(_write_scan, path, recipe), list(range(frames)), workers):
        scans.append(scan)
        if advance is not None:
            advance(len(scans), frames)
    _write_drive(path, recipe, scans)
    return path


def _scan_file(path: Path, index: int) -> Path:
    return path / "velodyne_points" / "data" / f"{index:010d}.bin"


def _write_scan(path: Path, recipe: Recipe, index: int) -> DriveScan:
    """Writes the cloud of one scan and gives back the rest of it."""
    scan = drive_scan(recipe.seed, recipe.frames, recipe.config, index)
    write_cloud(_scan_file(path, index), scan.points)
    return scan._replace(points=scan.points[:0])


def _write_drive(path: Path, recipe: Recipe, scans: list[DriveScan]) -> None:
    """Writes what goes with the clouds; the tracklets last."""
    times = START_NS + round(PERIOD * 1e9) * np.arange(len(scans), dtype=np.int64)
    street = draw_street(recipe.seed, recipe.frames, recipe.config)
    write_raw_calibration(path.parent, camera_calibration(recipe.config.sensor.lift))
    write_timestamps(path / "velodyne_points" / "timestamps.txt", times)
    write_timestamps(path / "oxts" / "timestamps.txt", times)
    for index, packet in enumerate(packets_from_poses(imu_poses(street, len(scans)), times)):
        write_oxts(path / "oxts" / "data" / f"{index:010d}.txt", packet)
    for index, scan in enumerate(scans):
        write_labels(path / "label_2" / f"{index:010d}.txt", scan.labels)
    boxes, seen, occlusion = (
        np.stack([getattr(scan, name) for scan in scans]) for name in ("boxes", "seen", "occlusion")
    )
    write_tracklets(path / "tracklet_labels.xml", tracklets(street, boxes, seen, occlusion))


def configured(config: SimulateConfig | None, sensor: str | None, mount_height: float | None) -> SimulateConfig:
    """A configuration with another sensor or another height of it [m], where these are given.

    Another sensor replaces all settings of the configuration's.

    Raises:
        ConfigError: The sensor cannot be simulated, or the height is out of range.
    """
    data = (config or SimulateConfig()).model_dump()
    if sensor is not None:
        data["sensor"] = {"model": sensor}
    if mount_height is not None:
        data["sensor"]["height"] = mount_height
    return parse_config(data, SimulateConfig, "simulated data")


def _recipe(
    kind: Literal["object", "drive"], frames: int, seed: int, config: SimulateConfig | None, workers: int
) -> Recipe:
    if workers < 1:
        raise ConfigError(f"{workers} workers; give 1 or more processes")
    chosen = (config or SimulateConfig()).model_dump()
    fields = {"kind": kind, "generator": GENERATOR_VERSION, "seed": seed, "frames": frames, "config": chosen}
    return parse_config(fields, Recipe, "simulated data")


def _check_drive(config: SimulateConfig) -> None:
    unused = [
        f"{name} = {value} (default {default})"
        for name, value, default in _differences(config, SimulateConfig())
        if name.startswith(NO_USE_IN_DRIVES)
    ]
    if unused:
        raise ConfigError(
            f"simulated drive: {', '.join(unused)}: drives have no use for that, only object folders; leave it out, or "
            "simulate an object folder (no --drive)"
        )


def claim(out: Path, recipe: Recipe) -> None:
    """Writes the recipe into a new or empty folder, or checks it against the one that is there.

    Beside it stands the profile to read the clouds with, where that is not KITTI's. Files whose names start with a dot
    are nobody's data.

    Raises:
        ConfigError: The folder's recipe is another one; of an object folder, in more than the number of frames.
        DataError: The folder holds something but no recipe, or cannot be read or written.
    """
    path, names = out / RECIPE, _names_in(out)
    if RECIPE in names:
        _check_same(path, load_config(path, Recipe), recipe)
    elif names:
        raise DataError(
            f"{out}: holds {names[0]!r} but no {RECIPE}, so it is not a simulated data set; expected a new or an empty "
            "folder; give another one, or empty it"
        )
    dump_config(recipe, path)
    if recipe.config.sensor.profile != KITTI:
        dump_config(recipe.config.sensor.profile, out / PROFILE)


def _names_in(folder: Path) -> list[str]:
    """What a folder holds, apart from hidden files; nothing if there is no such folder."""
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be used ({error.strerror}); give a folder you may write to") from error


def _check_same(path: Path, found: Recipe, wanted: Recipe) -> None:
    differing = [
        f"{name} {there}, asked for {asked}"
        for name, there, asked in _differences(found, wanted)
        if name != "frames" or wanted.kind == "drive"
    ]
    if differing:
        raise ConfigError(
            f"{path}: this folder holds simulated data of another recipe ({'; '.join(differing)}); choose another "
            "folder, or remove this one"
        )


def _differences(one: Config, other: Config) -> list[tuple[str, object, object]]:
    """Dotted name and both values of each field in which two configurations of one kind differ."""
    found: list[tuple[str, object, object]] = []
    for name in type(one).model_fields:
        first, second = getattr(one, name), getattr(other, name)
        if isinstance(first, Config):
            found += [(f"{name}.{inner}", a, b) for inner, a, b in _differences(first, second)]
        elif first != second:
            found.append((name, first, second))
    return found


def frame_id(index: int) -> str:
    """KITTI's six-digit name of a frame."""
    return f"{index:06d}"


def _files(out: Path, index: int, config: SimulateConfig) -> dict[str, Path]:
    """The files of one frame; the label comes last."""
    name = frame_id(index)
    clouds = ("velodyne_reduced", "velodyne") if config.full_cloud else ("velodyne_reduced",)
    files = {folder: out / "training" / folder / f"{name}.bin" for folder in clouds}
    files["calib"] = out / "training" / "calib" / f"{name}.txt"
    files["label_2"] = out / "training" / "label_2" / f"{name}.txt"
    return files


def _complete(out: Path, index: int, config: SimulateConfig) -> bool:
    return all(path.exists() for path in _files(out, index, config).values())


def _write_frame(out: Path, recipe: Recipe, index: int) -> None:
    frame = simulate_frame(np.random.default_rng([recipe.seed, index]), recipe.config)
    files = _files(out, index, recipe.config)
    write_bytes(files["velodyne_reduced"], frame.points[frame.in_image].tobytes())
    if "velodyne" in files:
        write_bytes(files["velodyne"], frame.points.tobytes())
    write_object_calibration(files["calib"], camera_calibration(recipe.config.sensor.lift))
    write_labels(files["label_2"], frame.labels)


def _write_lists(out: Path, recipe: Recipe) -> None:
    first_val = recipe.frames - round(recipe.frames * recipe.config.val_share)
    names = [frame_id(index) for index in range(recipe.frames)]
    for split, chosen in (("train", names[:first_val]), ("val", names[first_val:])):
        write_bytes(out / "ImageSets" / f"{split}.txt", "".join(f"{name}\n" for name in chosen).encode())


def _each(task: Callable[[int], ResultT], indices: list[int], workers: int) -> Iterator[ResultT]:
    """Runs the task for every index, in order, in processes where that pays."""
    if workers <= 1 or len(indices) < WORTH_PROCESSES:
        yield from map(task, indices)
        return
    with _one_thread_each(), multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(task, indices, chunksize=4)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets the processes started inside use one thread each: they are as many as there are cores."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
