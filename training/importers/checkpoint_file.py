"""Reading another project's checkpoint: tensors and plain values only, none of its pickled code is ever run."""

import hashlib
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pd_edge.errors import EngineError
from pd_edge.files import read_bytes

WEIGHTS = ("model_state", "state_dict")
"""Under which name OpenPCDet and mmdetection3d keep a network's weights."""


class ForeignCheckpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        path: The file.
        sha256: Hash of its bytes.
        tensors: The weights by name, float32, without the prefix of a parallel wrapper.
        meta: Plain values about the training; empty where there are none.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class _Inert:
    """Stands for anything in the file that is neither tensor nor plain value; takes what it is given, does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_checkpoint(path: Path) -> ForeignCheckpoint:
    """Reads a checkpoint without running pickled code.

    torch's restricted reader makes tensors, containers and numbers, and refuses all else. What a training run leaves
    beside the weights (logs, optimisers, random states) may name other classes: an inert object takes their place.

    Raises:
        DataError: The file cannot be read.
        EngineError: It is no checkpoint, needs code to be read, or holds no weights.
    """
    digest = hashlib.sha256(read_bytes(path, "a checkpoint of torch.save")).hexdigest()
    try:
        with safe_globals([(_Inert, name) for name in _other_names(path)]):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise EngineError(
            f"{path}: holds more than tensors and plain values, or is damaged ({reason}); where the project runs, load "
            "it and save {'state_dict': model.state_dict()} anew"
        ) from error
    held = next((data[name] for name in WEIGHTS if isinstance(data, dict) and name in data), data)
    tensors = {
        str(name).removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in (held.items() if isinstance(held, dict) else ())
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise EngineError(f"{path}: no weights under {' or '.join(WEIGHTS)}; give a checkpoint of the detector")
    meta = data.get("meta") if isinstance(data, dict) else None
    return ForeignCheckpoint(path, digest, tensors, meta if isinstance(meta, dict) else {})


def _other_names(path: Path) -> list[str]:
    """Classes and functions that the file names beyond those of tensors; none where it is in torch's old format."""
    try:
        return get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, RuntimeError):
        return []
