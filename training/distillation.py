"""Distilling a student from a teacher: the one table of methods, the run's configuration, and the run."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pd_edge.bundle import find_model
from pd_edge.config import ModelConfig, SecondConfig, parse_config, read_yaml
from pd_edge.errors import ConfigError
from pd_edge.training.batches import Scenes
from pd_edge.training.checkpoint import load_model, tensors_sha256
from pd_edge.training.config import TrainConfig
from pd_edge.training.data import MoreScenes, training_dataset
from pd_edge.training.data_config import DataConfig
from pd_edge.training.distill import PointDistiller, PointDistillerConfig
from pd_edge.training.learner import Distilling, Teacher
from pd_edge.training.loop import train
from pd_edge.training.method import Method, MethodConfig
from pd_edge.training.network import Network, channels_last, fold_norms
from pd_edge.training.networks import build_network
from pd_edge.training.rivals.attention import AttentionTransfer, AttentionTransferConfig
from pd_edge.training.rivals.contrastive import Contrastive, ContrastiveConfig
from pd_edge.training.rivals.fitnets import FitNets, FitNetsConfig
from pd_edge.training.rivals.guided_init import GuidedInit, GuidedInitConfig
from pd_edge.training.rivals.label_kd import LabelKd, LabelKdConfig
from pd_edge.training.rivals.none import NoMethod, NoMethodConfig
from pd_edge.training.rivals.overhaul import Overhaul, OverhaulConfig
from pd_edge.training.rivals.pp_logit import PpLogit, PpLogitConfig
from pd_edge.training.rivals.rdd import RDD, RDDConfig
from pd_edge.training.rivals.se_ssd import SeSsd, SeSsdConfig
from pd_edge.training.rivals.similarity import Similarity, SimilarityConfig
from pd_edge.training.rivals.zhang_ma import ZhangMa, ZhangMaConfig
from pd_edge.training.unlabelled import Advance, describe_scenes, pseudo_scenes
from pd_edge.training.unlabelled_config import UnlabelledConfig

METHODS: dict[type[MethodConfig], type[Method]] = {
    NoMethodConfig: NoMethod,
    PointDistillerConfig: PointDistiller,
    FitNetsConfig: FitNets,
    AttentionTransferConfig: AttentionTransfer,
    SeSsdConfig: SeSsd,
    SimilarityConfig: Similarity,
    ContrastiveConfig: Contrastive,
    OverhaulConfig: Overhaul,
    ZhangMaConfig: ZhangMa,
    PpLogitConfig: PpLogit,
    LabelKdConfig: LabelKd,
    GuidedInitConfig: GuidedInit,
    RDDConfig: RDD,
}
"""Which module a method's settings belong to. Each module names its source."""

MethodSettings = Annotated[
    NoMethodConfig
    | PointDistillerConfig
    | FitNetsConfig
    | AttentionTransferConfig
    | SeSsdConfig
    | SimilarityConfig
    | ContrastiveConfig
    | OverhaulConfig
    | ZhangMaConfig
    | PpLogitConfig
    | LabelKdConfig
    | GuidedInitConfig
    | RDDConfig,
    Field(discriminator="method"),
]
"""Settings of any method; their field ``method`` tells which."""

EDGES = ("grid.x_min", "grid.x_max", "grid.y_min", "grid.y_max")
"""Of the ground that anchors are spread over."""


class DistillConfig(TrainConfig):
    """A training run beside a teacher."""

    teacher: Path = Field(description="The teacher: a model folder, run, checkpoint or .safetensors file.")
    distillation: MethodSettings = Field(
        PointDistillerConfig(), description="The method and its settings; `method` names it."
    )
    data: DataConfig = DataConfig()
    unlabelled: UnlabelledConfig | None = Field(None, description="Clouds without labels to learn from.")

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are clouds without labels to learn from."""
        return self.unlabelled is not None

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves ``unlabelled`` out where there is nothing, so that runs from before it existed go on."""
        data: dict[str, Any] = dump(self)
        if self.unlabelled is None:
            data.pop("unlabelled", None)
        return data


def method_names() -> list[str]:
    """The methods that ``distillation.method`` may name."""
    return [kind.model_fields["method"].default for kind in METHODS]


def read_config(
    path: Path, teacher: Path | None, method: str | None, unlabelled: Mapping[str, Any] | None = None
) -> DistillConfig:
    """Reads a distillation's configuration, or completes a plain training configuration to one.

    Args:
        path: YAML file with the fields of :class:`DistillConfig`, or of ``TrainConfig`` alone.
        teacher: Takes the place of the file's ``teacher``; a name that is no path is looked up among shipped models.
        method: Takes the place of the file's ``distillation``, unless that names the same method.
        unlabelled: Fields that take the place of those in the file's ``unlabelled``.

    Raises:
        ConfigError: The file cannot be read or is wrong, the method is unknown, or there is no teacher.
    """
    if method is not None and method not in method_names():
        raise ConfigError(f"method {method!r} is unknown; use one of {', '.join(method_names())}")
    data = dict(read_yaml(path))
    if teacher is not None:
        data["teacher"] = str(teacher if teacher.exists() else find_model(str(teacher)))
    if method is not None and data.get("distillation", {}).get("method") != method:
        data["distillation"] = {"method": method}
    if unlabelled:
        data["unlabelled"] = {**(data.get("unlabelled") or {}), **unlabelled}
        if "sources" not in data["unlabelled"]:
            given = ", ".join(f"{name} {value}" for name, value in unlabelled.items())
            raise ConfigError(f"{path}: {given} is for clouds without labels, and names none; add --unlabelled BAG")
    if "teacher" not in data:
        raise ConfigError(f"{path}: names no teacher; add --teacher with a model folder, run or weights file")
    return parse_config(data, DistillConfig, str(path))


def parse_run(path: Path) -> TrainConfig:
    """The configuration in a YAML file: a :class:`DistillConfig` where it names a teacher.

    Raises:
        ConfigError: It cannot be read.
    """
    data = read_yaml(path)
    return parse_config(data, DistillConfig if "teacher" in data else TrainConfig, str(path))


def make_method(settings: MethodConfig, teacher: ModelConfig, student: ModelConfig) -> Method:
    """The module of a method's settings, for these two sizes."""
    # Every method's constructor takes these three; the table pairs each with its own settings.
    return METHODS[type(settings)](settings, teacher, student)


def distil(
    config: DistillConfig,
    out: Path,
    *,
    scenes: Scenes | None = None,
    cache: Path | None = None,
    stop_after: int | None = None,
    advance: Advance | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Trains a student beside its teacher, or goes on where the run in ``out`` stopped.

    Further arguments, result and errors are those of :func:`pd_edge.training.loop.train`. The student's file holds
    nothing of its teacher, nor of the method.

    Args:
        config: The run's configuration.
        out: Run folder; made where missing.
        scenes: Training scenes; those of ``config.data`` and ``config.unlabelled`` by default.
        cache: Folder of the object bank and of the teacher's boxes, shared by runs; ``cache`` beside ``out`` by
            default.
        stop_after: Stop, with a checkpoint, once this many samples are seen.
        advance: Told about every cloud without labels that the teacher looked at, and how many there are.
        tell: Told what the teacher found in each source without labels.

    Raises:
        ConfigError: The teacher's cells, classes or anchors are not the student's, or the run in ``out`` began with
            another teacher, be it under the same path.
        EngineError: The teacher's weights cannot be read.
    """
    asked = METHODS[type(config.distillation)].compares or config.unlabelled is not None
    teacher = load_teacher(config.teacher, config.model, asked=asked)
    sha256 = tensors_sha256(teacher.state_dict())

    def learner(student: Network, _: TrainConfig) -> Distilling:
        device = student.head.weight.device
        method = make_method(config.distillation, teacher.config, student.config).to(device)
        taught = teacher.to(device).requires_grad_(requires_grad=False)
        method.initialise(student, taught)
        return Distilling(
            student, config, Teacher(channels_last(fold_norms(taught)), sha256, method, config.distillation.weight)
        )

    def opener(cache: Path) -> Scenes:
        return open_scenes(config, teacher, cache, advance=advance, tell=tell)

    return train(config, out, learner=learner, scenes=scenes, opener=opener, cache=cache, stop_after=stop_after)


def open_scenes(
    config: DistillConfig,
    teacher: Network,
    cache: Path,
    *,
    advance: Advance | None = None,
    tell: Callable[[str], None] | None = None,
) -> Scenes:
    """The labelled scenes of a run, and those whose labels are its teacher's boxes; arguments as of :func:`distil`."""
    more = []
    if config.unlabelled is not None:
        found = pseudo_scenes(config.unlabelled, teacher.eval(), cache, advance)
        for source, scenes in zip(config.unlabelled.sources, found, strict=True):
            more.append(MoreScenes(scenes, source.weight, f"{scenes.key} {config.unlabelled.high}"))
            if tell is not None:
                tell(describe_scenes(scenes, tuple(each.name for each in config.model.classes)))
    return training_dataset(config.data, config.model, config.augment, config.seed, cache, more=more)


def load_teacher(path: Path, student: ModelConfig, *, asked: bool = True) -> Network:
    """A teacher, laid out on the student's grid.

    The network is the same at every place, so a student may see a smaller or larger part of the ground; the size of a
    cell and the heights have to agree. Anchors that are spread over a range are not the same at every place: where
    there is one, the grids have to agree altogether, unless the teacher is not asked.

    Args:
        path: Model folder, run folder or weights file.
        student: The student's network.
        asked: Whether the teacher is asked about scenes; if not, its weights are all that is taken from it.

    Raises:
        ConfigError: The teacher is another detector, or its cells, heights, classes, direction bins or anchors are not
            the student's.
        EngineError: The teacher's weights cannot be read.
    """
    teacher, detector = load_model(path)
    anchors = ("anchor_range", *(() if student.anchor_range is None else EDGES)) if asked else ()
    height = ("grid.height",) if isinstance(student, SecondConfig) else ()
    heights = ("grid.cell", *height, "grid.z_min", "grid.z_max")
    for name in ("detector", *heights, "classes", "direction_offset", *anchors):
        theirs, ours = (attrgetter(name)(model) for model in (detector.model, student))
        if theirs != ours:
            raise ConfigError(
                f"teacher {path}: its {name} is {theirs}, the student's {ours}; "
                f"give the student the teacher's{_along(name, detector.model, student)}, or another teacher"
            )
    on_its_ground = build_network(detector.model.model_copy(update={"grid": student.grid}))
    on_its_ground.load_state_dict(teacher.state_dict())
    return on_its_ground.eval()


def _along(name: str, teacher: ModelConfig, student: ModelConfig) -> str:
    """Which edges of the student's grid have to change together with a field of spread anchors, in words."""
    if name not in ("anchor_range", *EDGES) or teacher.anchor_range is None:
        return ""
    theirs, ours = (dict(zip(EDGES, attrgetter(*EDGES)(model), strict=True)) for model in (teacher, student))
    wanted = [f"{edge} {theirs[edge]}" for edge in EDGES if edge != name and theirs[edge] != ours[edge]]
    return f", together with {', '.join(wanted)}" if wanted else ""
