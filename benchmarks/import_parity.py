"""Do imported networks give the heads of the projects they come from? Runs those projects' own modules on the CPU.

Needs a checkout of each project, named by an environment variable, and what mmdetection3d imports at least::

    pip install --no-deps mmengine mmcv-lite mmdet addict yapf termcolor terminaltables easydict
    PD_EDGE_OPENPCDET=... PD_EDGE_MMDET3D=... python benchmarks/import_parity.py FRAMES/*.bin
    PD_EDGE_MMDET3D=... python benchmarks/import_parity.py FRAMES/*.bin      # a checkout of 0.17, in its own run

Weights are random, batch norm statistics too, so that no channel is idle; both sides get the same. The projects'
compiled operators are not needed: their voxelization is written here in numpy (at most 32 points, zeros behind them),
from our cells, so that a point on the border of a cell stands in the same pillar on both sides. Compared are:

* ``at most 31``: pillars are cut to 31 points before both sides see them. All numbers have to agree.
* ``all points``: the frame as it is. Pillars of 32 points and more differ by design: ours keep all points.
* ``boxes``: every anchor's box as the project decodes its heads, against ours from ours.

In mmdetection3d before 1.0 the anchor at yaw 0 is the one that lies across for us, and residuals are of other axes:
there the boxes stand for them.
"""

import math
import os
import sys
import tempfile
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pd_edge.clouds import read_cloud
from pd_edge.config import DetectorConfig, GridConfig
from pd_edge.decode import Heads, anchors, decode_boxes
from pd_edge.encoders import make_encoder
from pd_edge.pillars import point_cells
from pd_edge.training.importers.importing import import_model

Cloud = npt.NDArray[np.float32]
POINTS = 32
KITTI_VOXEL, KITTI_RANGE = (0.16, 0.16, 4.0), (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)


class Project(NamedTuple):
    """A foreign network: its parts, and how to run and decode it."""

    checkpoint: dict[str, Any]
    run: Callable[[Tensor, Tensor, Tensor], Heads]
    boxes: Callable[[Heads], npt.NDArray[np.float64]]  # in our convention, (H * W * A, 7)
    old_axes: bool = False


def main() -> None:
    """Compares each project that is there on each frame."""
    torch.manual_seed(0)
    makers = {"openpcdet": ("PD_EDGE_OPENPCDET", openpcdet), "mmdet3d": ("PD_EDGE_MMDET3D", any_mmdet3d)}
    frames = [Path(each) for each in sys.argv[1:]]
    for name, (variable, make) in makers.items():
        if variable not in os.environ:
            print(f"{name}: {variable} is not set, left out")
            continue
        with torch.inference_mode():
            compare(name, make(Path(os.environ[variable])), frames)


def compare(name: str, project: Project, frames: list[Path]) -> None:
    """Imports a project's random network and prints the differences on some frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(project.checkpoint, path)
        imported = import_model(name, path, Path(folder) / "model")
        from pd_edge.runtimes.torch import load_torch  # noqa: PLC0415 - one of the runtimes

        model, config = load_torch(imported.bundle), imported.bundle.config
        for frame in frames:
            points = read_cloud(frame)
            for title, cloud in (("at most 31", cut(points, config.model.grid)), ("all points", points)):
                theirs = project.run(*voxelize(cloud, config.model.grid))
                canvas = make_encoder(config.model, imported.bundle.encoder_net).encode(cloud)
                with torch.inference_mode():
                    ours = Heads(*(each.numpy() for each in model.dense(torch.from_numpy(canvas))))
                report(f"{name} {frame.stem} {title}", project, theirs, ours)
                print(f"{name} {frame.stem} {title} boxes: {box_difference(project, theirs, ours, config)}")


def report(what: str, project: Project, theirs: Heads, ours: Heads) -> None:
    """Prints the largest difference of each head, absolute and beside its largest value.

    The yaw's residual is compared without the second anchor's 1.57 instead of pi / 2, which the import moved.
    """
    for head, a, b, width in zip(Heads._fields, theirs, ours, (3, 7, 2), strict=True):
        if project.old_axes and head == "residuals":
            continue
        first, second = pairs(a, width)[:, :, :: -1 if project.old_axes else 1], pairs(b, width).copy()
        if head == "residuals":
            second[:, :, 1, 6] += math.pi / 2 - 1.57
        wrong = np.abs(first - second)
        print(f"{what} {head}: max {wrong.max():.1e} of {np.abs(a).max():.2f}, over 1e-4: {np.mean(wrong > 1e-4):.2%}")


def box_difference(project: Project, theirs: Heads, ours: Heads, config: DetectorConfig) -> str:
    """Every anchor's box from our heads against the project's from its own."""
    wanted = project.boxes(theirs).reshape(-1, 3, 2, 7)[:, :, :: -1 if project.old_axes else 1]
    place = anchors(config.model).reshape(wanted.shape).astype(np.float64)
    bins = pairs(ours.directions, 2).argmax(-1)
    found = decode_boxes(pairs(ours.residuals, 7).astype(np.float64), bins, place, config.model.direction_offset)
    wrong = np.abs(found - wanted)
    wrong[..., 6] = np.abs((wrong[..., 6] + math.pi) % (2 * math.pi) - math.pi)
    sane = np.isfinite(wrong).all(-1) & (wanted[..., 3:6].max(-1) < 100)
    turned = wrong[..., 6] > 3  # a direction or a yaw on the border of the bins
    return f"max {wrong[sane & ~turned].max():.1e} m or rad over {sane.sum()} anchors, {turned.sum()} half a turn off"


def pairs(maps: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """A head as (H * W, classes, 2, width)."""
    return by_anchor(maps, width).reshape(-1, 3, 2, width)


def by_anchor(maps: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """A head (1, A * width, H, W) as (H * W, A, width)."""
    return maps[0].transpose(1, 2, 0).reshape(maps.shape[2] * maps.shape[3], -1, width)


def cut(points: Cloud, grid: GridConfig) -> Cloud:
    """The points in the grid, at most 31 of each pillar: the first ones."""
    cells = point_cells(points, grid)
    return points[(cells >= 0) & (rank_in_cell(cells) < POINTS - 1)]


def rank_in_cell(cells: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """How many points of the same cell stand before each."""
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    rank = np.empty(len(cells), np.int64)
    rank[order] = np.arange(len(cells)) - np.repeat(starts, np.diff(np.append(starts, len(cells))))
    return rank


def voxelize(points: Cloud, grid: GridConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Hard voxelization: voxels (P, 32, 4), points in each (P,), coordinates (P, 4) batch z y x."""
    cells = point_cells(points, grid)
    kept = (cells >= 0) & (rank_in_cell(cells) < POINTS)
    points, cells = points[kept], cells[kept]
    occupied, pillar = np.unique(cells, return_inverse=True)
    voxels = np.zeros((len(occupied), POINTS, 4), np.float32)
    voxels[pillar, rank_in_cell(cells)] = points
    coordinates = np.zeros((len(occupied), 4), np.int64)
    coordinates[:, 2], coordinates[:, 3] = np.divmod(occupied, grid.nx)
    counts = np.bincount(pillar, minlength=len(occupied))
    return torch.from_numpy(voxels), torch.from_numpy(counts), torch.from_numpy(coordinates)


def randomize(*modules: nn.Module) -> None:
    """Weights and statistics as after a training, near enough: no channel idle, maps neither vanishing nor growing."""
    for part in modules:
        for module in part.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    nn.init.uniform_(tensor, low, high)  # type: ignore[arg-type]
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        part.eval()


def shells(root: Path, names: list[str]) -> None:
    """Packages whose ``__init__`` is not run: it would import every operator that the project compiles."""
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(root / name.replace(".", "/"))]
        sys.modules[name] = package


class _Anything(types.ModuleType):
    """A module with every name: stands for compiled operators that are imported and not called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


def openpcdet(checkout: Path) -> Project:
    """OpenPCDet's modules as kitti_models/pointpillar.yaml configures them."""
    from easydict import EasyDict  # noqa: PLC0415 - comes with the project
    from yaml import safe_load  # noqa: PLC0415

    folders = ["", ".utils", ".ops", ".models", ".models.backbones_3d", ".models.backbones_3d.vfe"]
    folders += [".models.backbones_2d", ".models.backbones_2d.map_to_bev", ".models.dense_heads"]
    folders += [".models.dense_heads.target_assigner"]
    shells(checkout, [f"pcdet{each}" for each in folders])
    operators = ("pcdet.ops.iou3d_nms", "pcdet.ops.roiaware_pool3d", "pcdet.utils.spconv_utils")
    for name in ("SharedArray", "spconv", "spconv.pytorch", *operators):
        sys.modules[name] = _Anything(name)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    config = EasyDict(safe_load((checkout / "tools/cfgs/kitti_models/pointpillar.yaml").read_text()))
    model, size = config.MODEL, np.array([432, 496, 1])
    vfe = import_module("pcdet.models.backbones_3d.vfe.pillar_vfe").PillarVFE(model.VFE, 4, KITTI_VOXEL, KITTI_RANGE)
    scatter = import_module("pcdet.models.backbones_2d.map_to_bev.pointpillar_scatter").PointPillarScatter(
        model.MAP_TO_BEV, size
    )
    backbone = import_module("pcdet.models.backbones_2d.base_bev_backbone").BaseBEVBackbone(model.BACKBONE_2D, 64)
    head = import_module("pcdet.models.dense_heads.anchor_head_single").AnchorHeadSingle(
        model.DENSE_HEAD, 384, 3, config.CLASS_NAMES, size, np.array(KITTI_RANGE)
    )
    randomize(vfe, backbone)
    nn.init.normal_(head.conv_box.weight, std=0.02)
    head.eval()

    def run(voxels: Tensor, counts: Tensor, coordinates: Tensor) -> Heads:
        batch = {"voxels": voxels, "voxel_num_points": counts, "voxel_coords": coordinates, "batch_size": 1}
        with torch.inference_mode():
            for part in (vfe, scatter, backbone, head):
                batch = part(batch)
        run.boxes = batch["batch_box_preds"][0].numpy()  # type: ignore[attr-defined]
        maps = (head.forward_ret_dict[f"{each}_preds"].permute(0, 3, 1, 2) for each in ("cls", "box", "dir_cls"))
        return Heads(*(each.contiguous().numpy() for each in maps))

    state = {
        f"{prefix}.{name}": value
        for prefix, part in (("vfe", vfe), ("backbone_2d", backbone), ("dense_head", head))
        for name, value in part.state_dict().items()
    }
    checkpoint = {"model_state": state, "epoch": 80, "it": 1, "optimizer_state": None, "version": "pcdet+0.6.0"}
    return Project(checkpoint, run, lambda _: run.boxes.astype(np.float64))  # type: ignore[attr-defined]


def any_mmdet3d(checkout: Path) -> Project:
    """mmdetection3d of whichever age the checkout has."""
    sys.modules["cv2"] = _Anything("cv2")
    return (old_mmdet3d if (checkout / "mmdet3d/core").is_dir() else mmdet3d)(checkout)


def mmdet3d(checkout: Path) -> Project:
    """mmdetection3d's modules as its KITTI configuration for three classes configures them."""
    folders = ["", ".models", ".models.voxel_encoders", ".models.middle_encoders", ".models.backbones"]
    folders += [".models.necks", ".models.dense_heads", ".models.task_modules.anchor", ".models.task_modules.coders"]
    shells(checkout, [f"mmdet3d{each}" for each in folders])
    unused = ["mmcv.ops", "mmdet", "mmdet.models", "mmdet.models.utils", "mmdet.models.task_modules"]
    unused += ["mmdet.utils", "mmdet.utils.memory", "mmdet3d.models.layers", "mmdet3d.models.test_time_augs"]
    unused += ["mmdet3d.models.task_modules", "mmdet3d.structures", "mmdet3d.structures.det3d_data_sample"]
    unused += ["mmdet3d.utils", "mmdet3d.utils.typing_utils"]
    for name in unused:
        sys.modules[name] = _Anything(name)
    sys.modules["mmdet.models.utils"].multi_apply = (  # type: ignore[attr-defined]
        lambda function, *inputs: tuple(map(list, zip(*map(function, *inputs), strict=True)))
    )
    sys.modules["mmdet3d.models.task_modules"].__path__ = [str(checkout / "mmdet3d/models/task_modules")]
    from mmengine.config import Config  # noqa: PLC0415

    model = Config.fromfile(str(checkout / "configs/_base_/models/pointpillars_hv_secfpn_kitti.py")).model
    parts = {
        "voxel_encoder": ("voxel_encoders.pillar_encoder", "PillarFeatureNet"),
        "middle_encoder": ("middle_encoders.pillar_scatter", "PointPillarsScatter"),
        "backbone": ("backbones.second", "SECOND"),
        "neck": ("necks.second_fpn", "SECONDFPN"),
        "bbox_head": ("dense_heads.anchor3d_head", "Anchor3DHead"),
    }
    anchor = import_module("mmdet3d.models.task_modules.anchor.anchor_3d_generator").AlignedAnchor3DRangeGenerator
    coder = import_module("mmdet3d.models.task_modules.coders.delta_xyzwhlr_bbox_coder").DeltaXYZWLHRBBoxCoder
    kinds = {each.__name__: each for each in (anchor, coder)}
    heads = import_module("mmdet3d.models.dense_heads.anchor3d_head")
    heads.MODELS = types.SimpleNamespace(build=lambda _: None)  # type: ignore[attr-defined] - losses
    heads.TASK_UTILS = types.SimpleNamespace(  # type: ignore[attr-defined]
        build=lambda settings: kinds[settings["type"]](**{k: v for k, v in settings.items() if k != "type"})
    )
    built: dict[str, Any] = {}
    for part, (module, kind) in parts.items():
        settings = {name: value for name, value in model[part].items() if name != "type"}
        if part == "bbox_head":
            settings |= {"train_cfg": None, "test_cfg": model.test_cfg}
        built[part] = getattr(import_module(f"mmdet3d.models.{module}"), kind)(**settings)
    head = built["bbox_head"]
    randomize(built["voxel_encoder"], built["backbone"], built["neck"])
    head.eval()

    def run(voxels: Tensor, counts: Tensor, coordinates: Tensor) -> Heads:
        with torch.inference_mode():
            pillars = built["voxel_encoder"](voxels.clone(), counts, coordinates)
            canvas = built["middle_encoder"](pillars, coordinates, 1)
            maps = head(built["neck"](built["backbone"](canvas)))
        return Heads(*(each[0].numpy() for each in maps))

    def boxes(heads: Heads) -> npt.NDArray[np.float64]:
        priors = head.prior_generator.grid_anchors([heads.logits.shape[2:]], device="cpu")[0].reshape(-1, 7)
        deltas = torch.from_numpy(by_anchor(heads.residuals, 7).reshape(-1, 7))
        return turned(head.bbox_coder.decode(priors, deltas), heads, head.dir_offset, head.dir_limit_offset)

    state = {f"{name}.{key}": value for name, part in built.items() for key, value in part.state_dict().items()}
    meta = {"epoch": 80, "mmengine_version": "0.10.0", "dataset_meta": {"classes": ["Pedestrian", "Cyclist", "Car"]}}
    return Project({"state_dict": state, "meta": meta}, run, boxes)


def turned(found: Tensor, heads: Heads, offset: float, limit: float) -> npt.NDArray[np.float64]:
    """mmdetection3d's boxes with the yaw of their direction bin (its limit_period), at their centre's height."""
    boxes = found.numpy().astype(np.float64)
    yaw = boxes[:, 6] - offset
    yaw -= np.floor(yaw / math.pi + limit) * math.pi
    boxes[:, 6] = yaw + offset + math.pi * by_anchor(heads.directions, 2).reshape(-1, 2).argmax(-1)
    boxes[:, 2] += boxes[:, 5] / 2
    return boxes


def old_mmdet3d(checkout: Path) -> Project:
    """mmdetection3d 0.17's modules as its KITTI configuration for three classes configures them.

    Its head is three convolutions, made here: the class itself needs more of its time's packages.
    """
    old_packages(checkout)
    size = {"voxel_size": KITTI_VOXEL, "point_cloud_range": KITTI_RANGE}
    vfe = import_module("mmdet3d.models.voxel_encoders.pillar_encoder").PillarFeatureNet(4, (64,), **size)
    scatter = import_module("mmdet3d.models.middle_encoders.pillar_scatter").PointPillarsScatter(64, [496, 432])
    backbone = import_module("mmdet3d.models.backbones.second").SECOND(64, [64, 128, 256], [3, 5, 5], [2, 2, 2])
    neck = import_module("mmdet3d.models.necks.second_fpn").SECONDFPN([64, 128, 256], [128] * 3, [1, 2, 4])
    coder = import_module("mmdet3d.core.bbox.coders.delta_xyzwhlr_bbox_coder").DeltaXYZWLHRBBoxCoder()
    generator = import_module("mmdet3d.core.anchor.anchor_3d_generator").Anchor3DRangeGenerator(
        ranges=[[0, -39.68, bottom, 70.4, 39.68, bottom] for bottom in (-0.6, -0.6, -1.78)],
        sizes=[[0.6, 0.8, 1.73], [0.6, 1.76, 1.73], [1.6, 3.9, 1.56]],
        rotations=[0, 1.57],
        reshape_out=False,
    )
    head = nn.ModuleDict(
        {f"conv_{name}": nn.Conv2d(384, 6 * n, 1) for name, n in (("cls", 3), ("reg", 7), ("dir_cls", 2))}
    )
    randomize(vfe, backbone, neck)

    def run(voxels: Tensor, counts: Tensor, coordinates: Tensor) -> Heads:
        with torch.inference_mode():
            maps = neck(backbone(scatter(vfe(voxels.clone(), counts, coordinates), coordinates, 1)))[0]
            return Heads(*(part(maps).numpy() for part in head.values()))

    def boxes(heads: Heads) -> npt.NDArray[np.float64]:
        priors = generator.grid_anchors([heads.logits.shape[2:]], device="cpu")[0].reshape(-1, 7)
        deltas = torch.from_numpy(by_anchor(heads.residuals, 7).reshape(-1, 7))
        found = turned(coder.decode(priors, deltas), heads, 0.0, 1.0)
        found[:, 6] -= math.pi  # as its KITTI writer does
        found[:, [3, 4]] = found[:, [4, 3]]
        found[:, 6] = -found[:, 6] - math.pi / 2
        return found

    parts = {"voxel_encoder": vfe, "backbone": backbone, "neck": neck, "bbox_head": head}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    text = (checkout / "configs/_base_/models/hv_pointpillars_secfpn_kitti.py").read_text()
    meta = {"mmdet3d_version": "0.17.0", "config": text, "CLASSES": ["Pedestrian", "Cyclist", "Car"]}
    return Project({"state_dict": state, "meta": meta}, run, boxes, old_axes=True)


def old_packages(checkout: Path) -> None:
    """What mmdetection3d 0.17 imports: decorators that do nothing, registries that register nothing."""
    mmcv, mmengine = import_module("mmcv"), import_module("mmengine")
    mmcv.is_list_of = mmengine.is_list_of  # type: ignore[attr-defined]
    decorator = lambda *_, **__: lambda decorated: decorated  # noqa: E731 - for three names
    runner = types.ModuleType("mmcv.runner")
    runner.force_fp32 = runner.auto_fp16 = decorator  # type: ignore[attr-defined]
    runner.BaseModule = import_module("mmengine.model").BaseModule  # type: ignore[attr-defined]
    sys.modules["mmcv.runner"] = runner
    folders = ["", ".models", ".models.voxel_encoders", ".models.middle_encoders", ".models.backbones"]
    folders += [".models.necks", ".core", ".core.anchor", ".core.bbox", ".core.bbox.coders"]
    shells(checkout, [f"mmdet3d{each}" for each in folders])
    registry = types.SimpleNamespace(register_module=decorator)
    kinds = ("BACKBONES", "NECKS", "VOXEL_ENCODERS", "MIDDLE_ENCODERS", "ANCHOR_GENERATORS", "BBOX_CODERS")
    unused = ["mmdet", "mmdet.models", "mmdet.core", "mmdet.core.anchor", "mmdet.core.bbox", "mmdet.core.bbox.builder"]
    for name in (*unused, "mmdet3d.ops", "mmdet3d.models.builder"):
        sys.modules[name] = _Anything(name)
        vars(sys.modules[name]).update(dict.fromkeys(kinds, registry))


if __name__ == "__main__":
    main()
