"""The clouds that a calibration looks at: those of a folder, or some that the model was trained on."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pd_edge.batch import points_to_use
from pd_edge.errors import DataError
from pd_edge.kitti import Dataset
from pd_edge.sensors import KITTI, SensorProfile, load_profile, mount_of
from pd_edge.training.data import open_source
from pd_edge.training.provenance import provenance

Cloud = npt.NDArray[np.float32]


def spread_clouds(dataset: Dataset, count: int, sensor: SensorProfile = KITTI) -> list[Cloud]:
    """Clouds of frames spread evenly over a data set, in the model's frame; all where it has fewer.

    Args:
        dataset: The frames.
        count: How many.
        sensor: The profile that they are read with, for its mount.

    Returns:
        (N, 4) float32 each, cut to the camera's view where the frames have labels, as they are evaluated.

    Raises:
        DataError: A frame cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    mount = mount_of(sensor)
    return [mount.points(points_to_use(dataset.frame(int(index)))[0]) for index in chosen]


def training_clouds(weights: Path, count: int) -> list[Cloud]:
    """Clouds of the frames that a model was trained on, as many of each source.

    Args:
        weights: Model folder, run or checkpoint.
        count: Clouds in all.

    Raises:
        DataError: The model does not say what it was trained on, or its folders are not here.
    """
    origin = provenance(weights)
    sources = [] if origin is None else [each for each in origin.config.data.sources if each.root.is_dir()]
    if not sources:
        named = [] if origin is None else [str(each.root) for each in origin.config.data.sources]
        told = "no train.yaml" if origin is None else ", ".join(named) or "clouds without labels alone"
        raise DataError(
            f"{weights}: its training frames are not here ({told}); give frames to calibrate on with --data"
        )
    shares = [count // len(sources) + (number < count % len(sources)) for number in range(len(sources))]
    pairs = zip(sources, shares, strict=True)
    return [
        cloud for each, share in pairs for cloud in spread_clouds(open_source(each), share, load_profile(each.sensor))
    ]
