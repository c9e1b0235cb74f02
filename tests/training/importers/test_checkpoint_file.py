"""Checkpoints are read without running what is pickled in them."""

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from pd_edge.errors import DataError, EngineError
from pd_edge.training.importers.checkpoint_file import read_checkpoint

WEIGHT = {"module.a.weight": torch.arange(3, dtype=torch.float16), "a.steps": torch.tensor(4)}


class Log:
    """Something a training run keeps beside its weights."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type["Log"], tuple[float]]:
        return type(self), (self.value,)


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_as_float32_without_a_wrappers_prefix(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    data = {"state_dict": OrderedDict(WEIGHT), "meta": {"CLASSES": ("Car",), "epoch": 3}}
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert found.tensors["a.weight"].dtype == torch.float32
    assert found.tensors["a.weight"].tolist() == [0, 1, 2]
    assert found.tensors["a.steps"].dtype == torch.int64
    assert found.meta == {"CLASSES": ("Car",), "epoch": 3}


def test_logs_and_scalars_beside_the_weights_do_not_hinder(tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save({"model_state": WEIGHT, "message_hub": {"loss": Log(0.5)}, "best": np.float64(3.5)}, path)
    assert set(read_checkpoint(path).tensors) == {"a.weight", "a.steps"}


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(zipped: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"model_state": WEIGHT, "run": Command(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(EngineError, match="holds more than tensors and plain values"):
        read_checkpoint(path)
    assert not trace.exists()


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a checkpoint of torch\.save"):
        read_checkpoint(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(EngineError, match="or is damaged"):
        read_checkpoint(tmp_path / "text.pth")
    torch.save({"model_state": {}}, tmp_path / "empty.pth")
    with pytest.raises(EngineError, match="no weights under model_state or state_dict"):
        read_checkpoint(tmp_path / "empty.pth")
