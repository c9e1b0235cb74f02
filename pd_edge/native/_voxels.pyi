from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Triple: TypeAlias = tuple[int, int, int]

class Grid:
    def __init__(
        self,
        scale: float,
        x_offset: float,
        y_offset: float,
        z_min: float,
        z_max: float,
        z_scale: float,
        z_offset: float,
        nx: int,
        ny: int,
        nz: int,
    ) -> None: ...

def voxelize(
    points: npt.NDArray[np.float32], grid: Grid
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def instruction_sets() -> list[str]: ...

class VoxelEncoder:
    def __init__(
        self,
        grid: Grid,
        layers: Sequence[tuple[bool, _Triple, _Triple, _Triple, npt.NDArray[np.float32], npt.NDArray[np.float32]]],
        channels_last: bool,
        threads: int,
        instructions: str,
    ) -> None: ...
    def encode(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...
    def seconds(self) -> dict[str, float]: ...
