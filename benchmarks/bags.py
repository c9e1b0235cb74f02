"""Speed of bags: ``python benchmarks/bags.py DRIVE [--precision bf16] [--rounds 5]``.

Writes a KITTI raw drive as a bag, as ``pd-edge bag from-kitti`` does, and replays it, as ``pd-edge replay`` does, by
turns with the detector on the drive's own files. Printed are the medians of all rounds, and that of their ratios.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pd_edge.detector import load
from pd_edge.kitti import RawDrive
from pd_edge.kitti_bag import write_drive
from pd_edge.replay import replay


def rate(work: Callable[[], object], scans: int) -> float:
    """Scans a second."""
    start = time.perf_counter()
    work()
    return scans / (time.perf_counter() - start)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drive", type=Path)
    parser.add_argument("--model", default="pointpillars-4x")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    drive = RawDrive(options.drive)
    detector = load(options.model, precision=options.precision)
    detector.warm_up()
    writing, detecting, replaying = [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            bag, out = Path(name) / "drive.mcap", Path(name) / "found.mcap"
            writing.append(rate(lambda: write_drive(drive, bag), len(drive)))  # noqa: B023 - called at once
            detecting.append(rate(lambda: [detector.detect(frame.points) for frame in drive], len(drive)))
            replaying.append(rate(lambda: replay(bag, detector, out), len(drive)))  # noqa: B023
    ratio = statistics.median(one / other for one, other in zip(replaying, detecting, strict=True))
    print(f"{len(drive)} scans of {len(drive.frame(0).points):,} points, {options.rounds} rounds")
    print(f"from-kitti  {statistics.median(writing):6.1f} scans/s")
    print(f"detect      {statistics.median(detecting):6.1f} scans/s, {detector.name} {options.precision}")
    print(f"replay      {statistics.median(replaying):6.1f} scans/s, {ratio:.2f} times detect")


if __name__ == "__main__":
    main()
