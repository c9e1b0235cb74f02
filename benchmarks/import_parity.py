"""Do imported networks give the heads of the projects they come from? Runs those projects' own modules on the CPU.

Needs a checkout of each project, named by an environment variable, and what mmdetection3d imports at least::

    pip install --no-deps mmengine mmcv-lite mmdet addict yapf termcolor terminaltables easydict
    PD_EDGE_OPENPCDET=... PD_EDGE_MMDET3D=... python benchmarks/import_parity.py FRAMES/*.bin

Weights are random, batch norm statistics too, so that no channel is idle; both sides get the same. The projects'
compiled operators are not needed: their voxelization is written here in numpy (at most 32 points, zeros behind them),
from our cells, so that a point on the border of a cell stands in the same pillar on both sides. Three comparisons:

* ``full size``: pillars are cut to 31 points before both sides see them. All numbers have to agree.
* ``all points``: the frame as it is. Pillars of 32 points and more differ by design: ours keep all points.
* ``boxes``: every anchor's box as the project decodes it, against ours: anchors, sizes, yaw, direction.
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
from pd_edge.pillars import PillarEncoder, point_cells
from pd_edge.training.importers.importing import import_model

Cloud = npt.NDArray[np.float32]
POINTS = 32
KITTI_VOXEL, KITTI_RANGE = (0.16, 0.16, 4.0), (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)


class Project(NamedTuple):
    """A foreign network: its parts, and how to run and decode it."""

    checkpoint: dict[str, Any]
    run: Callable[[Tensor, Tensor, Tensor], Heads]
    boxes: Callable[[Heads], npt.NDArray[np.float32]]


def main() -> None:
    """Compares each project that is there on each frame."""
    torch.manual_seed(0)
    makers = {"openpcdet": ("PD_EDGE_OPENPCDET", openpcdet), "mmdet3d": ("PD_EDGE_MMDET3D", mmdet3d)}
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
            for title, cloud in (("full size", cut(points, config.model.grid)), ("all points", points)):
                theirs = project.run(*voxelize(cloud, config.model.grid))
                canvas = PillarEncoder(config.model.grid, imported.bundle.pillar_net).encode(cloud)
                with torch.inference_mode():
                    ours = Heads(*(each.numpy() for each in model.dense(torch.from_numpy(canvas))))
                report(name, frame.stem, title, theirs, ours)
            print(f"{name} {frame.stem} boxes: {box_difference(project.boxes(theirs), theirs, config)}")


def report(name: str, frame: str, title: str, theirs: Heads, ours: Heads) -> None:
    """Prints the largest difference of each head, absolute and relative to its largest value.

    The yaw's residual is compared modulo half a turn and without the anchors' 1.57, which the import moved.
    """
    for head, a, b in zip(Heads._fields, theirs, ours, strict=True):
        difference = np.abs(np.asarray(a) - b)
        if head == "residuals":
            difference.reshape(1, -1, 7, *a.shape[2:])[:, 1::2, 6] -= math.pi / 2 - 1.57
        wrong = np.abs(difference)
        print(
            f"{name} {frame} {title} {head}: max {wrong.max():.1e} of {np.abs(a).max():.2f}, "
            f"over 1e-4: {np.mean(wrong > 1e-4):.2%}"
        )


def box_difference(boxes: npt.NDArray[np.float32], heads: Heads, config: DetectorConfig) -> str:
    """Our decoding of the project's own heads, moved as the import does, against its boxes."""
    count = 2 * len(config.model.classes)
    place = anchors(config.model).reshape(-1, count, 7)
    residuals = by_anchor(heads.residuals, 7).copy()
    residuals[:, 1::2, 6] += np.float32(1.57 - math.pi / 2)
    bins = by_anchor(heads.directions, 2).argmax(-1)
    ours = decode_boxes(residuals.astype(np.float64), bins, place.astype(np.float64), config.model.direction_offset)
    wrong = np.abs(ours - boxes.reshape(ours.shape))
    wrong[..., 6] = np.abs((wrong[..., 6] + math.pi) % (2 * math.pi) - math.pi)
    finite = np.isfinite(wrong).all(-1) & (np.abs(boxes.reshape(ours.shape)[..., 3:6]).max(-1) < 100)
    turned = wrong[..., 6] > 3  # a yaw on the border of the bins
    return f"max {wrong[finite & ~turned].max():.1e} m or rad over {finite.sum()} anchors, {turned.sum()} on the border"


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
    return Project(checkpoint, run, lambda _: run.boxes)  # type: ignore[attr-defined]


def mmdet3d(checkout: Path) -> Project:
    """mmdetection3d's modules as its KITTI configuration for three classes configures them."""
    folders = ["", ".models", ".models.voxel_encoders", ".models.middle_encoders", ".models.backbones"]
    folders += [".models.necks", ".models.dense_heads", ".models.task_modules.anchor", ".models.task_modules.coders"]
    shells(checkout, [f"mmdet3d{each}" for each in folders])
    unused = ["cv2", "mmcv.ops", "mmdet", "mmdet.models", "mmdet.models.utils", "mmdet.models.task_modules"]
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

    def boxes(heads: Heads) -> npt.NDArray[np.float32]:
        priors = head.prior_generator.grid_anchors([heads.logits.shape[2:]], device="cpu")[0].reshape(-1, 7)
        deltas = torch.from_numpy(by_anchor(heads.residuals, 7).reshape(-1, 7))
        found = head.bbox_coder.decode(priors, deltas).numpy()
        turned = found[:, 6] - head.dir_offset  # its limit_period, which its box classes come with
        turned -= np.floor(turned / math.pi + head.dir_limit_offset) * math.pi
        found[:, 6] = turned + head.dir_offset + math.pi * by_anchor(heads.directions, 2).reshape(-1, 2).argmax(-1)
        found[:, 2] += found[:, 5] / 2  # its boxes stand on their underside
        return np.asarray(found, np.float32)

    state = {f"{name}.{key}": value for name, part in built.items() for key, value in part.state_dict().items()}
    meta = {"epoch": 80, "mmengine_version": "0.10.0", "dataset_meta": {"classes": ["Pedestrian", "Cyclist", "Car"]}}
    return Project({"state_dict": state, "meta": meta}, run, boxes)


if __name__ == "__main__":
    main()
