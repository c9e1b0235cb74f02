"""The training loop. One process, or several under torchrun; stops and goes on without changing the result.

A run folder holds the resolved configuration (``train.yaml``), a record of what it ran with and, in the end, of the
samples it saw (``run.json``), a plain log (``train.log``), TensorBoard curves, checkpoints and, in the end,
``model.safetensors`` beside ``config.yaml``.

A run that is stopped from the keyboard, or by SIGTERM, saves a checkpoint after the step it is at.

Under ``torchrun --nproc_per_node=N`` each process takes ``batch_size`` frames per step and gradients are averaged.
Batch norm uses each process's own frames (no synchronised batch norm); the first process's running statistics are kept.
"""

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pd_edge.config import DetectorConfig, dump_config
from pd_edge.errors import ConfigError, TrainingError
from pd_edge.training.batches import Scenes, Share, load_batches
from pd_edge.training.checkpoint import (
    AVERAGE,
    COMPANIONS,
    CONFIG,
    MODEL,
    OPTIMISER,
    RUN_CONFIG,
    STATE,
    Checkpoint,
    State,
    checkpoint_folder,
    damaged,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    make_run_folder,
    optimiser_tensors,
    restore,
    restore_optimiser,
    save_checkpoint,
    save_tensors,
)
from pd_edge.training.config import OptimiserConfig, TrainConfig
from pd_edge.training.data import training_dataset
from pd_edge.training.interrupt import StopRequest
from pd_edge.training.learner import Detecting, LearnerFactory, amp_dtype
from pd_edge.training.network import channels_last
from pd_edge.training.networks import build_network
from pd_edge.training.run_log import RunLog, update_record, versions

RESUMABLE = frozenset({"workers", "checkpoint", "log_every"})
"""Fields that may change when a run goes on: they do not change its result."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt's parameters in malloc.h."""


class Process(NamedTuple):
    """This process and the device it computes on."""

    share: Share
    device: torch.device


def train(
    config: TrainConfig,
    out: Path,
    *,
    learner: LearnerFactory = Detecting,
    scenes: Scenes | None = None,
    opener: Callable[[Path], Scenes] | None = None,
    cache: Path | None = None,
    stop_after: int | None = None,
) -> Path:
    """Trains a detector, or goes on where the run in ``out`` stopped.

    Args:
        config: The run's configuration.
        out: Run folder; made where missing.
        learner: What a step computes: the detector's loss, or that and a distillation method's.
        scenes: Training scenes; those that ``opener`` opens by default.
        opener: Opens the scenes, given the cache folder; of several processes in the first one first. Those of
            ``config.data`` by default.
        cache: Folder of the object bank, shared by runs; ``cache`` beside ``out`` by default.
        stop_after: Stop, with a checkpoint, once this many samples are seen.

    Returns:
        The run's ``model.safetensors``: averaged weights, where the run keeps an average. With ``stop_after``, the
        checkpoint's folder.

    Raises:
        ConfigError: ``out`` holds a run with another configuration or teacher, or the configuration does not fit its
            data.
        DataError: A frame cannot be read, or ``out`` cannot be written.
        EngineError: Weights to start from do not fit, or a checkpoint is damaged.
        TrainingError: The loss or its gradient is no longer finite.
    """
    keep_freed_memory()
    make_run_folder(out)
    with joined_processes() as process:
        torch.manual_seed(config.seed)
        if scenes is None:
            scenes = _open_scenes(opener or partial(_configured, config), cache or out.parent / "cache", process.share)
        run = Run(config, out, process, learner)
        per_step = config.batch_size * process.share.size
        first, end = run.resume() // per_step, math.ceil(min(stop_after or math.inf, config.samples) / per_step)
        steps = range(first, max(first, end))
        network = _distributed(run.learner, process.share)
        loaded = load_batches(scenes, config, process.share, steps, pin=process.device.type == "cuda")
        log_of_run = RunLog(out, config, steps, per_step, active=process.share.rank == 0)
        with closing(loaded) as batches, log_of_run as log, StopRequest() as asked:
            for step, batch in zip(steps, batches, strict=True):
                rate = set_rates(run.optimiser, config.optimiser, step * per_step / config.samples)
                losses = network(batch.to(process.device))
                norm = run.update(losses, step)
                log.step(step, losses, norm, rate)
                if run.checkpoint_due(step + 1) or asked.signal is not None:
                    run.save_checkpoint((step + 1) * per_step)
                asked.raise_if_asked()
        seen = steps.stop * per_step
        checkpoint = run.save_checkpoint(seen)
        return checkpoint if seen < config.samples else run.save_weights(seen)


def one_cycle(config: OptimiserConfig, progress: float) -> tuple[float, float]:
    """Learning rate and AdamW's beta1 at a share ``progress`` (0..1) of the run; cosine up to the peak and down again.

    Source: Smith & Topin, Super-Convergence (2018), with cosine flanks.
    """
    if progress < config.rise:
        way, low = progress / config.rise, config.start_lr
    else:
        way, low = (1 - progress) / (1 - config.rise), config.end_lr
    height = (1 - math.cos(math.pi * min(max(way, 0.0), 1.0))) / 2
    return low + (config.peak_lr - low) * height, config.beta1 + (config.beta1_at_peak - config.beta1) * height


def set_rates(optimiser: torch.optim.Optimizer, config: OptimiserConfig, progress: float) -> float:
    """Sets the optimiser to its place in the cycle; returns the learning rate."""
    rate, beta1 = one_cycle(config, progress)
    for group in optimiser.param_groups:
        group["lr"], group["betas"] = rate, (beta1, config.beta2)
    return rate


def changed_fields(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the fields that a run's result depends on and in which two configurations, as plain data, differ.

    A field that only one of them has counts too: a teacher, say.
    """
    absent = object()
    return [
        name
        for name in {**now, **before}
        if name not in RESUMABLE and now.get(name, absent) != before.get(name, absent)
    ]


class Run:
    """What changes while training: model, its average, optimiser, loss scale, and their place on disk."""

    def __init__(self, config: TrainConfig, out: Path, process: Process, learner: LearnerFactory = Detecting) -> None:
        self._config, self._out, self._process = config, out, process
        self._detector = DetectorConfig(model=config.model)
        self.model = channels_last(build_network(config.model).to(process.device))
        if config.init is not None:
            load_weights(self.model, config.init)
        self.learner = learner(self.model, config).to(process.device)
        recipe = config.optimiser
        betas = (recipe.beta1, recipe.beta2)
        self.optimiser = torch.optim.AdamW(
            self.learner.parameters(), recipe.start_lr, betas, weight_decay=recipe.weight_decay, fused=True
        )
        self._average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
        half = config.amp and amp_dtype(process.device.type) == torch.float16
        self._scaler = torch.GradScaler(process.device.type, enabled=half)
        self._saved_at = time.monotonic()

    def resume(self) -> int:
        """Takes up the newest checkpoint, if there is one; returns the samples seen.

        Raises:
            ConfigError: It is from another configuration or teacher, or from another number of processes that does
                not fit.
            EngineError: A file of it is missing or damaged.
        """
        checkpoints = list_checkpoints(self._out)
        if not checkpoints:
            if self._process.share.rank == 0:
                dump_config(self._config, self._out / RUN_CONFIG)
                dump_config(self._detector, self._out / CONFIG)
                teacher = self.learner.teacher_sha256
                update_record(self._out, {**versions(), **({"teacher_sha256": teacher} if teacher else {})}, anew=True)
            return 0
        checkpoint = load_checkpoint(checkpoints[-1])
        self._check_same_run(checkpoint.state, checkpoints[-1])
        self._restore(checkpoint, checkpoints[-1])
        return checkpoint.state.samples

    def _restore(self, checkpoint: Checkpoint, folder: Path) -> None:
        restore(self.model.state_dict(), checkpoint.model, folder / MODEL)
        companions = self.learner.companions.state_dict() if self.learner.companions else {}
        if companions:
            restore(companions, checkpoint.companions, folder / COMPANIONS)
        if self._average is not None:
            restore(self._average.weights, checkpoint.average, folder / AVERAGE)
            self._average.updates = checkpoint.state.average_updates
        restore_optimiser(self.learner, self.optimiser, checkpoint.optimiser, folder / OPTIMISER)
        try:
            self._scaler.load_state_dict(checkpoint.state.scaler)
        except (KeyError, RuntimeError) as error:
            raise damaged(folder / STATE, f"its loss scale {checkpoint.state.scaler} does not fit ({error})") from error

    def _check_same_run(self, state: State, folder: Path) -> None:
        changed = changed_fields(state.config, self._config.model_dump(mode="json"))
        if changed:
            command = "distill" if "teacher" in state.config else "train"
            raise ConfigError(
                f"{folder}: the run began with another {', '.join(changed)}; "
                f"give its own configuration ({RUN_CONFIG} in the run folder) to pd-edge {command}, or another output "
                "folder"
            )
        then, now = state.teacher_sha256, self.learner.teacher_sha256
        if then is not None and then != now:
            raise ConfigError(
                f"{folder}: the run began with another teacher, of weights with the SHA-256 {then[:12]}..., not "
                f"{(now or 'none')[:12]}...; put that teacher back in its place, or give another output folder"
            )
        per_step = self._config.batch_size * self._process.share.size
        if state.samples % per_step:
            raise ConfigError(
                f"{folder}: {state.samples} samples seen are no whole number of steps of {per_step}; "
                f"go on with the {state.processes} processes the run had"
            )

    def update(self, losses: dict[str, Tensor], step: int) -> Tensor:
        """One optimiser step; returns the gradient's norm before clipping.

        Raises:
            TrainingError: The loss or the gradient is not finite; weights are untouched.
        """
        self.optimiser.zero_grad()
        self._scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.learner.parameters(), self._config.optimiser.clip_norm)
        self._check_finite(losses, norm, step)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self.model)
        return norm

    def _check_finite(self, losses: dict[str, Tensor], norm: Tensor, step: int) -> None:
        """One question to the device in a step: a GPU works on while the next step is prepared."""
        loss_fine, norm_fine = torch.isfinite(torch.stack([losses["total"].detach(), norm])).tolist()
        if loss_fine and (norm_fine or self._scaler.is_enabled()):
            return  # a float16 loss scale overflows now and then, and skips that step itself
        parts = ", ".join(f"{name} {part.item():g}" for name, part in losses.items())
        kept = list_checkpoints(self._out)[-1:]
        advice = f"the checkpoint {kept[0]} is kept" if kept else "there is no checkpoint yet"
        raise TrainingError(
            f"step {step}: the {'gradient' if loss_fine else 'loss'} is not finite ({parts}); {advice}; "
            "lower optimiser.peak_lr or clip_norm, or set amp to false"
        )

    def checkpoint_due(self, steps_done: int) -> bool:
        """Whether it is time to save."""
        when = self._config.checkpoint
        return steps_done % when.every_steps == 0 or time.monotonic() - self._saved_at > 60 * when.every_minutes

    def save_checkpoint(self, samples: int) -> Path:
        """Saves the state after a number of samples (first process only); returns the checkpoint's folder."""
        self._saved_at = time.monotonic()
        if self._process.share.rank == 0:
            average = self._average
            state = State(
                samples=samples,
                processes=self._process.share.size,
                average_updates=average.updates if average else 0,
                scaler=self._scaler.state_dict(),
                config=self._config.model_dump(mode="json"),
                teacher_sha256=self.learner.teacher_sha256,
            )
            companions = self.learner.companions
            checkpoint = Checkpoint(
                self.model.state_dict(),
                average.weights if average else None,
                optimiser_tensors(self.learner, self.optimiser),
                state,
                companions.state_dict() if companions else None,
            )
            save_checkpoint(self._out, checkpoint, self._detector, self._config.checkpoint.keep)
        return checkpoint_folder(self._out, samples)

    def save_weights(self, samples: int) -> Path:
        """Writes the run's result, ``model.safetensors``: the averaged weights, where there is an average.

        The run's record gets the samples seen and the number of processes.
        """
        path = self._out / MODEL
        if self._process.share.rank == 0:
            update_record(self._out, {"samples": samples, "processes": self._process.share.size})
            save_tensors(self._average.weights if self._average else self.model.state_dict(), path)
        return path


class WeightAverage:
    """Exponential moving average of a model's weights and batch norm statistics.

    The decay rises with the updates, (1 + n) / (10 + n) up to the given one, so that the initial weights are soon
    forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's weights; counters are copied."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        state = model.state_dict()
        moving = [name for name, tensor in state.items() if tensor.is_floating_point()]
        # One kernel for all tensors: on a GPU, starting a hundred costs more than running them.
        torch._foreach_lerp_([self.weights[name] for name in moving], [state[name] for name in moving], 1 - decay)
        for name in state.keys() - set(moving):
            self.weights[name].copy_(state[name])


def keep_freed_memory() -> None:
    """Tells glibc not to hand large freed blocks back to the system.

    Every step allocates the same large maps; taking them from the system anew costs a tenth (teacher) to a quarter of a
    step (16x) on the CPU in page faults. Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def joined_processes() -> Iterator[Process]:
    """Joins the processes torchrun started (nccl on GPUs, gloo on CPUs); a process on its own needs nothing."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if 0 < torch.cuda.device_count() <= local:
        raise TrainingError(
            f"process {local} has no GPU of its own, there are {torch.cuda.device_count()}; "
            "start torchrun with --nproc_per_node set to that number"
        )
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if not torch.distributed.is_torchelastic_launched():
        yield Process(Share(), device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(Share(torch.distributed.get_rank(), torch.distributed.get_world_size()), device)
    finally:
        torch.distributed.destroy_process_group()


def _distributed(learner: nn.Module, share: Share) -> nn.Module:
    return DistributedDataParallel(learner) if share.size > 1 else learner


def _configured(config: TrainConfig, cache: Path) -> Scenes:
    return training_dataset(config.data, config.model, config.augment, config.seed, cache)


def _open_scenes(opener: Callable[[Path], Scenes], cache: Path, share: Share) -> Scenes:
    """The scenes; the first process builds what goes into the cache, the others then find it."""
    if share.rank > 0:
        torch.distributed.barrier()
    scenes = opener(cache)
    if share.rank == 0 and share.size > 1:
        torch.distributed.barrier()
    return scenes
