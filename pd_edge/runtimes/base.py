"""What a runtime is."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pd_edge.decode import Heads
from pd_edge.errors import EngineError
from pd_edge.pillars import Layout

PRECISIONS = ("fp32", "bf16")


class Runtime(Protocol):
    """The dense part of a detector, ready to run.

    Attributes:
        name: Name of the runtime.
        precision: Precision of its arithmetic, ``fp32`` or ``bf16``.
        layout: Layout of the canvas that it takes, the faster one for it.
    """

    name: str
    precision: str
    layout: Layout

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once.

        Args:
            canvas: (1, C, ny, nx) float32 for the layout ``nchw``, (1, ny, nx, C) for ``nhwc``, C-contiguous. It is
                read in place, without a copy.

        Returns:
            The heads, float32. They are the runtime's own memory and hold until its next call.
        """


def only_fp32(runtime: str, precision: str) -> None:
    """Refuses any other precision for a runtime that computes in float32 alone.

    Raises:
        EngineError: Another precision was asked for.
    """
    if precision != "fp32":
        raise EngineError(f"{runtime} runs the network in fp32 only, not {precision}; use runtime openvino for it")
