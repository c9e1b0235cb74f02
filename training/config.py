"""Configuration of a training run. The run writes it, resolved, beside its weights; every field is read (a test)."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pd_edge.config import Config, ModelConfig, SecondConfig
from pd_edge.training.data_config import AugmentConfig, DataConfig


class Thresholds(Config):
    """Nearest-BEV IoU limits of one class's anchors."""

    positive: float = Field(gt=0, le=1, description="An anchor overlapping an object at least this much learns it.")
    negative: float = Field(gt=0, le=1, description="An anchor overlapping every object less is background.")

    @model_validator(mode="after")
    def _ordered(self) -> "Thresholds":
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} must not exceed positive {self.positive}")
        return self


# Source: PointDistiller's PointPillars configuration (Car .6/.45, Pedestrian and Cyclist .5/.35).
KITTI_THRESHOLDS = {
    "Car": Thresholds(positive=0.6, negative=0.45),
    "Pedestrian": Thresholds(positive=0.5, negative=0.35),
    "Cyclist": Thresholds(positive=0.5, negative=0.35),
}


# Source: mmdetection3d's SECOND configuration for three classes of KITTI.
SECOND_THRESHOLDS = {
    "Car": Thresholds(positive=0.6, negative=0.45),
    "Pedestrian": Thresholds(positive=0.35, negative=0.2),
    "Cyclist": Thresholds(positive=0.35, negative=0.2),
}


def _usual_thresholds(data: dict[str, Any]) -> dict[str, Thresholds]:
    """What a detector is usually trained with; ``data`` are the fields before."""
    return SECOND_THRESHOLDS if isinstance(data["model"], SecondConfig) else KITTI_THRESHOLDS


class LossConfig(Config):
    """Weights and shapes of the three parts of the detector's loss."""

    class_weight: float = Field(1.0, ge=0, description="Weight of the focal classification loss.")
    box_weight: float = Field(2.0, ge=0, description="Weight of the smooth-L1 box loss.")
    direction_weight: float = Field(0.2, ge=0, description="Weight of the direction cross-entropy.")
    focal_alpha: float = Field(0.25, gt=0, lt=1, description="Focal loss: weight of the foreground.")
    focal_gamma: float = Field(2.0, ge=0, description="Focal loss: exponent that quietens easy anchors.")
    smooth_l1_beta: float = Field(1 / 9, gt=0, description="Residual at which smooth L1 turns from square to linear.")


class OptimiserConfig(Config):
    """AdamW with a one-cycle schedule over the whole run (cosine up, cosine down).

    Source: mmdetection3d's cyclic schedule as PointDistiller uses it; the peak is OpenPCDet's for four frames a step.
    """

    start_lr: float = Field(1e-3, gt=0, description="Learning rate of the first step.")
    peak_lr: float = Field(3e-3, gt=0, description="Learning rate at the top of the cycle.")
    end_lr: float = Field(1e-7, ge=0, description="Learning rate after the last step.")
    rise: float = Field(0.4, gt=0, lt=1, description="Share of the run before the peak.")
    beta1: float = Field(0.95, ge=0, lt=1, description="AdamW's first-moment decay at both ends of the cycle.")
    beta1_at_peak: float = Field(0.85, ge=0, lt=1, description="First-moment decay where the learning rate peaks.")
    beta2: float = Field(0.99, ge=0, lt=1, description="AdamW's second-moment decay.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay, on every parameter.")
    clip_norm: float = Field(35.0, gt=0, description="Greatest norm of the gradient; longer ones are scaled down.")


class CheckpointConfig(Config):
    """When the state of a run is saved; whichever comes first counts."""

    every_steps: int = Field(1000, gt=0, description="Optimiser steps between checkpoints.")
    every_minutes: float = Field(10.0, gt=0, description="Minutes between checkpoints.")
    keep: int = Field(2, gt=0, description="Newest checkpoints that stay on disk.")


class TrainConfig(Config):
    """Everything a training run depends on, apart from the bytes of its data."""

    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    thresholds: dict[str, Thresholds] = Field(
        default_factory=_usual_thresholds,
        description="Anchor assignment, by class name; the detector's own by default.",
    )
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: int = Field(gt=0, description="Frames to train on in all, over every process.")
    batch_size: int = Field(4, gt=0, description="Frames in a step of one process.")
    workers: int = Field(1, ge=0, description="Data loading processes of each training process; 0 loads in line.")
    seed: int = Field(0, ge=0, description="Seed of the initial weights, the order of the frames and augmentation.")
    amp: bool = Field(default=True, description="Mixed precision: bfloat16, or float16 on a GPU without it.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay per step of the averaged weights that are kept in the end; 0: no average."
    )
    init: Path | None = Field(None, description="Weights to start from: a .safetensors file, checkpoint or run.")
    log_every: int = Field(50, gt=0, description="Steps between lines of the log and points of the curves.")

    @model_validator(mode="after")
    def _learns_from_something(self) -> "TrainConfig":
        if not self.data.sources and not self.has_unlabelled:
            raise ValueError("data.sources is empty; name a folder to train on")
        return self

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are clouds without labels to learn from, which takes a teacher."""
        return False

    @model_validator(mode="after")
    def _thresholds_match(self) -> "TrainConfig":
        names = {each.name for each in self.model.classes}
        if names != set(self.thresholds):
            raise ValueError(f"thresholds are for {sorted(self.thresholds)}, the model's classes are {sorted(names)}")
        return self
