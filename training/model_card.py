"""What a trained model is and can do, measured: ``results.json`` and ``MODEL_CARD.md`` of a model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pd_edge.batch import BatchResult
from pd_edge.bundle import Bundle, Manifest, read_results
from pd_edge.config import load_config
from pd_edge.errors import DataError
from pd_edge.evaluate import Bootstrap, Evaluation, bootstrap
from pd_edge.files import write_bytes
from pd_edge.report import ap_json, ap_table, write_json
from pd_edge.tables import markdown_table
from pd_edge.training.config import TrainConfig
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.distillation import DistillConfig, read_run
from pd_edge.training.simulate import RECIPE, Recipe

RESAMPLES = 1000
Licence = Literal["Apache-2.0", "CC-BY-NC-SA-3.0"]
TERMS: dict[Licence, str] = {
    "Apache-2.0": "Apache-2.0. Trained on simulated scans alone.",
    "CC-BY-NC-SA-3.0": "CC BY-NC-SA 3.0, non-commercial use only: the weights were trained on KITTI frames (Geiger, "
    "Lenz and Urtasun, CVPR 2012), which are published under that licence.",
}


class Measured(NamedTuple):
    """The average precision of a model on one data set."""

    name: str
    """Name of the data set, as a heading."""
    key: Literal["real", "simulated"]
    evaluation: Evaluation
    intervals: Bootstrap


def measured(name: str, key: Literal["real", "simulated"], result: BatchResult) -> Measured:
    """Average precision of a run over a data set, with its intervals.

    Raises:
        DataError: A frame failed, or had no labels: every frame has to count.
    """
    evaluation = result.evaluation()
    if evaluation is None or result.failures or len(result.evaluated()) < len(result.frames):
        reason = result.failures[0].error if result.failures else "a frame has no labels, calibration or image size"
        raise DataError(f"{name}: a model card needs every frame evaluated, but {reason}")
    return Measured(name, key, evaluation, bootstrap(evaluation, RESAMPLES))


def write_model_card(bundle: Bundle, run: Path, results: Sequence[Measured]) -> Path:
    """Writes ``results.json`` and ``MODEL_CARD.md`` into a model folder.

    Args:
        bundle: The model folder.
        run: The training run it came from, which tells data and settings.
        results: What was measured; empty where nothing was.

    Returns:
        The card's path.

    Raises:
        ConfigError: The run's configuration cannot be read.
        DataError: A file cannot be written.
    """
    config = read_run(run)
    licence = licence_of(config)
    summary = dict(figure for each in results for figure in _figures(each)) | {"licence": licence}
    ap: dict[str, Any] = {each.key: ap_json(each.evaluation, each.intervals) for each in results}
    write_json(bundle.folder / "results.json", {"summary": summary, "training": _training(config), "ap": ap})
    path = bundle.folder / "MODEL_CARD.md"
    write_bytes(path, markdown(bundle.manifest, config, licence, results).encode())
    return path


def licence_of(config: TrainConfig) -> Licence:
    """The licence of weights: the project's where all that taught them is free, KITTI's otherwise.

    Simulated scans are free; a teacher is where its own model folder says so.
    """
    free = all((each.root / RECIPE).is_file() for each in config.data.sources)
    if isinstance(config, DistillConfig) and config.distillation.method != "none":
        free = free and read_results(config.teacher).get("summary", {}).get("licence") == "Apache-2.0"
    return "Apache-2.0" if free else "CC-BY-NC-SA-3.0"


def _figures(result: Measured) -> list[tuple[str, str]]:
    """The columns this data set adds to ``pd-edge models``: AP R40 in percent, moderate."""
    evaluation = result.evaluation
    if result.key == "simulated":
        return [("mAP 3D, simulated", f"{evaluation.mean('3d', 'moderate'):.1f}")]
    return [
        (f"Car {metric.upper()}, real", f"{evaluation.result('Car', metric, 'moderate').ap:.1f}")
        for metric in ("3d", "bev")
    ]


def _training(config: TrainConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "samples": config.samples,
        "batch_size": config.batch_size,
        "sources": [{"data": describe(each), "weight": each.weight} for each in config.data.sources],
    }
    if isinstance(config, DistillConfig):
        method = config.distillation.model_dump(mode="json")
        found |= {"teacher": config.teacher.name, "distillation": method}
    return found


def _teacher(config: TrainConfig) -> str:
    """Whom the model learnt from beside the labels, in words."""
    if not isinstance(config, DistillConfig):
        return "without a teacher"
    return f"beside its teacher {config.teacher.name} (method {config.distillation.method})"


def describe(source: SourceConfig) -> str:
    """One data source in words: the recipe of a simulated one, the list of frames of another."""
    recipe = source.root / RECIPE
    if not recipe.is_file():
        return f"KITTI {source.root.name} frames, {source.split or 'all'}"
    made = load_config(recipe, Recipe)
    return f"{made.frames} simulated frames, seed {made.seed}, generator {made.generator}"


def markdown(manifest: Manifest, config: TrainConfig, licence: Licence, results: Sequence[Measured]) -> str:
    """The model card."""
    weights = sum(source.weight for source in config.data.sources)
    what = (
        f"PointPillars for {', '.join(each.name for each in manifest.model.classes)}: "
        f"{manifest.parameters / 1e6:.2f} M parameters, {manifest.multiply_adds / 1e9:.1f} G multiply-adds a frame, "
        f"convolution weights stored as {manifest.weights}."
    )
    command = "distill" if isinstance(config, DistillConfig) else "train"
    how = (
        f"**Training.** {config.samples:,} samples ({config.samples // config.batch_size:,} steps of "
        f"{config.batch_size}), {_teacher(config)}, seed {config.seed}. A sample is drawn from"
    )
    lines = [
        f"# {manifest.name}",
        "",
        what,
        "",
        f"**Licence.** {TERMS[licence]}",
        "",
        how,
        "",
        *(f"- {describe(each)}: {each.weight / weights:.0%}" for each in config.data.sources),
        "",
        "Every sample is augmented; all settings stand in the training configuration. To train it again:",
        "",
        f"    pd-edge {command} training/configs/{manifest.name}.yaml --out runs/{manifest.name}",
        f"    pd-edge bundle runs/{manifest.name} models/{manifest.name}",
        "",
    ]
    for each in results:
        table = ap_table(each.evaluation, "r40", each.intervals)
        lines += [markdown_table(table._replace(title=f"{each.name}: {table.title}")), ""]
    return "\n".join(lines)
