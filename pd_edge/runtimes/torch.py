"""PyTorch: the network as it was trained, to compare the other runtimes with."""

from collections.abc import Sequence

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

from pd_edge.training.network import Network
from pd_edge.training.networks import build_network


class ModuleRuntime:
    """The dense part of a network in memory, in torch eager mode and float32, on the network's own device."""

    name = "torch"
    precision = "fp32"
    layout: Layout = "nhwc"

    def __init__(self, model: Network) -> None:
        self._model = model
        self._device = model.head.weight.device

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        return self.infer_batch([canvas])[0]

    def infer_batch(self, canvases: Sequence[npt.NDArray[np.float32]]) -> list[Heads]:
        """Runs the dense part for every canvas, in one batch; see :class:`pd_edge.runtimes.base.BatchRuntime`."""
        together = canvases[0] if len(canvases) == 1 else np.concatenate(canvases)
        # A GPU takes float32 convolutions in TF32 otherwise, which has three digits of the seven.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # The transposed view of an NHWC array is a channels_last tensor.
            heads = self._model.dense(torch.from_numpy(together.transpose(0, 3, 1, 2)).to(self._device))
        arrays = [head.contiguous().cpu().numpy() for head in heads]
        return [Heads(*(array[row : row + 1] for array in arrays)) for row in range(len(canvases))]


class TorchRuntime(ModuleRuntime):
    """The dense part of a model folder on the CPU.

    The number of threads is torch's own and holds for the whole process.
    """

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        """Loads the model.

        Raises:
            EngineError: Another precision was asked for, or the weights cannot be read or are of another network.
        """
        only_fp32(self.name, precision)
        if threads is not None:
            torch.set_num_threads(threads)
        super().__init__(load_torch(bundle))


def load_torch(bundle: Bundle) -> Network:
    """The trained network in float32, in evaluation mode.

    Raises:
        EngineError: ``model.safetensors`` is missing, cannot be read, or is of another network.
    """
    path = bundle.file(TORCH_WEIGHTS)
    model = build_network(bundle.config.model)
    try:
        model.load_state_dict(load_file(path))  # copies half precision into float32 parameters
    except (SafetensorError, RuntimeError) as error:
        raise EngineError(f"{path}: not the weights of this network: {' '.join(str(error).split())}") from error
    return model.eval()
