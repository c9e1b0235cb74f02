"""No distillation: the baseline of every comparison."""

from typing import Literal

from pydantic import Field

from pd_edge.config import ModelConfig
from pd_edge.training.method import Method, NoLossConfig


class NoMethodConfig(NoLossConfig):
    """No distillation: the student learns from the labels alone."""

    method: Literal["none"] = Field("none", description="Name of the method.")


class NoMethod(Method):
    """Leaves the student to its labels; the baseline of every comparison."""

    compares = False

    def __init__(self, config: NoMethodConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
