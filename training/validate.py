"""Average precision of a network as it is in memory, on the device where it stands."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pd_edge.batch import detect_batch
from pd_edge.config import DetectorConfig
from pd_edge.detector import Detector
from pd_edge.encoders import EncoderNet
from pd_edge.revised import WithinGrid
from pd_edge.runtimes.torch import ModuleRuntime
from pd_edge.sensors import load_profile
from pd_edge.training.data import open_source
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.network import Network


class InMemory(NamedTuple):
    """A network that stands in no folder, as the detector wants to know it."""

    name: str
    config: DetectorConfig
    encoder_net: EncoderNet


def validate(
    model: Network,
    config: DetectorConfig,
    source: SourceConfig,
    *,
    advance: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Average precision R40 [%], moderate, by metric ("3d", "bev") and class, and "mean" over the classes.

    Objects beyond the grid count neither way. The network runs in float32 on a GPU where there is one, else on the CPU.

    Args:
        model: The network.
        config: What the network is, and how its output is read.
        source: Frames with labels.
        advance: Called with the frames done and the frames there are, after each.

    Raises:
        DataError: A frame cannot be read or has no labels: every frame has to count.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runtime = ModuleRuntime(model.to(device).eval())
    profile = load_profile(source.sensor)
    dataset = WithinGrid(open_source(source), config.model.grid, profile)
    network = InMemory("network", config, model.fold_encoder())
    found = detect_batch(Detector(network, runtime, profile.only_mount()), dataset, advance=advance)
    evaluation = found.complete_evaluation()
    return {
        metric: {name: evaluation.result(name, metric, "moderate").ap for name in evaluation.classes}
        | {"mean": evaluation.mean(metric, "moderate")}
        for metric in ("3d", "bev")
    }
