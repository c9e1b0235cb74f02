"""Bird's-eye pictures of the detections that a bag has recorded, beside the ground truth of their scans."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pd_edge.bag_truth import Pairs, nearest
from pd_edge.bags import BagReader
from pd_edge.clouds import Cloud
from pd_edge.config import GridConfig
from pd_edge.drive_report import choose_frames, draw_scan
from pd_edge.errors import DataError
from pd_edge.kitti import Frame, RawDrive
from pd_edge.pictures import check_drawable
from pd_edge.pointcloud2 import points_of
from pd_edge.replay import CLOUD_KIND
from pd_edge.ros_messages import NANOSECONDS, time_of

SHOWN_GRID = GridConfig()
"""How far a picture reaches: a bag does not say what volume its detector has; KITTI's camera looks into this one."""


def draw_pairs(
    folder: Path,
    bag: Path,
    pairs: Pairs,
    count: int,
    *,
    drive: RawDrive | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Draws scans of a bag, chosen as :func:`pd_edge.drive_report.choose_frames` does, named by their time stamp [ns].

    Args:
        folder: For the pictures.
        bag: The bag.
        pairs: What was recorded in it, and the ground truth.
        count: How many scans to draw.
        drive: Where the clouds come from, by time stamp; the bag itself when left out.
        advance: Called with the pictures drawn and the pictures wanted, after each.

    Raises:
        DataError: A cloud is missing or cannot be used, or a picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    check_drawable()
    places = {pairs.times[place]: place for place in choose_frames(pairs.detections, count)}
    clouds = _of_bag(bag, pairs.frame_id, places) if drive is None else _of_drive(drive, places)
    drawn: dict[int, Path] = {}
    for time, points in clouds:
        place = places[time]
        frame = Frame(str(time), points, pairs.calibration, pairs.truth[place], pairs.calibration.image_size)
        title = f"{bag.name}   {(time - min(pairs.times)) / NANOSECONDS:.2f} s"
        path = folder / f"{time}.png"
        drawn[time] = draw_scan(path, frame, pairs.detections[place], pairs.classes, SHOWN_GRID, title=title)
        if advance is not None:
            advance(len(drawn), len(places))
    missing = sorted(places.keys() - drawn.keys())
    if missing:
        where = f"in frame {pairs.frame_id!r} " if drive is None else ""
        raise DataError(
            f"{bag if drive is None else drive.path}: no cloud {where}at {missing[0]} ns, where detections are; "
            "`pd-edge replay --clouds` keeps the clouds beside the detections, --kitti DRIVE takes them from a drive"
        )
    return [drawn[time] for time in sorted(drawn)]


def _of_bag(bag: Path, frame_id: str, times: Collection[int]) -> Iterator[tuple[int, Cloud]]:
    """The clouds whose header is that of wanted detections, each with its time."""
    with BagReader(bag) as source:
        kinds = source.topics
        for record in source.records({name for name, kind in kinds.items() if kind == CLOUD_KIND}):
            message = source.message(record)
            time = nearest(time_of(message), times)
            if time is not None and message.header.frame_id == frame_id:
                yield time, points_of(message).points


def _of_drive(drive: RawDrive, times: Collection[int]) -> Iterator[tuple[int, Cloud]]:
    """The scans at wanted times, each with the time."""
    for index, stamp in enumerate(drive.times_ns):
        time = nearest(int(stamp), times)
        if time is not None:
            yield time, drive.frame(index).points
