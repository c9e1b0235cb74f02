"""What ``pd-edge doctor`` looks at, and what it says."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.config import GridConfig
from pd_edge.doctor_reference import Reference
from pd_edge.ground import Ground, find_ground
from pd_edge.sensors import SensorProfile, corrected, in_metres, mount_of

IN_PROFILE = "sensor profile"
"""Where a line of config belongs, before the line."""


class Finding(NamedTuple):
    """Something that is not as models know it.

    Attributes:
        name: Of the check.
        measured: What was found.
        expected: What models know.
        meaning: What follows.
        remedy: The line of config or the command that mends it.
        blocks: Whether it keeps boxes away.
        change: The same as values of a sensor profile; empty where none would mend it.
    """

    name: str
    measured: str
    expected: str
    meaning: str
    remedy: str
    blocks: bool
    change: dict[str, Any]


class Sample(NamedTuple):
    """Some clouds of a sensor, as it writes them.

    Attributes:
        clouds: (N, 4) float32 each, N > 0, all finite: coordinates and intensity as written.
        removed: Share of the points that were NaN, infinite or at the origin.
        intensity: Whether there is a field of intensities; zeros stand for it where not.
        fields: Names of the fields; empty where the format has none.
        frame_id: Frame that messages name; empty for files.
        message_bytes: Size of a message; 0 for files.
        reliability: ``best_effort`` or ``reliable`` as published or recorded; empty where unknown.
    """

    clouds: list[Cloud]
    removed: float = 0.0
    intensity: bool = True
    fields: tuple[str, ...] = ()
    frame_id: str = ""
    message_bytes: int = 0
    reliability: str = ""


class Evidence:
    """What checks look at: clouds under a sensor profile.

    Args:
        sample: The clouds.
        profile: The sensor profile, with what earlier checks proposed.
        grid: The model's grid.
        reference: Figures of the training data.

    Attributes:
        own: All clouds in one, (N, 4) in their own frame [m], intensity as written.
        level: The same in the model's frame.
    """

    def __init__(self, sample: Sample, profile: SensorProfile, grid: GridConfig, reference: Reference) -> None:
        self.sample, self.profile, self.grid, self.reference = sample, profile, grid, reference
        self.own: Cloud = in_metres(np.concatenate(sample.clouds), profile).astype(np.float32)
        self.level = mount_of(profile).points(self.own)

    @cached_property
    def up(self) -> npt.NDArray[np.float64]:
        """(3,) what the profile takes for up, in the clouds' own frame."""
        return mount_of(self.profile).to_model[2, :3]

    @cached_property
    def ground(self) -> Ground | None:
        """The ground, within 35 degrees of where the profile has it, or of the opposite."""
        return find_ground(self.own, int(np.argmax(np.abs(self.up))))

    def clouds(self) -> list[Cloud]:
        """The clouds as the detector has them: in the model's frame [m], intensity 0..1.

        Raises:
            DataError: Their intensities fit no range.
        """
        mount = mount_of(self.profile)
        return [mount.points(corrected(each, "cloud", self.profile).points) for each in self.sample.clouds]
