import numpy as np
import numpy.typing as npt

class Grid:
    def __init__(
        self,
        scale: float,
        x_offset: float,
        y_offset: float,
        z_min: float,
        z_max: float,
        cell: float,
        x_centre: float,
        y_centre: float,
        z_centre: float,
        nx: int,
        ny: int,
    ) -> None: ...

def point_cells(points: npt.NDArray[np.float32], grid: Grid) -> npt.NDArray[np.int32]: ...
def pillarize(
    points: npt.NDArray[np.float32], grid: Grid
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...

class PillarEncoder:
    def __init__(
        self, grid: Grid, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], channels_last: bool
    ) -> None: ...
    def encode(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...
