"""Saving and restoring the state of a run: safetensors for tensors, JSON for the rest, never pickle.

A checkpoint is a folder ``checkpoints/<samples>`` that appears whole (written aside, then renamed)::

    model.safetensors      the weights being trained
    average.safetensors    their moving average, where the run keeps one
    companions.safetensors what a distillation method trains beside them; no part of the detector
    optimiser.safetensors  AdamW's moments by parameter name, and the random state of torch
    config.yaml            the detector's configuration
    state.json             samples seen, the run's configuration, loss scale
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pd_edge.config import DetectorConfig, dump_config, load_config
from pd_edge.errors import ConfigError, EngineError
from pd_edge.training.model import PointPillars

Tensors = dict[str, Tensor]
MODEL, AVERAGE, OPTIMISER = "model.safetensors", "average.safetensors", "optimiser.safetensors"
COMPANIONS = "companions.safetensors"
CONFIG, RUN_CONFIG, STATE = "config.yaml", "train.yaml", "state.json"
CHECKPOINTS = "checkpoints"
PARTIAL = ".partial-"
RANDOM_STATE = "torch.random"


class Checkpoint(NamedTuple):
    """The state of a run at a number of samples seen."""

    model: Tensors
    average: Tensors | None
    optimiser: Tensors
    state: dict[str, Any]
    companions: Tensors | None = None


def save_checkpoint(run: Path, checkpoint: Checkpoint, config: DetectorConfig, keep: int) -> Path:
    """Writes a checkpoint into a run folder and removes all but the newest ``keep``; returns its folder.

    ``checkpoint.state["samples"]`` names it. One that is there already stays: the same samples give the same state.
    """
    folder = checkpoint_folder(run, checkpoint.state["samples"])
    if folder.exists():
        return folder
    for leftover in folder.parent.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    partial.mkdir(parents=True)
    save_tensors(checkpoint.model, partial / MODEL)
    save_tensors(checkpoint.optimiser, partial / OPTIMISER)
    if checkpoint.average is not None:
        save_tensors(checkpoint.average, partial / AVERAGE)
    if checkpoint.companions:
        save_tensors(checkpoint.companions, partial / COMPANIONS)
    dump_config(config, partial / CONFIG)
    (partial / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    _flush(partial)
    partial.rename(folder)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old.rename(old.with_name(f"{PARTIAL}{old.name}")))
    return folder


def checkpoint_folder(run: Path, samples: int) -> Path:
    """Where a run's checkpoint after a number of samples stands."""
    return run / CHECKPOINTS / f"{samples:010d}"


def _flush(folder: Path) -> None:
    """Makes the files' bytes reach the disk before the rename does."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    return sorted(path for path in (run / CHECKPOINTS).glob("[0-9]*") if path.is_dir())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        EngineError: A file of it is missing or damaged.
    """
    average, companions = folder / AVERAGE, folder / COMPANIONS
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{folder / STATE}: cannot be read ({error}); delete the folder {folder} to resume from the one before it"
        ) from error
    return Checkpoint(
        load_tensors(folder / MODEL),
        load_tensors(average) if average.exists() else None,
        load_tensors(folder / OPTIMISER),
        state,
        load_tensors(companions) if companions.exists() else None,
    )


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors by name as safetensors, in plain row-major order whatever their memory format."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> Tensors:
    """Reads a safetensors file.

    Raises:
        EngineError: It is missing or damaged.
    """
    try:
        tensors: Tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{path}: cannot be read ({error}); expected a safetensors file of weights") from error
    return tensors


def find_weights(path: Path) -> Path:
    """The weights file that a path means.

    Args:
        path: A safetensors file, a model bundle, a finished run, a checkpoint (its average, where it has one) or a run
            that goes on (its newest checkpoint).

    Raises:
        EngineError: There is none.
    """
    if path.is_file():
        return path
    newest = list_checkpoints(path)[-1:]
    candidates = [path / AVERAGE, path / MODEL, *(folder / name for folder in newest for name in (AVERAGE, MODEL))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise EngineError(f"{path}: no weights there; give a .safetensors file, a model, run or checkpoint folder")


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights into a model; :func:`find_weights` tells which.

    Raises:
        EngineError: There are none, or they do not fit: the first name that is missing, extra or of another shape is
            told.
    """
    path = find_weights(path)
    given, wanted = load_tensors(path), model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not a weight of this model" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, the model needs {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EngineError(f"{path}: {problems[0]}{more}; give weights of a model with the same configuration")
    model.load_state_dict(given)


def load_model(path: Path) -> tuple[PointPillars, DetectorConfig]:
    """Builds the model that a run, checkpoint or bundle folder (or a weights file in one) holds, for inference.

    Raises:
        ConfigError: No configuration stands beside the weights, or it is wrong.
        EngineError: The weights cannot be read or do not fit it.
    """
    weights = find_weights(path)
    config_path = weights.parent / CONFIG
    if not config_path.is_file():
        raise ConfigError(f"{config_path}: missing; the detector's configuration has to stand beside its weights")
    config = load_config(config_path, DetectorConfig)
    model = PointPillars(config.model)
    load_weights(model, weights)
    return model.eval(), config


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> Tensors:
    """The optimiser's state as tensors named ``<parameter>/<moment>``, and torch's random state."""
    tensors = {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state[parameter].items()
    }
    return {**tensors, RANDOM_STATE: torch.get_rng_state()}


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Puts back what :func:`optimiser_tensors` gave. Moments get their parameter's memory format.

    The fused optimiser wants all of it, the count of its steps too, on the parameter's device.
    """
    parameters = dict(model.named_parameters())
    for full_name, value in tensors.items():
        if full_name == RANDOM_STATE:
            torch.set_rng_state(value)
            continue
        name, key = full_name.split("/")
        parameter = parameters[name]
        like = parameter if value.shape == parameter.shape else value
        optimiser.state[parameter][key] = torch.empty_like(like, dtype=value.dtype, device=parameter.device).copy_(
            value
        )
