"""ROS parameters from the configuration model: names, types, ranges and descriptions."""

import sys
from collections.abc import Iterable
from typing import Any, get_args

from pydantic.fields import FieldInfo
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter

from pd_edge.config import parse_config
from pd_edge.errors import ConfigError
from pd_edge_ros.config import CHANGEABLE, NodeConfig

BUILT_IN = ("use_sim_time", "start_type_description_service")
"""Parameters of every ROS node."""


def declare(node: Any) -> NodeConfig:
    """Declares the parameters on a node and reads what they were started with.

    Raises:
        ConfigError: One is unknown, of a wrong type or out of its range.
    """
    overrides = node._parameter_overrides  # noqa: SLF001 - rclpy shows nowhere else what no parameter takes
    given = {name: plain(each.value) for name, each in overrides.items() if not _is_of_ros(name)}
    parse_config(given, NodeConfig, "parameters")
    for name, field in NodeConfig.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        try:
            node.declare_parameter(name, default, descriptor(name, field))
        except ParameterException as error:
            raise ConfigError(f"parameter {name}: {error}") from error
    return read(node)


def read(node: Any) -> NodeConfig:
    """The configuration that a node's parameters hold now.

    Raises:
        ConfigError: They do not go together.
    """
    values = {name: plain(node.get_parameter(name).value) for name in NodeConfig.model_fields}
    return parse_config(values, NodeConfig, "parameters")


def descriptor(name: str, field: FieldInfo) -> ParameterDescriptor:
    """What tools show of a parameter."""
    choices = [repr(each) for each in get_args(field.annotation) if isinstance(each, str)]
    said = ParameterDescriptor(name=name, description=field.description or "")
    said.additional_constraints = f"one of {', '.join(choices)}" if choices else ""
    if name not in CHANGEABLE:
        said.description += " Not while the engine is loaded."
    low, high = (_bound(field, side) for side in ("ge", "le"))
    if field.annotation is float and low is not None:
        high = sys.float_info.max if high is None else high
        said.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    elif field.annotation is int and low is not None:
        said.integer_range = [IntegerRange(from_value=int(low), to_value=int(high or sys.maxsize), step=1)]
    return said


def plain(value: Any) -> Any:
    """A parameter's value as the configuration has it: arrays as lists."""
    return list(value) if hasattr(value, "typecode") else value


def values_of(parameters: Iterable[Parameter[Any]]) -> dict[str, Any]:
    """The values of parameters by name."""
    return {each.name: plain(each.value) for each in parameters if each.name in NodeConfig.model_fields}


def _is_of_ros(name: str) -> bool:
    return name in BUILT_IN or name.startswith("qos_overrides.")


def _bound(field: FieldInfo, side: str) -> float | None:
    return next((getattr(each, side) for each in field.metadata if hasattr(each, side)), None)
