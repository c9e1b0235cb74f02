"""The node for a long time: ``pytest tests/ros -m slow``; PD_EDGE_SOAK_SECONDS sets how long, 600 if left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test-ros` brings it")
pytest.importorskip("vision_msgs", reason="needs vision_msgs; `make test-ros` builds it")

from tests.ros.harness import HERE

SCRIPT = HERE.parent.parent / "benchmarks" / "node_overhead.py"


@pytest.mark.ros
@pytest.mark.slow
def test_soak(tmp_path: Path) -> None:
    seconds, out = os.environ.get("PD_EDGE_SOAK_SECONDS", "600"), tmp_path / "soak.json"
    subprocess.run([sys.executable, str(SCRIPT), "--seconds", seconds, "--out", str(out)], check=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["sent"] == int(float(seconds) * 10)
    assert found["memory growth [MB]"] < 20
    if found["p50, p99 [ms]"]["message in to boxes out"][1] < 100:
        assert found["answered"] == found["sent"]
