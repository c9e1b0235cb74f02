"""Where a model's weights came from: ``train.yaml`` and ``run.json`` of its run, which go with it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from pd_edge.config import dump_config
from pd_edge.report import write_json
from pd_edge.training.checkpoint import CHECKPOINTS, RUN_CONFIG, find_weights, load_state
from pd_edge.training.config import TrainConfig
from pd_edge.training.distillation import DistillConfig, parse_run
from pd_edge.training.run_log import RECORD, read_record


class Seen(NamedTuple):
    """How far the training of some weights went."""

    samples: int
    processes: int


class Provenance(NamedTuple):
    """Where weights came from."""

    config: TrainConfig
    """The run's configuration; a :class:`DistillConfig` where there was a teacher."""
    record: dict[str, Any]
    """The run's record, with the samples that these weights saw."""


def provenance(path: Path) -> Provenance | None:
    """Where the weights that a path means came from; None where no run's configuration stands beside them.

    Args:
        path: As :func:`pd_edge.training.checkpoint.find_weights` takes it: run, checkpoint, model folder, weights file.

    Raises:
        ConfigError: The run's configuration cannot be read.
        DataError: The run's record cannot be read.
        EngineError: There are no weights, or their checkpoint is damaged.
    """
    folder = find_weights(path).parent
    run = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder
    if not (run / RUN_CONFIG).is_file():
        return None
    config, record = parse_run(run / RUN_CONFIG), read_record(run)
    if run != folder:
        state = load_state(folder)
        return Provenance(config, record | {"samples": state.samples, "processes": state.processes})
    if "samples" in record:
        return Provenance(config, record)
    seen = Seen(config.samples, _samples_per_step(run, config) // config.batch_size)
    return Provenance(config, record | seen._asdict())


def _samples_per_step(run: Path, config: TrainConfig) -> int:
    """Samples in a step of a finished run whose record does not tell: its log does; one process's where it is gone."""
    log = run / "train.log"
    told = re.findall(r" of (\d+) samples in ", log.read_text(encoding="utf-8")) if log.is_file() else []
    return int(told[-1]) if told else config.batch_size


def write_provenance(found: Provenance | None, folder: Path) -> None:
    """Writes ``train.yaml`` and ``run.json`` into a model folder, or removes what an earlier model left there.

    Absolute paths are cut to their last component: where data lay on a machine is nobody's business.

    Raises:
        DataError: A file cannot be written.
    """
    if found is None:
        for name in (RUN_CONFIG, RECORD):
            (folder / name).unlink(missing_ok=True)
        return
    dump_config(shared(found.config), folder / RUN_CONFIG)
    write_json(folder / RECORD, found.record)


def shared(config: TrainConfig) -> TrainConfig:
    """The configuration with paths as others may see them."""
    sources = tuple(
        each.model_copy(update={"root": shown(each.root), "sensor": _shown_profile(each.sensor)})
        for each in config.data.sources
    )
    paths: dict[str, Any] = {
        name: shown(path) for name in ("init", "teacher") if (path := getattr(config, name, None)) is not None
    }
    paths = {**paths, **_shared_unlabelled(config)}
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources}), **paths})


def _shared_unlabelled(config: TrainConfig) -> dict[str, Any]:
    """The sources without labels, where there are any, as :func:`shared` gives them."""
    if not isinstance(config, DistillConfig) or config.unlabelled is None:
        return {}
    sources = tuple(
        each.model_copy(update={"path": shown(each.path), "sensor": _shown_profile(each.sensor)})
        for each in config.unlabelled.sources
    )
    return {"unlabelled": config.unlabelled.model_copy(update={"sources": sources})}


def _shown_profile(sensor: str) -> str:
    return str(shown(Path(sensor))) if sensor else ""


def shown(path: Path) -> Path:
    """The path as others may see it: an absolute one is cut to its last component."""
    return Path(path.name) if path.is_absolute() else path
