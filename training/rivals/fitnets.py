"""FitNets: the student's map, through a 1x1 regressor, imitates the teacher's.

Source: Romero et al., FitNets: Hints for Thin Deep Nets (ICLR 2015), equation 3. Deviations: the squared error is a
mean over elements, not a sum, so that the weight does not depend on the map's size; and the hint is learnt beside the
detector's own loss for the whole run, not in a stage before it, as the field's later comparisons do.
"""

from typing import Literal

from pydantic import Field
from torch.nn import functional

from pd_edge.config import ModelConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations
from pd_edge.training.rivals.maps import Layer, adapter, feature_map


class FitNetsConfig(MethodConfig):
    """FitNets' hints."""

    method: Literal["fitnets"] = Field("fitnets", description="Name of the method.")
    weight: float = Field(2.0, ge=0, description="Factor on the method's loss.")
    layer: Layer = Field("stage2", description="Map that is imitated; the middle of the network as in the paper.")


class FitNets(Method):
    """Half the mean squared error between the adapted student's map and the teacher's."""

    def __init__(self, config: FitNetsConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._layer = config.layer
        self.regressor = adapter(teacher, student, config.layer)

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The hint loss."""
        guided = self.regressor(feature_map(student, self._layer))
        error = functional.mse_loss(guided, feature_map(teacher, self._layer))
        return Lesson(error / 2, {"rms_error": error.detach().sqrt()})
