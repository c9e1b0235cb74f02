"""What every distillation method is: a module that compares a student with its teacher on the same batch.

A method owns whatever it learns beside the student (adapters, projections). None of it reaches a saved student.
"""

from typing import ClassVar, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from pd_edge.config import Config
from pd_edge.training.batches import Batch
from pd_edge.training.network import Activations, Network
from pd_edge.training.targets import Targets


class MethodConfig(Config):
    """What all methods are set by."""

    weight: float = Field(1.0, ge=0, description="Factor on the method's loss, which is added to the detector's own.")


class NoLossConfig(MethodConfig):
    """What methods without a loss of their own are set by."""

    @field_validator("weight")
    @classmethod
    def _nothing_to_weigh(cls, weight: float) -> float:
        if weight != cls.model_fields["weight"].default:
            raise ValueError(f"weight {weight}: this method has no loss that it could act on; leave it out")
        return weight


class Lesson(NamedTuple):
    """What a method makes of one batch.

    Attributes:
        loss: Scalar float32, before the factor ``weight``.
        diagnostics: Scalars without gradient for the curves, by name.
    """

    loss: Tensor
    diagnostics: dict[str, Tensor]


class Method(nn.Module):
    """Compares student and teacher. A method overrides what it needs of the three steps below.

    All are called outside autocast. The teacher's activations carry no gradient; maps may be bfloat16 and are to be
    taken to float32 before anything is summed.
    """

    compares: ClassVar[bool] = True
    """Whether the teacher's activations are of use in a step; if not, the teacher is not run."""

    def initialise(self, student: Network, teacher: Network) -> None:
        """Changes the student's initial weights, once, before the first step."""

    def targets(self, teacher: Activations, batch: Batch) -> Targets:
        """The targets of the detector's own loss; those of the ground truth unless a method adds to them."""
        return batch.targets

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The method's loss on a batch; nothing unless a method says otherwise."""
        return Lesson(student.neck.new_zeros((), dtype=torch.float32), {})
