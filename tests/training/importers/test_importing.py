"""Imported networks: the same heads and boxes as where they were trained, and used like ours."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml

from pd_edge import load
from pd_edge.cli import main
from pd_edge.config import DetectorConfig, parse_config
from pd_edge.decode import anchors, decode_boxes
from pd_edge.encoders import make_encoder
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.runtimes.torch import load_torch
from pd_edge.training.distillation import DistillConfig, distil, load_teacher, read_config
from pd_edge.training.importers import mmdet3d_config, openpcdet
from pd_edge.training.importers.checkpoint_file import ForeignCheckpoint
from pd_edge.training.importers.importing import STUDENT, Imported, import_model
from pd_edge.training.rivals.maps import pillar_channels
from pd_edge.training.scene import Scene

from .foreign_networks import (
    CELL,
    CLASSES,
    MMDET,
    NX,
    NY,
    PCDET,
    PILLARS,
    RANGE,
    Array,
    Layout,
    by_anchor,
    cloud,
    foreign_boxes,
    foreign_canvas,
    foreign_heads,
    old_to_new,
    random_state,
)

SIZES = np.array([[3.9, 1.6, 1.56], [0.8, 0.6, 1.73]])
BOTTOMS = np.array([-1.78, -0.6])
CENTRES = (
    np.linspace(RANGE[0] + CELL, RANGE[3] - CELL, NX // 2, dtype=np.float64),
    np.linspace(RANGE[1] + CELL, RANGE[4] - CELL, NY // 2, dtype=np.float64),
)
EDGES = (np.linspace(RANGE[0], RANGE[3], NX // 2), np.linspace(RANGE[1], RANGE[4], NY // 2))
WIDE = (np.linspace(RANGE[0], 12.0, NX // 2), EDGES[1])


def pcdet_config() -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(openpcdet.KITTI)
    data["CLASS_NAMES"] = ["Car", "Pedestrian"]
    data["DATA_CONFIG"]["POINT_CLOUD_RANGE"] = list(RANGE)
    head = data["MODEL"]["DENSE_HEAD"]
    head["ANCHOR_GENERATOR_CONFIG"] = head["ANCHOR_GENERATOR_CONFIG"][:2]
    lists: dict[str, Any] = plain(data)
    return lists


def mmdet_config() -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(mmdet3d_config.KITTI)
    data["class_names"] = ["Car", "Pedestrian"]
    model = data["model"]
    model["data_preprocessor"] = {"voxel_layer": {**model.pop("voxel_layer"), "point_cloud_range": list(RANGE)}}
    generator = model["bbox_head"]["anchor_generator"]
    generator["ranges"] = [[*RANGE[:2], bottom, *RANGE[3:5], bottom] for bottom in BOTTOMS.tolist()]
    generator["sizes"] = SIZES.tolist()
    del model["train_cfg"]["assigner"][1]
    return data


def old_mmdet_config() -> dict[str, Any]:
    """As mmdetection3d 0.17 wrote it: width first, anchors spread over more than the points' range."""
    data = mmdet_config()
    generator = data["model"]["bbox_head"]["anchor_generator"]
    generator["type"] = "Anchor3DRangeGenerator"
    generator["sizes"] = SIZES[:, [1, 0, 2]].tolist()
    generator["ranges"] = [[*RANGE[:2], bottom, 12.0, RANGE[4], bottom] for bottom in BOTTOMS.tolist()]
    return data


def plain(data: Any) -> Any:
    """Tuples as lists, which YAML can write safely."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    return [plain(each) for each in data] if isinstance(data, list | tuple) else data


class Case(NamedTuple):
    """A foreign detector and what it should be here."""

    project: str
    layout: Layout
    features: int
    kind: str
    config: Callable[[], dict[str, Any]]
    changes: dict[str, Any]  # to the configuration, by dotted place
    places: tuple[Array, Array]
    offset: float  # where its direction bin 0 begins, in its convention
    meta: dict[str, Any] = {}  # noqa: RUF012 - not changed
    old: bool = False
    plain_upsampling: bool = False


STRIDE_1 = {"MODEL.BACKBONE_2D.USE_CONV_FOR_NO_STRIDE": True, "MODEL.VFE.USE_ABSLOTE_XYZ": False}
ALIGNED = {f"MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG.{index}.align_center": True for index in range(CLASSES)}
CASES = {
    "openpcdet": Case("openpcdet", PCDET, 10, "absolute", pcdet_config, {}, EDGES, 0.78539),
    "openpcdet, relative": Case(
        "openpcdet", PCDET, 7, "relative", pcdet_config, STRIDE_1 | ALIGNED, CENTRES, 0.78539, plain_upsampling=True
    ),
    "mmdet3d": Case("mmdet3d", MMDET, 10, "overwritten", mmdet_config, {}, CENTRES, -math.pi / 2),
    "mmdet3d, new features": Case(
        "mmdet3d",
        MMDET,
        10,
        "absolute",
        mmdet_config,
        {"model.voxel_encoder.legacy": False, "model.bbox_head.dir_offset": -0.7854},
        CENTRES,
        -0.7854,
    ),
    "mmdet3d 0.17": Case(
        "mmdet3d",
        MMDET,
        9,
        "overwritten-flat",
        old_mmdet_config,
        {},
        WIDE,
        0.0,
        {"mmdet3d_version": "0.17.0"},
        old=True,
    ),
}


def changed(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for place, value in changes.items():
        *way, last = place.split(".")
        inner: Any = data
        for step in way:
            inner = inner[int(step)] if isinstance(inner, list) else inner[step]
        inner[last] = value
    return data


def run_import(case: Case, folder: Path, *, changes: dict[str, Any] | None = None, shift: float = 0.0) -> Imported:
    """Writes a random checkpoint with its configuration and imports both into ``folder / "teacher"``."""
    state = random_state(case.layout, case.features, plain=case.plain_upsampling, shift=shift)
    data = changed(case.config(), case.changes | (changes or {}))
    checkpoint, config = folder / "random.pth", folder / "config.yaml"
    if case.project == "openpcdet":
        torch.save({"model_state": state, "epoch": 80}, checkpoint)
        config.write_text(yaml.safe_dump(data))
        return import_model(case.project, checkpoint, folder / "teacher", config)
    text = "\n".join(f"{name} = {value!r}" for name, value in data.items())
    torch.save({"state_dict": state, "meta": {"config": text, **case.meta}}, checkpoint)
    return import_model(case.project, checkpoint, folder / "teacher")


def our_heads(imported: Imported) -> list[Array]:
    config = imported.bundle.config.model
    canvas = make_encoder(config, imported.bundle.encoder_net).encode(cloud())
    with torch.inference_mode():
        heads = load_torch(imported.bundle).dense(torch.from_numpy(canvas))
    return [by_anchor(each.numpy()) for each in heads]


@pytest.mark.parametrize("name", CASES)
def test_heads_and_boxes_are_those_of_the_project(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    imported = run_import(case, tmp_path)
    model = imported.bundle.config.model
    assert pillar_channels(model) == PILLARS + 1
    assert (model.backbone_channels, model.backbone_layers, model.neck_channels) == ((8, 8, 12), (1, 2, 0), 4)
    state = random_state(case.layout, case.features, plain=case.plain_upsampling)
    canvas = foreign_canvas(state, case.layout, cloud(), case.kind)
    theirs = foreign_heads(state, case.layout, canvas, plain=case.plain_upsampling)
    sizes = SIZES[:, [1, 0, 2]] if case.old else SIZES
    boxes = foreign_boxes(theirs, case.places, sizes, BOTTOMS, case.offset)
    if case.old:  # its anchor at yaw 0 lies across
        boxes, theirs = old_to_new(boxes)[:, :, ::-1], [each[:, :, ::-1] for each in theirs]
    ours = our_heads(imported)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[2], theirs[2], atol=1e-4)
    bins = theirs[2].argmax(-1)
    place = anchors(model).reshape(boxes.shape).astype(np.float64)
    found = decode_boxes(ours[1], bins, place, model.direction_offset)
    np.testing.assert_allclose(found[..., :6], boxes[..., :6], atol=1e-4)
    turned = np.remainder(found[..., 6] - boxes[..., 6] + math.pi, 2 * math.pi) - math.pi
    assert np.mean(np.abs(turned) > 1e-4) < 1e-3  # but for yaws on the border of the bins


def test_thresholds_and_anchors_come_along(tmp_path: Path) -> None:
    imported = run_import(CASES["openpcdet"], tmp_path)
    config = imported.bundle.config
    assert [each.name for each in config.model.classes] == ["Car", "Pedestrian"]
    assert [each.anchor_z for each in config.model.classes] == [-1.0, 0.265]
    assert config.model.direction_offset == math.pi / 4
    assert config.model.anchor_range == (0.0, -2.56, 10.24, 2.56)
    assert config.decode.model_dump() == {"score_threshold": 0.1, "top_k": 4096, "nms_iou": 0.01, "max_boxes": 500}
    assert "canvas channel 7" in imported.notes[1]
    assert "same grid" in imported.notes[2]


@pytest.mark.parametrize("within_classes", [False, True])
def test_a_suppression_over_all_classes_is_told(within_classes: bool, tmp_path: Path) -> None:
    data = pcdet_config()
    data["MODEL"]["POST_PROCESSING"]["NMS_CONFIG"]["MULTI_CLASSES_NMS"] = within_classes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    nothing = ForeignCheckpoint(tmp_path / "any.pth", "", {}, {})
    described, _ = openpcdet.describe(nothing, tmp_path / "config.yaml")
    assert any("over all classes at once" in note for note in described.notes) != within_classes


def test_without_a_floor_there_is_no_channel_for_the_padding(tmp_path: Path) -> None:
    case = CASES["openpcdet"]
    imported = run_import(case, tmp_path, shift=-9.0)
    assert pillar_channels(imported.bundle.config.model) == PILLARS
    state = random_state(case.layout, case.features, shift=-9.0)
    theirs = foreign_heads(state, case.layout, foreign_canvas(state, case.layout, cloud(), case.kind))
    np.testing.assert_allclose(our_heads(imported)[0], theirs[0], atol=1e-4)


def test_intensities_of_another_scale_come_along(tmp_path: Path) -> None:
    case, state = CASES["openpcdet"], random_state(PCDET, 10)
    torch.save({"model_state": state}, tmp_path / "random.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(pcdet_config()))
    wanted = ("openpcdet", tmp_path / "random.pth", tmp_path / "teacher", tmp_path / "config.yaml")
    imported = import_model(*wanted, intensity_max=255)
    bright = cloud() * np.array([1, 1, 1, 255], np.float32)
    theirs = foreign_heads(state, case.layout, foreign_canvas(state, case.layout, bright, case.kind))
    np.testing.assert_allclose(our_heads(imported)[0], theirs[0], rtol=1e-4, atol=1e-3)
    with pytest.raises(ConfigError, match="intensity_max 0: expected more than 0"):
        import_model(*wanted, intensity_max=0)


@pytest.mark.parametrize(("name", "old"), [("mmdet3d", False), ("mmdet3d 0.17", True)])
def test_of_square_anchors_the_version_tells_the_axes(name: str, old: bool, tmp_path: Path) -> None:
    case = CASES[name]
    squares = {"model.bbox_head.anchor_generator.sizes": [[0.6, 0.6, 1.7], [0.8, 0.8, 1.7]]}
    told = case._replace(meta=case.meta or {"mmdet3d_version": "1.4.0"})
    imported = run_import(told, tmp_path, changes=squares)
    assert any("were converted" in note for note in imported.notes) == old
    with pytest.raises(ConfigError, match="version unknown leave open"):
        run_import(case._replace(meta={}), tmp_path, changes=squares)


def test_a_configuration_is_completed_from_the_file_it_is_based_on(tmp_path: Path) -> None:
    data, checkpoint = pcdet_config(), tmp_path / "random.pth"
    torch.save({"model_state": random_state(PCDET, 10)}, checkpoint)
    config, base = (tmp_path / "tools" / "cfgs" / name for name in ("models/mine.yaml", "data/kitti.yaml"))
    for path in (config, base):
        path.parent.mkdir(parents=True)
    base.write_text(yaml.safe_dump({**data["DATA_CONFIG"], "POINT_CLOUD_RANGE": [0, -40, -3, 70.4, 40, 1]}))
    own = {"_BASE_CONFIG_": "cfgs/data/kitti.yaml", "POINT_CLOUD_RANGE": list(RANGE)}
    config.write_text(yaml.safe_dump({**data, "DATA_CONFIG": own}))
    imported = import_model("openpcdet", checkpoint, tmp_path / "teacher", config)
    assert imported.bundle.config.model.grid.x_max == RANGE[3]
    base.unlink()
    with pytest.raises(
        ConfigError, match=r"based on cfgs/data/kitti\.yaml, which is in no folder .* no DATA_PROCESSOR;"
    ):
        import_model("openpcdet", checkpoint, tmp_path / "teacher", config)


def test_a_second_import_keeps_the_student_s_configuration_and_a_file_in_the_way(tmp_path: Path) -> None:
    first = run_import(CASES["openpcdet"], tmp_path)
    first.student.write_text("mine")
    second = run_import(CASES["openpcdet"], tmp_path)
    assert second.student.read_text() == "mine"
    assert any("student-4x.yaml was there" in note for note in second.notes)
    other = tmp_path / "other"
    other.mkdir()
    (other / "teacher").write_text("mine")
    with pytest.raises(DataError, match="teacher: is a file; give the name of a model folder"):
        run_import(CASES["openpcdet"], other)
    assert (other / "teacher").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("openpcdet", {"MODEL.DENSE_HEAD.NAME": "CenterHead"}, "MODEL.DENSE_HEAD.NAME: Input should be 'AnchorHeadS"),
        ("openpcdet", {"MODEL.VFE.WITH_DISTANCE": True}, "MODEL.VFE.WITH_DISTANCE"),
        ("openpcdet", {"MODEL.BACKBONE_2D.LAYER_STRIDES": [1, 2, 2]}, "MODEL.BACKBONE_2D.LAYER_STRIDES.0"),
        ("openpcdet", {"MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.BOX_CODER": "Previous"}, "BOX_CODER"),
        ("openpcdet", {"CLASS_NAMES": ["Pedestrian", "Car"]}, "another order"),
        ("openpcdet", {"DATA_CONFIG.DATA_PROCESSOR": []}, "no VOXEL_SIZE"),
        ("openpcdet", {"DATA_CONFIG.DATA_PROCESSOR.0.VOXEL_SIZE": [0.16, 0.16, 2]}, "voxels of 0.16 x 0.16 x 2.0 m"),
        ("openpcdet", {"DATA_CONFIG.POINT_CLOUD_RANGE": [0, -2.56, -3, 10.4, 2.56, 1]}, "halved 3 times"),
        ("mmdet3d", {"model.type": "DynamicVoxelNet"}, "model.type: Input should be 'VoxelNet'"),
        ("mmdet3d", {"model.bbox_head.dir_limit_offset": 1}, "dir_limit_offset 1.0"),
        ("mmdet3d", {"model.bbox_head.loss_cls.use_sigmoid": False}, "loss_cls.use_sigmoid"),
        ("mmdet3d", {"model.backbone.norm_cfg": {"eps": 1e-5}}, "model.backbone.norm_cfg.eps"),
        ("mmdet3d", {"model.bbox_head.anchor_generator.sizes": [[3.9, 1.6, 1.56], [0.6, 0.8, 1.73]]}, "width comes"),
        ("mmdet3d", {"class_names": ["Car"]}, "expected as many of each"),
        ("mmdet3d 0.17", {"model.bbox_head.anchor_generator.sizes": SIZES.tolist()}, "version 0.17.0 leave open"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    name: str, changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        run_import(CASES[name], tmp_path, changes=changes)
    assert text in str(error.value)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        (
            "openpcdet",
            {"MODEL.NAME": "SECONDNet", "MODEL.VFE.NAME": "MeanVFE", "DATA_CONFIG": {"_BASE_CONFIG_": "none.yaml"}},
            "MODEL.NAME is 'SECONDNet', expected 'PointPillar'",
        ),
        (
            "mmdet3d",
            {"model.voxel_encoder": {"type": "HardSimpleVFE"}, "model.middle_encoder": {"type": "SparseEncoder"}},
            "model.middle_encoder.type is 'SparseEncoder', expected 'PointPillarsScatter'",
        ),
    ],
)
def test_of_second_there_is_one_error(name: str, changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        run_import(CASES[name], tmp_path, changes=changes)
    message = str(error.value)
    assert message.endswith(
        f": {text}; only checkpoints of PointPillars can be imported, not those of SECOND or of other networks"
    )
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("openpcdet", {"MODEL.VFE.USE_ABSLOTE_XYZ": False}, "has shape (6, 10), but"),
        ("openpcdet", {"MODEL.BACKBONE_2D.USE_CONV_FOR_NO_STRIDE": True}, "neck.upsamplings.0.conv.weight has shape"),
    ],
)
def test_a_configuration_of_another_checkpoint_is_named(
    name: str, changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError) as error:
        run_import(CASES[name], tmp_path, changes=changes)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("extra", "project", "text"),
    [
        ("vfe.pfn_layers.1.linear.weight", "openpcdet", "vfe.pfn_layers.1.linear.weight (and 0 more) belongs to no"),
        ("", "mmdet3d", "no voxel_encoder.pfn_layers.0.linear.weight in it, but for instance vfe."),
    ],
)
def test_another_network_is_refused_by_its_tensors(extra: str, project: str, text: str, tmp_path: Path) -> None:
    state = random_state(PCDET, 10)
    torch.save({"model_state": state | ({extra: torch.zeros(1)} if extra else {})}, tmp_path / "other.pth")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(pcdet_config()))
    given = config if project == "openpcdet" else None
    with pytest.raises(EngineError) as error:
        import_model(project, tmp_path / "other.pth", tmp_path / "teacher", given)
    assert text in str(error.value)


def test_without_a_configuration_the_kitti_one_is_meant(tmp_path: Path) -> None:
    """Two classes do not fit it, and the message says what would."""
    torch.save({"model_state": random_state(PCDET, 10)}, tmp_path / "random.pth")
    with pytest.raises(EngineError, match=r"dense_head\.conv_cls\.weight has 8 outputs, expected 18"):
        import_model("openpcdet", tmp_path / "random.pth", tmp_path / "teacher")


def test_an_unknown_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="project 'second' is unknown; use one of openpcdet, mmdet3d"):
        import_model("second", tmp_path / "none.pth", tmp_path / "out")


class OneScene:
    """The same car for every sample."""

    def scene(self, _: int) -> Scene:
        box = np.array([[4.0, 0.5, -1.0, 3.9, 1.6, 1.56, 0.3]], np.float32)
        return Scene(cloud(), box, np.array([0]))


def test_an_imported_teacher_distils_and_detects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["openpcdet"]
    torch.save({"model_state": random_state(PCDET, 10)}, tmp_path / "random.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed(case.config(), {})))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["import", "openpcdet", "random.pth", "models/teacher", "--config", "config.yaml"])
    assert "student: models/teacher/student-4x.yaml" in capsys.readouterr().out
    detections = load("models/teacher").detect(cloud())
    assert len(detections.boxes)

    config = read_config(Path("models/teacher") / STUDENT, None, None)
    assert pillar_channels(config.model) == PILLARS // 2
    assert config.model.anchor_range == (0.0, -2.56, 10.24, 2.56)
    short = config.model_copy(update={"samples": 2, "batch_size": 2, "workers": 0})
    student = distil(DistillConfig.model_validate(short.model_dump()), tmp_path / "run", scenes=OneScene())
    assert student.is_file()


def test_a_student_of_spread_anchors_takes_the_teachers_grid(tmp_path: Path) -> None:
    imported = run_import(CASES["openpcdet"], tmp_path)
    data = imported.bundle.config.model.model_dump()
    for changes, text in (
        (
            {"anchor_range": None},
            "its anchor_range is (0.0, -2.56, 10.24, 2.56), the student's None; give the student the teacher's, or",
        ),
        (
            {"grid": {**data["grid"], "x_max": 5.12}},
            "its grid.x_max is 10.24, the student's 5.12; give the student the teacher's, or",
        ),
        (
            {"grid": {**data["grid"], "x_max": 5.12, "y_min": -1.28}},
            "the student's 5.12; give the student the teacher's, together with grid.y_min -2.56, or",
        ),
    ):
        student = parse_config({"model": data | changes}, DetectorConfig, "student").model
        with pytest.raises(ConfigError) as error:
            load_teacher(imported.bundle.folder, student)
        assert text in str(error.value)
