"""What the encoders draw after a cloud that found no memory."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pd_edge.config import GridConfig
from pd_edge.pillars import PillarEncoder
from pd_edge.voxels import VoxelEncoder
from tests import test_pillars, test_voxels

GROUND = GridConfig(x_max=3.2, y_min=-1.6, y_max=1.6)


def make_encoder(name: str) -> PillarEncoder | VoxelEncoder:
    rng = np.random.default_rng(0)
    if name == "pillars":
        return PillarEncoder(GROUND, test_pillars.random_net(rng, 8))
    model = test_voxels.model_of(test_voxels.STUDENT_16X)
    return VoxelEncoder(model, test_voxels.random_net(rng, model), threads=1)


def draw_without_memory(name: str) -> None:
    """Encodes a cloud, one too large for the memory there is, and an empty one."""
    encoder = make_encoder(name)
    assert encoder.encode(test_voxels.random_cloud(np.random.default_rng(1), test_voxels.SMALL, 1000)).any()
    large = np.zeros((8_000_000, 4), np.float32)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**22, hard))
    with pytest.raises(MemoryError):
        encoder.encode(large)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert not encoder.encode(np.empty((0, 4), np.float32)).any()


@pytest.mark.parametrize("name", ["pillars", "voxels"])
def test_nothing_of_an_earlier_cloud_stays(name: str) -> None:
    # In a process of its own: a limit on memory would reach the other tests.
    program = f"from tests.test_encoder_memory import draw_without_memory; draw_without_memory({name!r})"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
