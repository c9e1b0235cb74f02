"""Saving and restoring the state of a run: safetensors for tensors, JSON for the rest, never pickle.

A checkpoint is a folder ``checkpoints/<samples>`` that appears whole (written aside, then renamed)::

    model.safetensors      the weights being trained
    average.safetensors    their moving average, where the run keeps one
    companions.safetensors what a distillation method trains beside them; no part of the detector
    optimiser.safetensors  AdamW's moments by parameter name, and the random state of torch
    config.yaml            the detector's configuration
    state.json             samples seen, the run's configuration, loss scale, the SHA-256 of a teacher
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pd_edge.bundle import CONFIG as BUNDLE_CONFIG
from pd_edge.bundle import TORCH_WEIGHTS
from pd_edge.config import Config, DetectorConfig, dump_config, load_config, parse_config
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.files import read_json, write_bytes
from pd_edge.training.network import Network
from pd_edge.training.networks import build_network

Tensors = dict[str, Tensor]
MODEL, CONFIG = TORCH_WEIGHTS, BUNDLE_CONFIG  # a run and a checkpoint are read as model folders are
AVERAGE, OPTIMISER, COMPANIONS = "average.safetensors", "optimiser.safetensors", "companions.safetensors"
RUN_CONFIG, STATE = "train.yaml", "state.json"
CHECKPOINTS = "checkpoints"
PARTIAL = ".partial-"
RANDOM_STATE = "torch.random"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


class State(Config):
    """What ``state.json`` holds."""

    samples: int = Field(gt=0, description="Samples seen, by all processes.")
    processes: int = Field(gt=0, description="Processes that trained together.")
    average_updates: int = Field(ge=0, description="Steps that the average has followed.")
    scaler: dict[str, int | float] = Field(description="State of the loss scale; empty where there is none.")
    config: dict[str, Any] = Field(description="The run's configuration.")
    teacher_sha256: str | None = Field(None, description="SHA-256 of the teacher's weights, where there is a teacher.")


class Checkpoint(NamedTuple):
    """The state of a run at a number of samples seen."""

    model: Tensors
    average: Tensors | None
    optimiser: Tensors
    state: State
    companions: Tensors | None = None


def make_run_folder(out: Path) -> None:
    """Makes a run folder where it is missing.

    Raises:
        DataError: It is a file, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if out.is_file() else error.strerror
        raise DataError(f"{out}: cannot be a run folder ({reason}); give a folder you may write to") from error
    if not os.access(out, os.W_OK):
        raise DataError(f"{out}: this run folder is not writable; give a folder you may write to")


def save_checkpoint(run: Path, checkpoint: Checkpoint, config: DetectorConfig, keep: int) -> Path:
    """Writes a checkpoint into a run folder and removes all but the newest ``keep``; returns its folder.

    ``checkpoint.state.samples`` names it. One that is there already stays: the same samples give the same state.

    Raises:
        DataError: It cannot be written.
    """
    folder = checkpoint_folder(run, checkpoint.state.samples)
    if not folder.exists():
        try:
            _write_checkpoint(folder, checkpoint, config)
            for old in list_checkpoints(run)[:-keep]:
                shutil.rmtree(old.rename(old.with_name(f"{PARTIAL}{old.name}")))
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror}); make room there, then resume") from error
    return folder


def _write_checkpoint(folder: Path, checkpoint: Checkpoint, config: DetectorConfig) -> None:
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
    write_bytes(partial / STATE, checkpoint.state.model_dump_json(indent=1).encode())
    _flush(partial)
    partial.rename(folder)


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
    state = load_state(folder)
    try:
        return Checkpoint(
            load_tensors(folder / MODEL),
            load_tensors(average) if average.exists() else None,
            load_tensors(folder / OPTIMISER),
            state,
            load_tensors(companions) if companions.exists() else None,
        )
    except EngineError as error:
        raise EngineError(f"{error}; {_way_out(folder)}") from error


def load_state(folder: Path) -> State:
    """Reads a checkpoint's ``state.json``.

    Raises:
        EngineError: It is missing or damaged.
    """
    path = folder / STATE
    try:
        return parse_config(read_json(path, "the state of a run"), State, str(path))
    except (ConfigError, DataError) as error:
        raise EngineError(f"{error}; {_way_out(folder)}") from error


def damaged(path: Path, reason: str) -> EngineError:
    """The error that a checkpoint's file makes it unusable for a reason, as "holds nothing"."""
    return EngineError(f"{path}: {reason}; {_way_out(path.parent)}")


def _way_out(folder: Path) -> str:
    return f"delete the folder {folder} to resume from the checkpoint before it"


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors by name as safetensors, in plain row-major order whatever their memory format.

    Raises:
        DataError: The file cannot be written.
    """
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


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


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, types and shapes, wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    put_weights(model, load_tensors(path), str(path))


def put_weights(model: nn.Module, given: Tensors, source: str) -> None:
    """Puts tensors into a model; ``source`` says in the error where they are from.

    Raises:
        EngineError: They do not fit, as :func:`load_weights`.
    """
    problem = _misfit(given, model.state_dict())
    if problem is not None:
        raise EngineError(f"{source}: {problem}; give weights of a model with the same configuration")
    model.load_state_dict(given)


def restore(wanted: Mapping[str, Tensor], given: Tensors | None, path: Path) -> None:
    """Copies tensors of a checkpoint to those of a run.

    Args:
        wanted: The run's own, as its ``state_dict`` gives them; they are overwritten.
        given: The checkpoint's; None where it has no such file.
        path: The checkpoint's file, for the error.

    Raises:
        EngineError: A name is missing, extra or of another shape.
    """
    if given is None:
        raise damaged(path, "is missing")
    problem = _misfit(given, wanted)
    if problem is not None:
        raise damaged(path, problem)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


def _misfit(given: Tensors, wanted: Mapping[str, Tensor]) -> str | None:
    """The first name that is missing, extra or of another shape, in words."""
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} belongs to no weight of this model" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, the model needs {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}" if problems else None


def load_model(path: Path) -> tuple[Network, DetectorConfig]:
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
    model = build_network(config.model)
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


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Tensors, path: Path) -> None:
    """Puts back what :func:`optimiser_tensors` gave. Moments get their parameter's memory format.

    The fused optimiser wants all of it, the count of its steps too, on the parameter's device. There are no moments
    before the first step, which a float16 loss scale may put off.

    Args:
        model: The module whose parameters are optimised.
        optimiser: Its AdamW.
        tensors: The saved state.
        path: The file it is from, for the error.

    Raises:
        EngineError: A moment is missing, extra or of another shape, or the random state is not one.
    """
    moments = {name: value for name, value in tensors.items() if name != RANDOM_STATE}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    fresh = {
        f"{name}/{key}": torch.zeros(()) if key == "step" else parameter
        for name, parameter in trained.items()
        for key in MOMENTS
    }
    problem = _misfit(moments, fresh) if moments else None
    if problem is not None:
        raise damaged(path, problem)
    try:
        torch.set_rng_state(tensors[RANDOM_STATE])
    except (KeyError, TypeError, RuntimeError) as error:
        raise damaged(path, f"{RANDOM_STATE} is missing or no state of this torch") from error
    for full_name, value in moments.items():
        name, key = full_name.rsplit("/", 1)
        parameter = trained[name]
        like = value if key == "step" else parameter
        optimiser.state[parameter][key] = torch.empty_like(like, dtype=value.dtype, device=parameter.device).copy_(
            value
        )
