"""What the node holds: the detector that its parameters ask for."""

from typing import Literal

import pytest
from pd_edge_ros.config import NodeConfig
from pd_edge_ros.loaded import Loaded

from pd_edge.bundle import Bundle


@pytest.mark.parametrize("coverage", ["front", "full"])
def test_the_coverage_is_that_of_the_parameter(tiny_bundle: Bundle, coverage: Literal["front", "full"]) -> None:
    pytest.importorskip("openvino")
    config = NodeConfig(model=str(tiny_bundle.folder), threads=1, coverage=coverage)
    assert Loaded.of(config).detector.coverage == coverage
