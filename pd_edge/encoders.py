"""A detector's encoder, whichever detector it is: from a cloud to the canvas, and its weights in a file.

PointPillars has a pillar feature net (:mod:`pd_edge.pillars`), SECOND sparse layers over voxels
(:mod:`pd_edge.voxels`). The rest of either network takes a canvas and is one ONNX file.
"""

import zipfile
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pd_edge.config import ModelConfig, SecondConfig
from pd_edge.errors import EngineError
from pd_edge.pillars import POINT_FEATURES, Floats, Layout, PillarEncoder, PillarNet
from pd_edge.voxels import VoxelEncoder, VoxelNet, sparse_layers

EncoderNet: TypeAlias = PillarNet | VoxelNet
"""The weights of an encoder, batch norms folded."""


class Encoder(Protocol):
    """Points to canvas."""

    def encode(self, points: Floats) -> Floats:
        """The canvas of a cloud (N, 4) float32: x y z [m] in the LiDAR frame and intensity.

        The array belongs to the encoder: the next call overwrites it.
        """
        ...


def make_encoder(model: ModelConfig, net: EncoderNet, layout: Layout = "nchw", threads: int | None = None) -> Encoder:
    """The encoder of a model, in C++.

    Args:
        model: The network.
        net: Its encoder's weights.
        layout: ``nchw`` gives a canvas of ``model.canvas_shape``, ``nhwc`` one with the channels last.
        threads: Most CPU threads that it may use; pillars take one, sparse layers two where nothing is said.

    Raises:
        EngineError: The weights are another detector's, have a wrong dtype or shape, or are not finite.
    """
    if isinstance(model, SecondConfig) and isinstance(net, VoxelNet):
        return VoxelEncoder(model, net, layout, threads)
    if isinstance(net, PillarNet) and not isinstance(model, SecondConfig):
        return PillarEncoder(model.grid, net, layout)
    raise EngineError(f"a {type(net).__name__} is no encoder of {model.detector}; export the model again")


def net_name(model: ModelConfig) -> str:
    """Name of an encoder's weights in files: ``pillar_net`` or ``voxel_net``."""
    return "voxel_net" if isinstance(model, SecondConfig) else "pillar_net"


def net_file(model: ModelConfig) -> str:
    """Name of the file with an encoder's weights."""
    return f"{net_name(model)}.npz"


def net_arrays(net: EncoderNet) -> dict[str, Floats]:
    """An encoder's weights by name: ``weight`` and ``bias``, of each layer if there are several."""
    if isinstance(net, PillarNet):
        return net._asdict()
    return {
        f"layers.{layer}.{part}": array
        for layer, pair in enumerate(zip(net.weights, net.biases, strict=True))
        for part, array in zip(PillarNet._fields, pair, strict=True)
    }


def net_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of :func:`net_arrays` of a model."""
    if not isinstance(model, SecondConfig):
        return {"weight": (POINT_FEATURES, model.pillar_channels), "bias": (model.pillar_channels,)}
    shapes: dict[str, tuple[int, ...]] = {}
    for number, layer in enumerate(sparse_layers(model)):
        shapes[f"layers.{number}.weight"] = layer.weight_shape
        shapes[f"layers.{number}.bias"] = (layer.outputs,)
    return shapes


def save_net(net: EncoderNet, path: Path) -> None:
    """Writes an encoder's weights, without pickle."""
    # The names are keywords to savez, whose stub knows none but its own.
    np.savez(path, **net_arrays(net))  # type: ignore[arg-type]


def read_net(path: Path, model: ModelConfig) -> EncoderNet:
    """Reads the encoder's weights of a model.

    Raises:
        EngineError: The file is missing, is not such an archive, or its arrays are not those of this network.
    """
    shapes = net_shapes(model)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in shapes}
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EngineError(
            f"{path}: cannot be read as arrays {_listed(list(shapes))} ({error}); export it again"
        ) from error
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise EngineError(f"{path}: {name} holds {array.dtype}, expected float32; export it again")
        check_shape(array.shape, shapes[name], f"{path}: {name}")
    return _net(model, list(arrays.values()))


def net_from_numbers(numbers: npt.NDArray[np.float32], model: ModelConfig) -> EncoderNet:
    """An encoder's weights from their numbers, one array after the other in the order of :func:`net_arrays`.

    Raises:
        ValueError: There are more or fewer than the network has.
    """
    shapes = list(net_shapes(model).values())
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if len(numbers) != ends[-1]:
        raise ValueError(f"{len(numbers)} numbers, expected {ends[-1]}")
    parts = np.split(numbers.astype(np.float32), ends[:-1])
    return _net(model, [part.reshape(shape).copy() for part, shape in zip(parts, shapes, strict=True)])


def net_numbers(net: EncoderNet) -> Floats:
    """All of an encoder's weights in a row; :func:`net_from_numbers` is the inverse."""
    return np.concatenate([array.ravel() for array in net_arrays(net).values()])


def check_shape(found: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Refuses weights that were made for another network or grid.

    Raises:
        EngineError: The shapes differ.
    """
    if tuple(found) != tuple(expected):
        raise EngineError(
            f"{what} has the shape {tuple(found)}, but config.yaml needs {tuple(expected)}: weights of another network "
            "or grid; restore the model's own config.yaml or export the weights for this one"
        )


def _net(model: ModelConfig, arrays: list[Floats]) -> EncoderNet:
    if isinstance(model, SecondConfig):
        return VoxelNet(tuple(arrays[::2]), tuple(arrays[1::2]))
    weight, bias = arrays
    return PillarNet(weight, bias)


def _listed(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return " and ".join(quoted) if len(quoted) < 3 else f"{quoted[0]} .. {quoted[-1]}"
