"""Average precision of a network as it is in memory, on the device where it stands."""

from typing import NamedTuple

import torch

from pd_edge.batch import detect_batch
from pd_edge.config import DetectorConfig
from pd_edge.detector import Detector
from pd_edge.errors import DataError
from pd_edge.kitti import ObjectDataset
from pd_edge.pillars import PillarNet
from pd_edge.runtimes.torch import ModuleRuntime
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.model import PointPillars


class InMemory(NamedTuple):
    """A network that stands in no folder, as the detector wants to know it."""

    name: str
    config: DetectorConfig
    pillar_net: PillarNet


def validate(model: PointPillars, config: DetectorConfig, source: SourceConfig) -> dict[str, dict[str, float]]:
    """Average precision R40 [%], moderate, by metric ("3d", "bev") and class, and "mean" over the classes.

    The network runs in float32 on a GPU where there is one, else on the CPU.

    Raises:
        DataError: A frame cannot be read or has no labels: every frame has to count.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runtime = ModuleRuntime(model.to(device).eval())
    dataset = ObjectDataset(source.root, source.split)
    found = detect_batch(Detector(InMemory("network", config, model.fold_pillar_net()), runtime), dataset, crop=True)
    evaluation = found.evaluation()
    if evaluation is None or found.failures or len(found.evaluated()) < len(found.frames):
        reason = found.failures[0].error if found.failures else "a frame has no labels, calibration or image size"
        raise DataError(f"{source.root}: every frame has to be evaluated, but {reason}")
    return {
        metric: {name: evaluation.result(name, metric, "moderate").ap for name in evaluation.classes}
        | {"mean": evaluation.mean(metric, "moderate")}
        for metric in ("3d", "bev")
    }
