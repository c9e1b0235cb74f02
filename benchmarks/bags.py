"""Speed of bags: ``python benchmarks/bags.py DRIVE [--precision bf16] [--times 4] [--rounds 5]``.

Writes a KITTI raw drive as a bag, as ``pd-edge bag from-kitti`` does, and replays a bag of several such, as ``pd-edge
replay`` does, by turns with the detector on the drive's own files, as many times. Printed are the medians of all
rounds, and that of their ratios.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pd_edge.bags import BagReader, BagWriter
from pd_edge.detector import load
from pd_edge.kitti import RawDrive
from pd_edge.kitti_bag import write_drive
from pd_edge.replay import replay
from pd_edge.ros_messages import bag_types


def rate(work: Callable[[], object], scans: int) -> float:
    """Scans a second."""
    start = time.perf_counter()
    work()
    return scans / (time.perf_counter() - start)


def lengthen(bag: Path, long: Path, times: int) -> None:
    """Writes a bag's messages several times, one after the other."""
    with BagReader(bag) as source, BagWriter(long, bag_types()) as out:
        records = list(source.records())
        span = records[-1].time_ns - records[0].time_ns + 100_000_000
        for turn in range(times):
            for record in records:
                out.copy(record._replace(time_ns=record.time_ns + turn * span), source.types)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drive", type=Path)
    parser.add_argument("--model", default="pointpillars-4x")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--times", type=int, default=4, help="how often the bag that is replayed holds the drive")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    drive = RawDrive(options.drive)
    detector = load(options.model, precision=options.precision)
    detector.warm_up()
    writing, detecting, replaying = [], [], []
    scans = options.times * len(drive)
    with tempfile.TemporaryDirectory() as name:
        bag, long, out = (Path(name) / f"{each}.mcap" for each in ("drive", "long", "found"))
        for turn in range(options.rounds):
            bag.unlink(missing_ok=True)
            out.unlink(missing_ok=True)
            writing.append(rate(lambda: write_drive(drive, bag), len(drive)))
            if turn == 0:
                lengthen(bag, long, options.times)
            replaying.append(rate(lambda: replay(long, detector, out), scans))
            detecting.append(
                rate(lambda: [detector.detect(frame.points) for _ in range(options.times) for frame in drive], scans)
            )
    ratio = statistics.median(one / other for one, other in zip(replaying, detecting, strict=True))
    print(
        f"{len(drive)} scans, and {scans} to replay, of {len(drive.frame(0).points):,} points, {options.rounds} rounds"
    )
    print(f"from-kitti  {statistics.median(writing):6.1f} scans/s")
    print(f"detect      {statistics.median(detecting):6.1f} scans/s, {detector.name} {options.precision}")
    print(f"replay      {statistics.median(replaying):6.1f} scans/s, {ratio:.2f} times detect")


if __name__ == "__main__":
    main()
