"""PyTorch on the CPU: the network as it was trained, to compare the other runtimes with."""

import numpy as np
import numpy.typing as npt

from pd_edge.bundle import TORCH_WEIGHTS, Bundle
from pd_edge.decode import Heads
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.pillars import Layout
from pd_edge.runtimes.base import only_fp32

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "train") from error

from pd_edge.training.model import PointPillars


class TorchRuntime:
    """The dense part in torch eager mode, in float32.

    The number of threads is torch's own and holds for the whole process.
    """

    name = "torch"
    precision = "fp32"
    layout: Layout = "nhwc"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        """Loads the model.

        Raises:
            EngineError: Another precision was asked for, or the weights cannot be read or are of another network.
        """
        only_fp32(self.name, precision)
        if threads is not None:
            torch.set_num_threads(threads)
        self._model = load_torch(bundle)

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        with torch.inference_mode():
            # The transposed view of an NHWC array is a channels_last tensor.
            heads = self._model.dense(torch.from_numpy(canvas.transpose(0, 3, 1, 2)))
        return Heads(*(head.contiguous().numpy() for head in heads))


def load_torch(bundle: Bundle) -> PointPillars:
    """The trained network in float32, in evaluation mode.

    Raises:
        EngineError: ``model.safetensors`` is missing, cannot be read, or is of another network.
    """
    path = bundle.file(TORCH_WEIGHTS)
    model = PointPillars(bundle.config.model)
    try:
        model.load_state_dict(load_file(path))  # copies half precision into float32 parameters
    except (SafetensorError, RuntimeError) as error:
        raise EngineError(f"{path}: not the weights of this network: {' '.join(str(error).split())}") from error
    return model.eval()
