"""Why there are no boxes: what a sensor's clouds are like against what models know, with the line of config to change.

Each check of :data:`CHECKS` is a function from :class:`Evidence` to a :class:`Finding` or nothing. They go through the
clouds in an order in which each can rely on the ones before: what a finding proposes is applied before the next check.
"""

from collections.abc import Callable

from pd_edge.config import GridConfig
from pd_edge.doctor_evidence import Evidence, Finding, Sample
from pd_edge.doctor_mount import check_ahead, check_frame, check_ground, check_height, check_tilt, check_unit, check_up
from pd_edge.doctor_points import (
    check_density,
    check_fields,
    check_grid,
    check_intensity,
    check_intensity_range,
    check_missing,
    check_qos,
)
from pd_edge.doctor_reference import Reference
from pd_edge.sensors import SensorProfile

Check = Callable[[Evidence], Finding | None]

CHECKS: tuple[Check, ...] = (
    check_fields,
    check_missing,
    check_frame,
    check_unit,
    check_up,
    check_ahead,
    check_ground,
    check_tilt,
    check_height,
    check_intensity_range,
    check_intensity,
    check_grid,
    check_density,
    check_qos,
)
"""In the order in which they can rely on each other."""


def diagnose(
    sample: Sample, profile: SensorProfile, grid: GridConfig, reference: Reference
) -> tuple[list[Finding], SensorProfile]:
    """Goes through all checks.

    Args:
        sample: The clouds.
        profile: The sensor profile that is in use.
        grid: The model's grid.
        reference: Figures of the training data.

    Returns:
        What was found, and the profile with all changes proposed.
    """
    findings = []
    evidence = Evidence(sample, profile, grid, reference)
    for check in CHECKS:
        finding = check(evidence)
        if finding is None:
            continue
        findings.append(finding)
        if finding.change:
            profile = profile.model_copy(update=finding.change)
            evidence = Evidence(sample, profile, grid, reference)
    return findings, profile
