from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Triple: TypeAlias = tuple[int, int, int]
_Reached: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64], list[list[int]]]

def rulebooks(
    frames: Sequence[npt.NDArray[np.int64]], size: _Triple, layers: Sequence[tuple[bool, _Triple, _Triple, _Triple]]
) -> tuple[list[tuple[npt.NDArray[np.int32], _Reached | None]], npt.NDArray[np.int64]]: ...
