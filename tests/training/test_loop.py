"""Training end to end on small folders in KITTI's layout: learning, resuming, joining processes, failing clearly."""

import errno
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor

from pd_edge.batch import detect_batch
from pd_edge.config import GridConfig, PointPillarsConfig, dump_config
from pd_edge.detector import load
from pd_edge.engines.onnx_export import export_bundle
from pd_edge.errors import ConfigError, DataError, EngineError, TrainingError
from pd_edge.kitti import Calibration, ObjectDataset, boxes_to_labels, write_object_frame
from pd_edge.training.batches import Batch
from pd_edge.training.checkpoint import (
    Checkpoint,
    find_weights,
    list_checkpoints,
    load_checkpoint,
    load_model,
    load_tensors,
    load_weights,
    save_tensors,
)
from pd_edge.training.config import CheckpointConfig, OptimiserConfig, TrainConfig
from pd_edge.training.data_config import AugmentConfig, DataConfig, SourceConfig
from pd_edge.training.learner import Detecting
from pd_edge.training.loop import RESUMABLE, WeightAverage, one_cycle, train
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.run_log import git_revision, read_record
from pd_edge.training.scene import Scene

FRAMES = 6
MODEL = PointPillarsConfig(
    grid=GridConfig(x_min=0, x_max=20.48, y_min=-10.24, y_max=10.24),
    pillar_channels=8,
    backbone_channels=(8, 16, 16),
    backbone_layers=(1, 1, 1),
    neck_channels=8,
)
QUIET = AugmentConfig(
    sampled_objects=0, beam_dropout=0, intensity_jitter=0, object_shift=0, object_turn=0, flip=0, rotation=0, scaling=0
)
CALIBRATION = Calibration(
    P2=np.array([[400.0, 0, 800, 0], [0, 400, 400, 0], [0, 0, 1, 0]]),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
    image_size=(1600, 800),
)
RUN = """
import sys
from pathlib import Path
import torch
from pd_edge.config import load_config
from pd_edge.training.config import TrainConfig
from pd_edge.training.loop import train
torch.set_num_threads(1)
train(load_config(Path(sys.argv[1]), TrainConfig), Path(sys.argv[2]))
"""
TOGETHER = """
import os
import sys
from pathlib import Path
import torch
from pd_edge.config import load_config
from pd_edge.training.checkpoint import tensors_sha256
from pd_edge.training.config import TrainConfig
from pd_edge.training.learner import Detecting
from pd_edge.training.loop import train
torch.set_num_threads(1)
out = Path(sys.argv[2])
kept = []
def learner(model, config):
    kept.append(model)
    return Detecting(model, config)
train(load_config(Path(sys.argv[1]), TrainConfig), out, learner=learner, stop_after=int(sys.argv[3]))
(out / ("weights-" + os.environ["RANK"])).write_text(tensors_sha256(dict(kept[0].named_parameters())))
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The order of sums, and so the last bit of a result, depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames with two cars, a pedestrian and a cyclist each, as points on the faces of their boxes, over a ground."""
    root = tmp_path_factory.mktemp("kitti")
    for number in range(FRAMES):
        rng = np.random.default_rng(number)
        boxes = np.array(
            [
                [rng.uniform(6, 10), rng.uniform(-4, -2), -1.0, 3.9, 1.6, 1.56, rng.uniform(-0.3, 0.3)],
                [rng.uniform(13, 17), rng.uniform(0, 3), -1.0, 3.9, 1.6, 1.56, math.pi / 2],
                [rng.uniform(6, 9), rng.uniform(2, 4), -0.9, 0.8, 0.6, 1.73, 0.0],
                [rng.uniform(10, 12), rng.uniform(-1, 1), -0.9, 1.76, 0.6, 1.73, 0.1],
            ]
        )
        ground = rng.uniform((0, -10, -1.8, 0), (20, 10, -1.75, 0.2), (1500, 4))
        points = np.vstack([ground, *(box_points(box, rng) for box in boxes)]).astype(np.float32)
        labels = boxes_to_labels(boxes, ["Car", "Car", "Pedestrian", "Cyclist"], CALIBRATION, occlusion=[0] * 4)
        write_object_frame(root, f"{number:06d}", points, CALIBRATION, labels)
    return root


def box_points(box: Any, rng: np.random.Generator) -> Any:
    local = rng.uniform(-0.5, 0.5, (150, 3))
    face = rng.integers(0, 3, 150)
    local[np.arange(150), face] = np.sign(local[np.arange(150), face]) / 2
    local *= box[3:6]
    cos, sin = math.cos(box[6]), math.sin(box[6])
    turned = np.column_stack(
        [local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]]
    )
    return np.column_stack([turned + box[:3], rng.uniform(0.5, 0.9, 150)])


def configure(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": DataConfig(sources=(SourceConfig(root=folder),)),
        "augment": QUIET,
        "samples": 24,
        "batch_size": 2,
        "workers": 0,
        "log_every": 1,
        "checkpoint": CheckpointConfig(every_steps=4),
    }
    return TrainConfig(**{**settings, **changes})


def curve(run: Path) -> dict[int, float]:
    """The logged total loss by step, since the run last started."""
    newest = max((run / "curves").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    events = EventAccumulator(str(newest))
    events.Reload()
    return {each.step: each.value for each in events.Scalars("total")}


def equal_weights(first: Path, second: Path) -> bool:
    one, two = load_tensors(first), load_tensors(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_learns_to_detect(folder: Path, tmp_path: Path) -> None:
    recipe = OptimiserConfig(start_lr=2e-3, peak_lr=1e-2)
    config = configure(folder, samples=720, batch_size=3, log_every=20, optimiser=recipe, ema_decay=0.9)
    weights = train(config, tmp_path / "run")
    losses = curve(tmp_path / "run")
    assert weights == tmp_path / "run" / "model.safetensors"
    assert losses[160] < losses[20] / 3
    export_bundle(*load_model(tmp_path / "run"), tmp_path / "model")
    table = detect_batch(load(tmp_path / "model", "torch"), ObjectDataset(folder), crop=True).evaluation()
    assert table is not None
    cars = table.result("Car", "bev", "moderate")
    assert cars.objects == 2 * FRAMES
    assert cars.ap > 0.7 * cars.ceiling


def test_run_folder_tells_what_was_run(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, samples=8)
    train(config, tmp_path / "run")
    versions = json.loads((tmp_path / "run" / "run.json").read_text())
    assert versions["torch"] == torch.__version__
    assert {"pd_edge", "git", "python", "device", "started"} <= versions.keys()
    assert (versions["samples"], versions["processes"]) == (8, 1)
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert len([line for line in lines if "samples/s" in line and "left" in line and "lr" in line]) == 4
    model, detector = load_model(tmp_path / "run")
    assert detector.model == MODEL
    assert isinstance(model, PointPillars)
    assert not model.training


def test_stopping_workers_and_resuming_do_not_change_the_result(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, augment=AugmentConfig(sampled_objects=2))
    whole = train(config, tmp_path / "whole")
    stopped = train(config, tmp_path / "parts", stop_after=10)
    assert stopped == list_checkpoints(tmp_path / "parts")[-1]
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    parts = train(config.model_copy(update={"workers": 1}), tmp_path / "parts")
    assert equal_weights(whole, parts)
    resumed = curve(tmp_path / "parts")
    assert sorted(resumed) == list(range(6, 13))
    assert resumed.items() <= curve(tmp_path / "whole").items()


def test_killed_run_goes_on_as_if_nothing_had_happened(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, samples=400, checkpoint=CheckpointConfig(every_steps=5))
    dump_config(config, tmp_path / "config.yaml")
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "config.yaml", killed])
    deadline = time.monotonic() + 600
    while len(list_checkpoints(killed)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    resumed_at = int(list_checkpoints(killed)[-1].name)
    weights = train(config, killed, stop_after=resumed_at + 10)
    whole = train(config, tmp_path / "whole", stop_after=resumed_at + 10)
    first, second = (load_checkpoint(each) for each in (weights, whole))
    assert states_equal(first, second)
    before, after = curve(tmp_path / "whole"), curve(killed)
    assert sorted(after) == list(range(resumed_at // 2 + 1, resumed_at // 2 + 6))
    assert {step: before[step] for step in after} == after


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_the_steps_it_did(folder: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    config = configure(folder, samples=4000, workers=1, checkpoint=CheckpointConfig(every_steps=10**6))
    dump_config(config, tmp_path / "config.yaml")
    command = [sys.executable, "-m", "pd_edge", "train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    # A group of its own, as a terminal gives: Ctrl-C reaches the data loading processes too.
    # What runs the tests in the background may have them ignore Ctrl-C, which the run would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "train.log"
    deadline = time.monotonic() + 600
    while not (log.exists() and "step 3/" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=600)
    assert process.returncode == code, told
    assert "Traceback" not in told
    (kept,) = list_checkpoints(tmp_path / "run")
    assert int(kept.name) >= 6
    assert f"stopped: {'KeyboardInterrupt' if number == signal.SIGINT else code}" in log.read_text()
    train(config, tmp_path / "run", stop_after=int(kept.name) + 2)
    assert int(list_checkpoints(tmp_path / "run")[-1].name) == int(kept.name) + 2


def states_equal(first: Checkpoint, second: Checkpoint) -> bool:
    pairs = ((first.model, second.model), (first.average, second.average), (first.optimiser, second.optimiser))
    return all(
        one is not None
        and two is not None
        and one.keys() == two.keys()
        and all(torch.equal(one[n], two[n]) for n in one)
        for one, two in pairs
    )


def test_two_processes_train_together(folder: Path, tmp_path: Path) -> None:
    """They see other frames; only averaged gradients leave them with the same weights."""
    config = configure(folder, samples=16, augment=AugmentConfig(sampled_objects=1))
    dump_config(config, tmp_path / "config.yaml")
    (tmp_path / "together.py").write_text(TOGETHER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    on_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    for run, stop_after in (("run", 16), ("parts", 8), ("parts", 16)):
        command = [*launch, str(tmp_path / "together.py"), str(tmp_path / "config.yaml"), str(tmp_path / run)]
        answer = subprocess.run(
            [*command, str(stop_after)], capture_output=True, text=True, timeout=300, check=False, env=on_cpu
        )
        assert answer.returncode == 0, answer.stderr
        assert (tmp_path / run / "weights-0").read_text() == (tmp_path / run / "weights-1").read_text()
    assert "step 4/4 samples 16" in (tmp_path / "run" / "train.log").read_text()
    assert sorted(curve(tmp_path / "run")) == [1, 2, 3, 4]
    state = load_checkpoint(list_checkpoints(tmp_path / "run")[-1]).state
    assert (state.samples, state.processes) == (16, 2)
    record = read_record(tmp_path / "run")
    assert (record["samples"], record["processes"]) == (16, 2)
    assert equal_weights(tmp_path / "run" / "model.safetensors", tmp_path / "parts" / "model.safetensors")


def test_non_finite_loss_names_step_and_parts_and_keeps_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    recipe = OptimiserConfig(start_lr=1e25, peak_lr=1e30)
    config = configure(folder, optimiser=recipe, checkpoint=CheckpointConfig(every_steps=1))
    with pytest.raises(TrainingError, match=r"step \d+: the \w+ is not finite \(.*classes.*boxes.*directions") as error:
        train(config, tmp_path / "run")
    kept = list_checkpoints(tmp_path / "run")[-1]
    assert str(kept) in str(error.value)
    assert "stopped: step" in (tmp_path / "run" / "train.log").read_text()


def test_keeps_the_newest_checkpoints_and_ignores_unfinished_ones(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, checkpoint=CheckpointConfig(every_steps=1, keep=2))
    (tmp_path / "run" / "checkpoints" / ".partial-0000000099").mkdir(parents=True)
    train(config, tmp_path / "run", stop_after=10)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["0000000008", "0000000010"]


def test_checkpoints_by_the_clock(folder: Path, tmp_path: Path) -> None:
    often = CheckpointConfig(every_steps=1000, every_minutes=1e-9, keep=9)
    train(configure(folder, checkpoint=often), tmp_path / "run", stop_after=6)
    assert [int(path.name) for path in list_checkpoints(tmp_path / "run")] == [2, 4, 6]


@pytest.fixture(scope="module")
def stopped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    train(configure(folder), run, stop_after=4)
    return run


def changed_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_tensors(path)
    change(tensors)
    save_tensors(tensors, path)


def drop_last(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[max(tensors)]


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "model cut short": ("model.safetensors", lambda path: path.write_bytes(b"short"), "cannot be read"),
    "model gone": ("model.safetensors", Path.unlink, "cannot be read"),
    "weight gone": ("model.safetensors", lambda path: changed_tensors(path, drop_last), r"pillar_net\S+ is missing"),
    "average gone": ("average.safetensors", Path.unlink, "is missing"),
    "average of another": (
        "average.safetensors",
        lambda path: changed_tensors(path, lambda tensors: tensors.update(more=torch.zeros(1))),
        "more belongs to no weight",
    ),
    "optimiser gone": ("optimiser.safetensors", Path.unlink, "cannot be read"),
    "optimiser of another": (
        "optimiser.safetensors",
        lambda path: shutil.copy(path.with_name("model.safetensors"), path),
        r"is missing \(and",
    ),
    "moment of another": (
        "optimiser.safetensors",
        lambda path: changed_tensors(path, lambda tensors: tensors.update({"gone.weight/step": torch.zeros(())})),
        r"gone\.weight/step belongs to no weight",
    ),
    "moment gone": (
        "optimiser.safetensors",
        lambda path: changed_tensors(path, lambda tensors: tensors.pop("model.head.weight/exp_avg")),
        r"model\.head\.weight/exp_avg is missing",
    ),
    "random state gone": (
        "optimiser.safetensors",
        lambda path: changed_tensors(path, lambda tensors: tensors.pop("torch.random")),
        r"torch\.random is missing",
    ),
    "state cut short": ("state.json", lambda path: path.write_text("{"), "not valid JSON"),
    "state empty": ("state.json", lambda path: path.write_text("{}"), "samples: Field required"),
    "state a list": ("state.json", lambda path: path.write_text("[]"), "expected the state of a run, a JSON object"),
    "state of bytes": ("state.json", lambda path: path.write_bytes(b"\xff"), "is not text"),
    "state gone": ("state.json", Path.unlink, "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_named_with_the_way_out(damage: str, folder: Path, stopped: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    (newest,) = list_checkpoints(run)
    name, change, reason = DAMAGE[damage]
    change(newest / name)
    way_out = re.escape(f"delete the folder {newest} to resume from the checkpoint before it")
    with pytest.raises(EngineError, match=rf"{re.escape(str(newest / name))}\b[^\n]*{reason}[^\n]*; {way_out}$"):
        train(configure(folder), run)


@pytest.mark.parametrize("out", ["c.npy", "c.npy/run"])
def test_a_run_folder_that_cannot_be_is_one_clear_error(folder: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "c.npy").write_bytes(b"cloud")
    with pytest.raises(DataError, match=r"cannot be a run folder \([^)]+\); give a folder you may write to"):
        train(configure(folder), tmp_path / out)
    assert (tmp_path / "c.npy").read_bytes() == b"cloud"


def test_full_disk_leaves_the_weights_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors({"weight": torch.ones(2)}, path)

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be written \(No space left"):
        save_tensors({"weight": torch.zeros(2)}, path)
    assert load_tensors(path)["weight"].tolist() == [1, 1]
    assert list(tmp_path.iterdir()) == [path]


def test_another_configuration_does_not_resume(folder: Path, tmp_path: Path) -> None:
    config = configure(folder)
    train(config, tmp_path / "run", stop_after=4)
    assert "samples" not in read_record(tmp_path / "run"), "the run has not ended"
    with pytest.raises(ConfigError, match="another samples, seed"):
        train(config.model_copy(update={"samples": 100, "seed": 3}), tmp_path / "run")


def test_starts_from_other_weights(folder: Path, tmp_path: Path) -> None:
    weights = train(configure(folder, samples=4), tmp_path / "first")
    slow = OptimiserConfig(start_lr=1e-12, peak_lr=1e-12, end_lr=0)
    tuned = train(
        configure(folder, samples=2, init=tmp_path / "first", optimiser=slow, ema_decay=0), tmp_path / "tuned"
    )
    before, after = load_tensors(weights), load_tensors(tuned)
    torch.testing.assert_close(after["head.weight"], before["head.weight"])
    other = configure(folder, samples=2, init=weights, model=MODEL.model_copy(update={"pillar_channels": 16}))
    with pytest.raises(
        EngineError, match=r"pillar_net\.linear\.weight has shape \(8, 10\), the model needs \(16, 10\)"
    ):
        train(other, tmp_path / "other")


def test_weights_are_found_or_missed_clearly(folder: Path, tmp_path: Path) -> None:
    train(configure(folder), tmp_path / "run", stop_after=4)
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert find_weights(tmp_path / "run") == newest / "average.safetensors"
    with pytest.raises(EngineError, match="no weights there"):
        find_weights(tmp_path / "nothing")
    (tmp_path / "alone").mkdir()
    shutil.copy(newest / "model.safetensors", tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"config\.yaml: missing"):
        load_model(tmp_path / "alone")
    with pytest.raises(EngineError, match=r"weight is missing \(and 63 more\)"):
        load_weights(torch.nn.Linear(1, 1), newest)


class FarScenes:
    """Scenes whose points are all off the grid."""

    def scene(self, sample_number: int) -> Scene:
        points = np.full((10, 4), 500 + sample_number, np.float32)
        return Scene(points, np.zeros((0, 7), np.float32), np.zeros(0, np.int64))


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_without_points_is_one_clear_error(folder: Path, tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match=r"^samples 0 \.\. 1: 0 points or voxels inside the grid[^\n]*$"):
        train(configure(folder, workers=workers), tmp_path / "run", scenes=FarScenes())


class Failing(Detecting):
    """A learner with a defect."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError(f"no loss of {batch.inputs.size} frames")


def test_a_defect_leaves_no_worker_behind(folder: Path, tmp_path: Path) -> None:
    """One that outlives signals would keep the process from ending for good."""
    with pytest.raises(RuntimeError, match="no loss of 2 frames") as error:
        train(configure(folder, workers=1), tmp_path / "run", learner=Failing)
    assert error.traceback  # as long as somebody looks at it, the frames of the run live
    assert not multiprocessing.active_children()


def test_cycle_starts_peaks_and_ends_as_configured() -> None:
    recipe = OptimiserConfig(start_lr=1e-3, peak_lr=1e-2, end_lr=1e-7, rise=0.4)
    assert one_cycle(recipe, 0) == pytest.approx((1e-3, 0.95))
    assert one_cycle(recipe, 0.4) == pytest.approx((1e-2, 0.85))
    assert one_cycle(recipe, 1) == pytest.approx((1e-7, 0.95))


@given(first=st.floats(0, 1), second=st.floats(0, 1))
def test_cycle_rises_then_falls(first: float, second: float) -> None:
    recipe = OptimiserConfig()
    first, second = sorted((first, second))
    if second <= recipe.rise:
        assert one_cycle(recipe, first)[0] <= one_cycle(recipe, second)[0] + 1e-15
    if first >= recipe.rise:
        assert one_cycle(recipe, first)[0] >= one_cycle(recipe, second)[0] - 1e-15


def test_average_follows_the_weights() -> None:
    model = torch.nn.BatchNorm1d(1)
    average = WeightAverage(model, decay=0.5)
    torch.nn.init.constant_(model.weight, 3.0)
    assert model.num_batches_tracked is not None
    model.num_batches_tracked.add_(7)
    average.update(model)  # decay (1 + 0) / (10 + 0)
    assert average.weights["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    assert average.weights["num_batches_tracked"].item() == 7
    for _ in range(60):
        average.update(model)
    assert average.weights["weight"].item() == pytest.approx(3.0)


def test_git_revision_only_of_tracked_folders(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "code.py").write_text("")
    assert git_revision(tmp_path / "lib") is None
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-qm", "first"], check=True)
    assert len(git_revision(tmp_path / "lib") or "") == 40


def fields_of(config: BaseModel) -> set[tuple[str, str]]:
    """All (class, field) pairs of a configuration and of those inside it."""
    found: set[tuple[str, str]] = set()
    for name in type(config).model_fields:
        found.add((type(config).__name__, name))
        value = config.__dict__[name]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
        for part in parts:
            found |= fields_of(part) if isinstance(part, BaseModel) else set()
    return found


def test_every_field_is_read(folder: Path, tmp_path: Path, fields_read: set[tuple[str, str]]) -> None:
    """Trains with every change of the scene switched on, and notes each attribute that is asked for."""

    class Extended(TrainConfig):
        nobody_reads_me: int = 0

    base = configure(folder, samples=8, augment=AugmentConfig(translation=0.1))
    config = Extended.model_validate(base.model_dump())
    expected = fields_of(config)
    fields_read.clear()
    train(config, tmp_path / "run")
    seen = set(fields_read)
    unread = {(owner, name) for owner, name in expected - seen if owner != "Extended" or name == "nobody_reads_me"}
    read_by_train = {name for owner, name in seen if owner in {"Extended", "TrainConfig"}}
    assert unread == {("Extended", "nobody_reads_me")}
    assert set(TrainConfig.model_fields) - read_by_train == RESUMABLE - read_by_train == set()
