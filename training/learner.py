"""What one training step computes: a detector with its own loss, alone or beside its teacher.

A learner is one module, so that the processes of torchrun average the gradients of all that is trained in it.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pd_edge.training.batches import Batch
from pd_edge.training.config import TrainConfig
from pd_edge.training.losses import detection_losses
from pd_edge.training.method import Method
from pd_edge.training.network import Activations, Network


class Detecting(nn.Module):
    """The detector with its own loss."""

    def __init__(self, model: Network, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self._loss, self._amp = config.loss, config.amp

    @property
    def companions(self) -> nn.Module | None:
        """What is trained beside the detector, and is not part of it."""
        return None

    @property
    def teacher_sha256(self) -> str | None:
        """SHA-256 of the weights of the teacher, where there is one."""
        return None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a batch: ``total``, the loss to descend, and its parts before weighting."""
        return detection_losses(self.activations(self.model, batch).heads, batch.targets, self._loss)._asdict()

    def activations(self, model: Network, batch: Batch) -> Activations:
        """A detector's activations, in mixed precision where that is configured."""
        device = batch.inputs.features.device.type
        with torch.autocast(device, amp_dtype(device), enabled=self._amp):
            return model.activations(batch.inputs)


class Teacher(NamedTuple):
    """A teacher, its method, and the factor on the method's loss.

    Attributes:
        model: The teacher, which may have its batch norms folded.
        sha256: SHA-256 of the weights it was made from.
        method: The method.
        weight: The factor.
    """

    model: Network
    sha256: str
    method: Method
    weight: float


class Distilling(Detecting):
    """The detector with its own loss and that of a distillation method.

    The teacher is no submodule: it is neither trained nor averaged nor saved.
    """

    def __init__(self, model: Network, config: TrainConfig, teacher: Teacher) -> None:
        super().__init__(model, config)
        self._teacher = teacher
        self.method = teacher.method

    @property
    def companions(self) -> nn.Module:
        """The method, which may train projections of its own."""
        return self.method

    @property
    def teacher_sha256(self) -> str:
        """SHA-256 of the teacher's weights."""
        return self._teacher.sha256

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a batch; ``distillation`` is the method's loss before its factor, its diagnostics follow."""
        if not self.method.compares:
            own = super().forward(batch)
            return own | {"distillation": torch.zeros_like(own["total"])}
        with torch.no_grad():
            taught = self.activations(self._teacher.model, batch)
        learnt = self.activations(self.model, batch)
        losses = detection_losses(learnt.heads, self.method.targets(taught, batch), self._loss)
        lesson = self.method(taught, learnt, batch)
        diagnostics = {f"distillation/{name}": value for name, value in lesson.diagnostics.items()}
        total = losses.total + self._teacher.weight * lesson.loss
        return losses._asdict() | {"total": total, "distillation": lesson.loss} | diagnostics


class LearnerFactory(Protocol):
    """Makes the learner of a model that has its initial weights and stands on its device."""

    def __call__(self, model: Network, config: TrainConfig, /) -> Detecting:
        """The learner; called after the model's initial weights are drawn, so that these are the same for all."""
        ...


def amp_dtype(device: str) -> torch.dtype:
    """Bfloat16, or float16 on a GPU without it."""
    return torch.float16 if device == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
