"""What a trained model is and can do, measured: ``results.json`` and ``MODEL_CARD.md`` of a model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from pd_edge.batch import BatchResult
from pd_edge.bundle import Bundle, Manifest, ModelSummary, read_results
from pd_edge.config import GridConfig, load_config
from pd_edge.doctor_sources import KITTI_FOLDERS
from pd_edge.errors import ConfigError, DataError
from pd_edge.evaluate import Bootstrap, Evaluation, bootstrap
from pd_edge.files import write_bytes
from pd_edge.own_data import is_own_layout
from pd_edge.report import ap_json, ap_table, write_json
from pd_edge.sensors import KITTI
from pd_edge.tables import Table, markdown_table
from pd_edge.training.checkpoint import CHECKPOINTS, RUN_CONFIG
from pd_edge.training.config import TrainConfig
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.distillation import DistillConfig, parse_run
from pd_edge.training.loop import changed_fields
from pd_edge.training.provenance import Seen, provenance, shared, shown, write_provenance
from pd_edge.training.run_log import RECORD, read_record
from pd_edge.training.sim.scene import SimulateConfig
from pd_edge.training.simulate import RECIPE, Recipe
from pd_edge.training.unlabelled_config import UnlabelledSource

CONFIGS = Path(__file__).resolve().parent / "configs"
VAL_SET = Path(__file__).resolve().parent / "sim" / "val_set.yaml"
TITLES = {"pointpillars": "PointPillars", "second": "SECOND"}
"""The detectors' names as their papers have them."""
SPARSE = (
    " Multiply-adds and precision are those of the BEV part: the sparse layers come on top, with multiply-adds that "
    "depend on the cloud and weights stored as fp32."
)
"""What the figures of a detector with sparse layers leave out."""
RESAMPLES = 1000
Licence = Literal["Apache-2.0", "CC-BY-NC-SA-3.0", "of its data"]
TERMS: dict[Licence, str] = {
    "Apache-2.0": "Apache-2.0. Trained on simulated scans alone.",
    "CC-BY-NC-SA-3.0": "CC BY-NC-SA 3.0, non-commercial use only: {reason} KITTI frames (Geiger, Lenz and Urtasun, "
    "CVPR 2012), which are published under that licence.",
    "of its data": "That of the data that it was trained on, which its owner has to name.",
}


class Measured(NamedTuple):
    """The average precision of a model on one data set."""

    name: str
    """Name of the data set, as a heading."""
    key: Literal["real", "simulated"]
    evaluation: Evaluation
    intervals: Bootstrap
    root: Path | None = None
    """Folder of the data set."""
    runtime: str = "openvino"
    within_grid: bool = False
    """Whether objects beyond the model's grid counted neither way."""


def measured(
    name: str,
    key: Literal["real", "simulated"],
    result: BatchResult,
    root: Path | None = None,
    *,
    within_grid: bool = False,
) -> Measured:
    """Average precision of a run over a data set, with its intervals; ``root`` is the data set's folder.

    Raises:
        DataError: A frame failed, or had no labels: every frame has to count.
    """
    try:
        evaluation = result.complete_evaluation()
    except DataError as error:
        raise DataError(f"{name}: a model card needs every frame evaluated, but {error}") from error
    return Measured(name, key, evaluation, bootstrap(evaluation, RESAMPLES), root, result.runtime, within_grid)


def write_model_card(
    bundle: Bundle, run: Path, results: Sequence[Measured], beside: Sequence[ModelSummary] = ()
) -> Path:
    """Writes ``results.json`` and ``MODEL_CARD.md`` into a model folder, and where it came from if that is missing.

    Args:
        bundle: The model folder; where it tells how many samples it saw, that counts, not how far the run is now.
        run: The training run it came from, which tells data and settings.
        results: What was measured; empty where nothing was.
        beside: Models to compare with, such as the same without real frames, as they were measured.

    Returns:
        The card's path.

    Raises:
        ConfigError: The run's configuration is missing or cannot be read.
        DataError: A file cannot be read or written.
        EngineError: The run has no weights, or its newest checkpoint is damaged.
    """
    found = provenance(run)
    if found is None:
        raise ConfigError(f"{run / RUN_CONFIG}: missing; give the folder of the run that the model was trained in")
    config, record = found
    if (bundle.folder / RUN_CONFIG).is_file():
        record = record | read_record(bundle.folder)
    else:
        write_provenance(found, bundle.folder)
    seen = Seen(record["samples"], record["processes"])
    licence = licence_of(config)
    summary = dict(figure for each in results for figure in _figures(each)) | {"licence": licence}
    ap: dict[str, Any] = {each.key: ap_json(each.evaluation, each.intervals) for each in results}
    found_out = {"summary": summary, "training": _training(config, seen), "ap": ap}
    write_json(bundle.folder / "results.json", found_out)
    text = markdown(bundle.manifest, config, seen, results, [each.name for each in beside])
    if beside:
        text += "\n" + markdown_table(comparison([(bundle.name, found_out), *((m.name, m.results) for m in beside)]))
    path = bundle.folder / "MODEL_CARD.md"
    write_bytes(path, text.encode())
    return path


def comparison(models: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Models side by side: name and ``results.json`` of each; the first decides which figures are shown."""
    rows = [("trained on", *(_data_of(results) for _, results in models))]
    taught = [_teacher_of(results) for _, results in models]
    rows += [("taught by", *taught)] if any(taught) else []
    rows += [
        (figure, *(results.get("summary", {}).get(figure, "") for _, results in models))
        for figure in models[0][1]["summary"]
    ]
    return Table("Side by side: AP R40 [%], moderate", ("", *(name for name, _ in models)), rows, text_columns=99)


def _data_of(results: dict[str, Any]) -> str:
    """What a model was trained on, with what shares, from its ``results.json``."""
    sources = results.get("training", {}).get("sources", [])
    weight = sum(each["weight"] for each in sources)
    return "; ".join(f"{each['weight'] / weight:.0%} {each['data']}" for each in sources)


def _teacher_of(results: dict[str, Any]) -> str:
    """Who taught a model, and how, from its ``results.json``; empty where it had no teacher."""
    training = results.get("training", {})
    return f"{training['teacher']}, {training['distillation']['method']}" if "teacher" in training else ""


def licence_of(config: TrainConfig) -> Licence:
    """The licence of weights: KITTI's where it, or may be it, taught them; else the project's, or that of own data.

    Simulated scans are free; a teacher, and weights to start from, are where their own model folder says so.
    """
    if any(map(_kitti, _roots(config))) or not all(map(_free, _taught_by(config))):
        return "CC-BY-NC-SA-3.0"
    return "Apache-2.0" if all(map(_simulated, _roots(config))) else "of its data"


def _taught_by(config: TrainConfig) -> list[Path]:
    """Weights that left something of theirs in these; of a teacher, be it its boxes alone."""
    found = [config.init] if config.init is not None else []
    if isinstance(config, DistillConfig) and (config.distillation.method != "none" or config.has_unlabelled):
        found.append(config.teacher)
    return found


def _free(weights: Path) -> bool:
    folder = weights.parent if weights.is_file() else weights
    return bool(read_results(folder).get("summary", {}).get("licence") == "Apache-2.0")


def _roots(config: TrainConfig) -> list[Path]:
    """Where the data stands, with labels and without."""
    return [each.root for each in config.data.sources] + [each.path for each in _unlabelled(config)]


def _unlabelled(config: TrainConfig) -> tuple[UnlabelledSource, ...]:
    """The sources without labels."""
    if not isinstance(config, DistillConfig) or config.unlabelled is None:
        return ()
    return config.unlabelled.sources


def _simulated(root: Path) -> bool:
    return (root / RECIPE).is_file()


def _kitti(root: Path) -> bool:
    """Whether frames are, or may be, KITTI's: in its layout, or no longer here to be looked at."""
    in_layout = not root.exists() or any((root / folder).is_dir() for folder in KITTI_FOLDERS)
    return in_layout and not _simulated(root)


def _terms(config: TrainConfig) -> str:
    """The licence in words."""
    if not any(map(_kitti, _roots(config))):
        others = " and ".join(_name(path) for path in _taught_by(config) if not _free(path))
        reason = f"the weights learnt from {others}, which saw, or may have seen,"
    else:
        reason = "the weights were trained on"
    return TERMS[licence_of(config)].format(reason=reason)


def _figures(result: Measured) -> list[tuple[str, str]]:
    """The columns this data set adds to ``pd-edge models``: AP R40 in percent, moderate."""
    evaluation = result.evaluation
    where = " in grid" if result.within_grid else ""
    if result.key == "simulated":
        return [("mAP 3D, simulated", f"{evaluation.mean('3d', 'moderate'):.1f}{where}")]
    return [
        (f"Car {metric.upper()}, real", f"{evaluation.result('Car', metric, 'moderate').ap:.1f}{where}")
        for metric in ("3d", "bev")
    ]


def _training(config: TrainConfig, seen: Seen) -> dict[str, Any]:
    found: dict[str, Any] = {
        **seen._asdict(),
        "planned_samples": config.samples,
        "batch_size": config.batch_size,
        "sources": [{"data": text, "weight": weight} for text, weight in _sources(config)],
    }
    if config.init is not None:
        found["init"] = _name(config.init)
    if isinstance(config, DistillConfig):
        method = config.distillation.model_dump(mode="json")
        found |= {"teacher": _name(config.teacher), "distillation": method}
    return found


def _teacher(config: TrainConfig) -> str:
    """What the model learnt from beside the labels, in words."""
    start = f"starting from the weights of {_name(config.init)}, " if config.init is not None else ""
    if not isinstance(config, DistillConfig):
        return f"{start}without a teacher"
    return f"{start}beside its teacher {_name(config.teacher)} (method {config.distillation.method})"


def _name(weights: Path) -> str:
    """Name of a model, from the path of its folder, its run, a checkpoint of that, or the file in one of them."""
    folder = weights.absolute()
    folder = folder.parent if folder.suffix == ".safetensors" else folder
    return folder.parent.parent.name if folder.parent.name == CHECKPOINTS else folder.name


def _sources(config: TrainConfig) -> list[tuple[str, float]]:
    """All sources in words, with their weights."""
    without = [
        (f"clouds of {each.path.stem}, the teacher's boxes as labels", each.weight) for each in _unlabelled(config)
    ]
    return [(describe(each), each.weight) for each in config.data.sources] + without


def describe(source: SourceConfig) -> str:
    """One data source in words: the recipe of a simulated one, the list of frames of another."""
    recipe = source.root / RECIPE
    if is_own_layout(source.root):
        return f"own frames of {source.root.name}, {source.split or 'all'}"
    if not recipe.is_file():
        return f"KITTI {source.root.name} frames, {source.split or 'all'}"
    made = load_config(recipe, Recipe)
    sensor = made.config.sensor.profile
    of = "" if sensor == KITTI else f" of a {sensor.name} at {sensor.height:g} m"
    return f"{made.frames} simulated frames{of}, seed {made.seed}, generator {made.generator}"


def markdown(
    manifest: Manifest, config: TrainConfig, seen: Seen, results: Sequence[Measured], beside: Sequence[str] = ()
) -> str:
    """The model card; ``beside`` are the names of the models that it is going to be compared with."""
    weights = sum(weight for _, weight in _sources(config))
    what = (
        f"{TITLES[manifest.model.detector]} for {', '.join(each.name for each in manifest.model.classes)}: "
        f"{manifest.parameters / 1e6:.2f} M parameters, {manifest.multiply_adds / 1e9:.1f} G multiply-adds a frame, "
        f"convolution weights stored as {manifest.weights}.{SPARSE if manifest.model.detector == 'second' else ''}"
    )
    papers = (
        f"Every sample is augmented; all settings stand in `{RUN_CONFIG}` beside this card, versions and machine in "
        f"`{RECORD}`. To make it again:"
    )
    lines = [
        f"# {manifest.name}",
        "",
        what,
        "",
        f"**Licence.** {_terms(config)}",
        "",
        f"**Training.** {_effort(config, seen)}, {_teacher(config)}, seed {config.seed}. A sample is drawn from",
        "",
        *(f"- {text}: {weight / weights:.0%}" for text, weight in _sources(config)),
        "",
        papers,
        "",
        *_commands(manifest, config, seen, results, beside),
    ]
    for each in results:
        table = ap_table(each.evaluation, "r40", each.intervals)
        if each.within_grid:
            table = table._replace(notes=[*table.notes, _reach(manifest.model.grid)])
        lines += [markdown_table(table._replace(title=f"{each.name}: {table.title}")), ""]
    return "\n".join(lines)


def _reach(grid: GridConfig) -> str:
    return (
        f"Objects beyond the model's grid (x {grid.x_min:g} .. {grid.x_max:g} m, y {grid.y_min:g} .. {grid.y_max:g} m) "
        "count neither way."
    )


def _effort(config: TrainConfig, seen: Seen) -> str:
    """What was seen, in samples and steps."""
    steps = seen.samples // (config.batch_size * seen.processes)
    share = f"{config.batch_size} on each of {seen.processes} processes" if seen.processes > 1 else config.batch_size
    planned = f" of the {config.samples:,} planned" if seen.samples < config.samples else ""
    return f"{seen.samples:,}{planned} samples ({steps:,} steps of {share})"


def _commands(
    manifest: Manifest, config: TrainConfig, seen: Seen, results: Sequence[Measured], beside: Sequence[str]
) -> list[str]:
    """Lines of the card that make the model and the card again."""
    name = manifest.name
    roots = _roots(config) + [each.root for each in results if each.root is not None]
    recipes = {shown(root): load_config(root / RECIPE, Recipe) for root in roots if (root / RECIPE).is_file()}
    own = {root: recipe.config for root, recipe in recipes.items() if _simulation(recipe.config) is None}
    commands = [_simulate(root, recipe) for root, recipe in recipes.items()]
    commands += [
        _train(name, config, seen),
        f"pd-edge bundle runs/{name} models/{name}" + ("" if manifest.weights == "fp16" else " --weights fp32"),
        _card(name, results, beside),
    ]
    lines = [*(f"    {command}" for command in commands), ""]
    for root, settings in own.items():
        text = yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
        lines += [f"`{root.name}.yaml` holds", "", *(f"    {line}" for line in text.splitlines()), ""]
    return lines


def _simulate(root: Path, recipe: Recipe) -> str:
    file = _simulation(recipe.config)
    chosen = f" --config {root.name}.yaml" if file is None else f" --config {file}" if file else ""
    return f"pd-edge simulate {root} --frames {recipe.frames} --seed {recipe.seed}{chosen}"


def _simulation(config: SimulateConfig) -> str | None:
    """The package's file of a simulation's settings; nothing for the defaults, None where there is no such file."""
    if config == SimulateConfig():
        return ""
    return "training/sim/val_set.yaml" if config == load_config(VAL_SET, SimulateConfig) else None


def _train(name: str, config: TrainConfig, seen: Seen) -> str:
    launch = f"torchrun --nproc_per_node={seen.processes} -m pd_edge" if seen.processes > 1 else "pd-edge"
    file = f"training/configs/{name}.yaml" if _is_shipped(name, config) else f"models/{name}/{RUN_CONFIG}"
    command, teacher = "train", ""
    if isinstance(config, DistillConfig):
        command, teacher = "distill", f" --teacher {shown(config.teacher)}"
    stop = f" --stop-after {seen.samples}" if seen.samples < config.samples else ""
    return f"{launch} {command} {file}{teacher} --out runs/{name}{stop}"


def _is_shipped(name: str, config: TrainConfig) -> bool:
    """Whether the package's configuration of this name is the run's."""
    path = CONFIGS / f"{name}.yaml"
    shipped = parse_run(path).model_dump(mode="json") if path.is_file() else {}
    return not changed_fields(shared(config).model_dump(mode="json"), shipped)


def _card(name: str, results: Sequence[Measured], beside: Sequence[str]) -> str:
    options = "".join(f" --{each.key} {shown(each.root)}" for each in results if each.root is not None)
    runtimes = {each.runtime for each in results} - {"openvino"}
    options += "".join(f" --runtime {runtime}" for runtime in sorted(runtimes))
    options += " --within-grid" if any(each.within_grid for each in results) else ""
    options += "".join(f" --beside {other}" for other in beside)
    return f"pd-edge card models/{name} --run runs/{name}{options}"
