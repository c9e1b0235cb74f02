"""Points in few bytes, for a file that a browser opens: rounded to millimetres, and each told from the one before.

Scans come in the order in which the sensor measured, where neighbours are near each other, so that differences are
small and deflate well: 120,000 points of KITTI take 0.3 MB.
"""

import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.errors import DataError

LEAST_STEP = 0.001
"""Finest rounding [m]: what a sensor measures is no finer."""
_FARTHEST = 32767
_BYTES = 7


class Packed(NamedTuple):
    """Points as bytes.

    Attributes:
        data: zlib stream of, for x, y and z, the low and then the high bytes of the folded differences of int16 steps
            (0, -1, 1, -2 as 0, 1, 2, 3), then the intensities as uint8.
        number: Of points.
        step: What one step is [m].
    """

    data: bytes
    number: int
    step: float


def pack(points: Cloud) -> Packed:
    """Packs points (N, 4) float32 x y z [m], intensity 0..1.

    A coordinate moves by half a step at most; a step is 1 mm up to 32.7 m, and the farthest coordinate / 32767 beyond.
    """
    reach = float(np.abs(points[:, :3]).max(initial=0.0))
    step = max(LEAST_STEP, reach / _FARTHEST)
    steps = np.rint(points[:, :3].astype(np.float64) / step).astype(np.int32)
    differences = np.diff(steps, axis=0, prepend=np.zeros((1, 3), np.int32)).astype(np.int16)  # modulo 2**16
    folded = ((differences << 1) ^ (differences >> 15)).view(np.uint16)
    halves = [half.astype(np.uint8) for axis in folded.T for half in (axis & 255, axis >> 8)]
    intensity = np.rint(points[:, 3].clip(0, 1) * 255).astype(np.uint8)
    return Packed(zlib.compress(np.concatenate([*halves, intensity]).tobytes(), 6), len(points), step)


def unpack(packed: Packed) -> Cloud:
    """The points of :func:`pack`, as the browser gets them: (N, 4) float32.

    Raises:
        DataError: The bytes are not those of so many points.
    """
    try:
        raw = np.frombuffer(zlib.decompress(packed.data), np.uint8)
    except zlib.error as error:
        raise DataError(f"packed points: {error}; expected a zlib stream") from error
    if len(raw) != _BYTES * packed.number:
        raise DataError(f"packed points: {len(raw)} bytes for {packed.number} points; expected {_BYTES} a point")
    planes = raw.reshape(_BYTES, packed.number).astype(np.uint16)
    folded = (planes[0:6:2] | (planes[1:6:2] << 8)).T
    differences = (folded >> 1).view(np.int16) ^ -(folded & 1).view(np.int16)
    steps: npt.NDArray[np.int16] = np.add.accumulate(differences, axis=0, dtype=np.int16)
    return np.column_stack([steps * packed.step, planes[6] / 255]).astype(np.float32)


def thin(points: Cloud, most: int | None, kept: npt.NDArray[np.bool_]) -> Cloud:
    """At most so many points, drawn at random, in their order; those of ``kept``, such as in boxes, come first.

    Args:
        points: (N, 4).
        most: How many; None for all.
        kept: (N,) which to prefer.
    """
    if most is None or len(points) <= most:
        return points
    rank = np.random.default_rng(0).random(len(points)) - kept
    return points[np.sort(np.argpartition(rank, most)[:most])]
