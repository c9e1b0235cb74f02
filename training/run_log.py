"""What a run tells while it goes on: a plain log file, TensorBoard curves, and the terminal."""

import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import pd_edge
from pd_edge.errors import DataError
from pd_edge.files import read_json
from pd_edge.report import write_json
from pd_edge.training.config import TrainConfig

RECORD = "run.json"
"""A run's record: what it runs with (:func:`versions`) and, once it has ended, ``samples`` and ``processes``."""


class RunLog:
    """Logs means over ``config.log_every`` steps; a context manager.

    Args:
        out: Run folder: lines go to ``train.log``, curves to ``curves``.
        config: The run's configuration.
        steps: The steps this process is going to do.
        per_step: Samples in a step of all processes.
        active: False silences it (all processes but the first).
    """

    def __init__(self, out: Path, config: TrainConfig, steps: range, per_step: int, *, active: bool) -> None:
        self._out, self._every, self._active = out, config.log_every, active
        self._steps, self._per_step = steps, per_step
        self._window: list[Tensor] = []
        self._window_start = time.monotonic()

    def __enter__(self) -> "RunLog":  # noqa: PYI034 - Self is newer than Python 3.10
        if self._active:
            self._file = (self._out / "train.log").open("a", encoding="utf-8", buffering=1)
            self._curves = SummaryWriter(str(self._out / "curves"), purge_step=self._steps.start + 1)
            self._console = Console(file=sys.stderr, highlight=False)
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
            self._progress.start()
            self._task = self._progress.add_task("", completed=self._steps.start, total=self._steps.stop)
            self.line("; ".join(f"{name} {value}" for name, value in versions().items()))
            self.line(f"steps {self._steps.start} .. {self._steps.stop} of {self._per_step} samples in {self._out}")
            self._window_start = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self.line(f"stopped: {str(error) or kind.__name__}" if kind else f"done at step {self._steps.stop}")
            self._progress.stop()
            self._curves.close()
            self._file.close()

    def line(self, text: str) -> None:
        """Writes one line to the log and the terminal."""
        stamped = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} {text}"
        self._file.write(stamped + "\n")
        self._console.print(stamped, markup=False, soft_wrap=True)

    def step(self, step: int, losses: dict[str, Tensor], norm: Tensor, rate: float) -> None:
        """Takes note of a step; every ``log_every`` steps, and at the end, tells the means."""
        if not self._active:
            return
        self._progress.update(self._task, completed=step + 1)
        self._window.append(torch.stack([*losses.values(), norm]).detach())
        if (step + 1) % self._every and step + 1 != self._steps.stop:
            return
        means = dict(zip((*losses, "gradient"), torch.stack(self._window).double().mean(dim=0).tolist(), strict=True))
        seconds = time.monotonic() - self._window_start
        speed = len(self._window) * self._per_step / seconds
        left = (self._steps.stop - step - 1) * self._per_step / speed
        self._tell(step + 1, means, rate, speed, left)
        self._window, self._window_start = [], time.monotonic()

    def _tell(self, done: int, means: dict[str, float], rate: float, speed: float, left: float) -> None:
        for name, value in {**means, "learning_rate": rate, "samples_per_second": speed}.items():
            self._curves.add_scalar(name, value, done)
        parts = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.line(
            f"step {done}/{self._steps.stop} samples {done * self._per_step} {parts} "
            f"lr {rate:.2e} {speed:.2f} samples/s {_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run, from its folder or a model folder; empty where there is none.

    Raises:
        DataError: It cannot be read, or is no JSON object.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        return read_json(path, "the record of a run")
    except DataError as error:
        raise DataError(f"{error}; delete it if the record may be lost") from error


def update_record(folder: Path, news: Mapping[str, Any], *, anew: bool = False) -> None:
    """Adds to the record of a run, or begins it anew.

    Raises:
        DataError: It cannot be read or written.
    """
    write_json(folder / RECORD, {**({} if anew else read_record(folder)), **news})


def versions() -> dict[str, str | None]:
    """What a run runs with: versions, the source's git revision (None outside a checkout), the machine, the time."""
    return {
        "pd_edge": pd_edge.__version__,
        "git": git_revision(Path(__file__).parent),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def git_revision(folder: Path) -> str | None:
    """The git revision of a tracked folder, with ``-dirty`` after it where files differ from it; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", ".")  # fails where the folder merely lies inside somebody else's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None
