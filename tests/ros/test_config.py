"""The node's configuration."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pd_edge_ros.config import CHANGEABLE, NodeConfig, changed

from pd_edge.config import parse_config
from pd_edge.errors import ConfigError

CLASSES = ("Car", "Pedestrian", "Cyclist")
CONFIG = Path(__file__).resolve().parents[2] / "ros_nodes" / "pd_edge_ros" / "config"


def test_thresholds_of_classes() -> None:
    assert NodeConfig().thresholds(CLASSES) == dict.fromkeys(CLASSES, 0.1)
    some = NodeConfig(score_threshold=0.2, classes="Cyclist, Car", class_thresholds=" Car: 0.5 ,Pedestrian:1")
    assert some.thresholds(CLASSES) == {"Cyclist": 0.2, "Car": 0.5}
    assert NodeConfig(class_thresholds="Traffic cone: 0.3").thresholds(("Traffic cone",)) == {"Traffic cone": 0.3}


@pytest.mark.parametrize("field", ["classes", "class_thresholds"])
def test_unknown_classes_are_named(field: str) -> None:
    config = NodeConfig(**{field: "Cat: 0.5" if "threshold" in field else "Cat"})
    with pytest.raises(ConfigError, match=f"{field}: Cat; the model knows Car, Pedestrian, Cyclist"):
        config.thresholds(CLASSES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_thresholds": "Car 0.5"}, "'Car 0.5'; expected a class and a score in 0..1"),
        ({"class_thresholds": "Car: 1.5"}, "'Car: 1.5'; expected"),
        ({"class_thresholds": "Car: 1e"}, "'Car: 1e'; expected"),
        ({"ego_box": [1, -1, 0, 0, 0, 0]}, "x_min 1 m is above x_max -1 m"),
        ({"ego_box": [1, 2]}, "ego_box"),
        ({"min_range": 3, "max_range": 2}, "max_range 2 m must be above min_range 3 m"),
        ({"precision": "fp8"}, "precision"),
        ({"reliability": "best"}, "reliability"),
        ({"max_rang": 3}, "did you mean max_range"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="parameters: ") as caught:
        parse_config(values, NodeConfig, "parameters")
    assert message in str(caught.value)


def test_what_can_change_while_the_engine_is_loaded() -> None:
    config = NodeConfig()
    others = {"score_threshold": 0.3, "classes": "Car", "class_thresholds": "Car: 0.4", "marker_threshold": 0.5}
    assert set(others) == CHANGEABLE
    assert changed(config, others, running=True) == NodeConfig(**others)
    assert changed(config, {"model": config.model, "threads": 0}, running=True) == config
    with pytest.raises(ConfigError, match="max_age, model cannot change while the engine is loaded"):
        changed(config, {"max_age": 1.0, "model": "other"}, running=True)
    assert changed(config, {"model": "other"}, running=False).model == "other"
    with pytest.raises(ConfigError, match="score_threshold"):
        changed(config, {"score_threshold": 2.0}, running=False)


def test_the_launched_parameters_fit() -> None:
    """The YAML that the launch file names, and the names it is read under."""
    given = yaml.safe_load((CONFIG / "detector.yaml").read_text(encoding="utf-8"))
    assert list(given) == ["detector"]
    config = parse_config(given["detector"]["ros__parameters"], NodeConfig, "detector.yaml")
    assert (config.max_age, config.score_threshold) == (0.5, 0.3)


def test_viewers_show_what_the_node_publishes() -> None:
    rviz = yaml.safe_load((CONFIG / "detector.rviz").read_text(encoding="utf-8"))
    topics = [each["Topic"]["Value"] for each in rviz["Visualization Manager"]["Displays"] if "Topic" in each]
    assert topics == ["points", "detections/markers"]
    layout = json.loads((CONFIG / "foxglove.json").read_text(encoding="utf-8"))
    assert "/detections/markers" in layout["configById"]["3D!scene"]["topics"]


def test_the_launch_file_is_python() -> None:
    """It is run on a ROS with launch alone; here its names are checked against the configuration."""
    text = (CONFIG.parent / "launch" / "detector.launch.py").read_text(encoding="utf-8")
    ast.parse(text)
    assert all(f'"{name}"' in text for name in ("model", "sensor"))
    assert {"model", "sensor"} <= set(NodeConfig.model_fields)
