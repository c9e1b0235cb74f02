"""Configuration of training clouds without labels."""

from pathlib import Path

from pydantic import Field, model_validator

from pd_edge.config import Config


class UnlabelledSource(Config):
    """Clouds without labels and their share of the training samples."""

    path: Path = Field(description="A bag, a folder of clouds, a KITTI object folder or a raw drive.")
    sensor: str = Field("", description="Sensor profile: a shipped one's name or a YAML file; empty as in KITTI.")
    topic: str | None = Field(None, description="Topic of a bag's clouds; its only one if left out.")
    weight: float = Field(1.0, gt=0, description="Share of the samples, relative to all other sources' weights.")


class UnlabelledConfig(Config):
    """What a student learns from clouds without labels: its teacher's boxes, as sure as that is of them."""

    sources: tuple[UnlabelledSource, ...] = Field(min_length=1, description="Clouds, mixed by their weights.")
    high: float = Field(0.5, gt=0, le=1, description="Boxes of the teacher that score this or more are labels.")
    low: float = Field(
        0.15, gt=0, le=1, description="Boxes that score less are background; those in between count neither way."
    )
    every: int = Field(1, ge=1, description="Take every so-many-th cloud of a source.")
    mirrored: bool = Field(
        default=False,
        description="The teacher also looks at the mirrored cloud; boxes score the mean, zero where one look lacks it.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "UnlabelledConfig":
        if self.low > self.high:
            raise ValueError(f"low {self.low} must not exceed high {self.high}")
        return self
