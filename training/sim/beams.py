"""How sensors shoot: the beams of each, and what else of it differs from the HDL-64E.

How a sensor is mounted and writes points stands in its profile, of the same name, in ``pd_edge/sensor_profiles``.

Beam angles and the heights of their origins of the HDL-64E were fitted to full scans of KITTI's sensor: on every ring
the height of the points is a straight line over their horizontal distance, to better than 0.1 mrad. Those of the
others are nominal values of data sheets and manuals, named at each; their pulses leave from one point.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

HDL64E = "hdl-64e"
ELEVATION_DEGREES = (
    *(1.937, 1.574, 1.305, 0.872, 0.579, 0.181, -0.089, -0.452, -0.803, -1.201, -1.494, -1.833, -2.208, -2.547),
    *(-2.874, -3.236, -3.539, -3.936, -4.216, -4.588, -4.914, -5.251, -5.610, -5.958, -6.329, -6.676, -6.999, -7.287),
    *(-7.679, -8.058, -8.311, -8.712, -9.026, -9.574, -10.063, -10.471, -10.957, -11.599, -12.115, -12.562, -13.041),
    *(-13.485, -14.048, -14.598, -15.189, -15.657, -16.177, -16.554, -17.187, -17.730, -18.323, -18.797, -19.320),
    *(-19.736, -20.222, -20.787, -21.318, -21.935, -22.438, -22.856, -23.323, -23.972, -24.506, -24.999),
)
"""Elevation of the HDL-64E's 64 beams, top to bottom [degrees]."""
INTENSITY_OFFSET = (
    *(0.01, -0.02, -0.05, -0.14, 0.00, -0.06, 0.02, -0.05, 0.01, -0.08, -0.01, 0.01, 0.03, -0.01, -0.04, -0.04),
    *(-0.03, -0.02, 0.02, -0.08, 0.00, -0.16, 0.01, 0.01, -0.10, -0.03, -0.01, 0.01, 0.01, -0.11, 0.01, 0.01),
    *(-0.04, -0.05, -0.02, -0.12, -0.21, -0.01, 0.04, 0.03, -0.03, 0.00, -0.16, 0.00, -0.01, 0.00, 0.00, -0.02),
    *(-0.06, 0.01, 0.04, -0.22, -0.01, -0.09, -0.10, -0.01, 0.01, 0.05, -0.09, -0.09, -0.10, 0.01, 0.05, 0.03),
)
"""What each beam reports above or below the others, medians over road and walls."""
UPPER_BLOCK = 32
"""The first 32 beams come out of the upper of the sensor's two optical blocks."""


class Weave(NamedTuple):
    """A pattern that does not repeat: a few lines sweep up and down while they go round.

    An approximation of prism scanners: what is published of them is the field of view, the number of points, and that
    turns fill each other's gaps, which two incommensurable frequencies do too.
    """

    lines: int
    """Lasers."""
    pulses: int
    """Pulses of all lines in a turn."""
    lowest: float
    """[degrees]"""
    highest: float
    """[degrees]"""
    rounds: float
    """Times that a line goes round in a turn."""
    sweeps: float
    """Times that it goes up and down."""


class Beams(NamedTuple):
    """How one sensor shoots."""

    elevation: tuple[float, ...]
    """Of each beam, top to bottom [degrees]; of a weave's lines all 0."""
    settings: Mapping[str, float]
    """Fields of :class:`~pd_edge.training.sim.sensor.SensorConfig` that are not as the HDL-64E's."""
    weave: Weave | None = None
    """The pattern of a sensor that has no fixed beams."""


def _even(top: float, bottom: float, count: int) -> tuple[float, ...]:
    return tuple(float(angle) for angle in np.linspace(top, bottom, count))


def _power_at(metres: float) -> float:
    """``weak_power`` of a sensor that sees a tenth of reflectivity so far, as its data sheet says.

    The HDL-64E's stands for 50 m (its data sheet); power falls with the square of the distance.
    """
    return round(-9.65 - 2.0 * math.log(metres / 50.0), 2)


def _calibrated(diffuse: float) -> dict[str, float]:
    """Settings of sensors that report a calibrated reflectivity: the same at every range, a matt white at ``diffuse``.

    Retroreflectors fill the rest of the scale, 0..1.
    """
    scale = round(diffuse, 3)
    return {
        "intensity_scale": scale,
        "intensity_fade": 0.0,
        "intensity_noise": 0.02,
        "intensity_floor": 0.0,
        "gain_sd": 0.01,
    }


_VLP_ACCURACY = {"range_noise": 0.018, "beam_bias": 0.012}
"""Typically +-3 cm, where the HDL-64E's data sheet has 2 cm."""

BEAMS: dict[str, Beams] = {
    HDL64E: Beams(ELEVATION_DEGREES, {}),
    # Velodyne VLP-16 user manual, 63-9243: 15 to -15 degrees, 100 m, +-3 cm, 0.2 degrees at 10 Hz.
    "vlp-16": Beams(
        _even(15.0, -15.0, 16),
        {"azimuth_step": 0.2, "range_min": 0.5, "range_max": 100.0, **_VLP_ACCURACY, **_calibrated(100 / 255)},
    ),
    # Velodyne VLP-32C user manual, 63-9325: table of laser angles, 200 m, +-3 cm, 0.2 degrees at 10 Hz.
    "vlp-32c": Beams(
        (
            *(15.0, 10.333, 7.0, 4.667, 3.333, 2.333, 1.667, 1.333, 1.0, 0.667, 0.333, 0.0, -0.333, -0.667, -1.0),
            *(-1.333, -1.667, -2.0, -2.333, -2.667, -3.0, -3.333, -3.667, -4.0, -4.667, -5.333, -6.148, -7.254),
            *(-8.843, -11.31, -15.639, -25.0),
        ),
        {"azimuth_step": 0.2, "range_min": 0.5, "range_max": 200.0, **_VLP_ACCURACY, **_calibrated(100 / 255)},
    ),
    # Hesai PandarXT-32 user manual: 15 to -16 degrees, 120 m, 80 m at 10 %, +-1 cm, 0.18 degrees at 10 Hz.
    "xt32": Beams(
        _even(15.0, -16.0, 32),
        {
            "azimuth_step": 0.18,
            "range_min": 0.05,
            "range_max": 120.0,
            "range_noise": 0.005,
            "beam_bias": 0.005,
            "weak_power": _power_at(80.0),
            **_calibrated(100 / 255),
        },
    ),
    # Hesai Pandar64 user manual: table of channel angles, 200 m at 10 %, +-2 cm, 0.2 degrees at 10 Hz.
    "pandar64": Beams(
        (
            *(14.882, 11.032, 8.059, 5.057, 3.04, 2.028, 1.86, 1.688, 1.522, 1.351, 1.184, 1.013, 0.846, 0.675, 0.508),
            *(0.337, 0.169, 0.0, -0.169, -0.337, -0.508, -0.675, -0.845, -1.013, -1.184, -1.351, -1.522, -1.688, -1.86),
            *(-2.028, -2.198, -2.365, -2.536, -2.7, -2.873, -3.04, -3.21, -3.375, -3.548, -3.712, -3.884, -4.05),
            *(-4.221, -4.385, -4.558, -4.72, -4.892, -5.057, -5.229, -5.391, -5.565, -5.726, -5.898, -6.061, -7.063),
            *(-8.059, -9.06, -9.885, -11.032, -12.006, -12.974, -13.93, -18.889, -24.897),
        ),
        {
            "azimuth_step": 0.2,
            "range_min": 0.3,
            "range_max": 200.0,
            "weak_power": _power_at(200.0),
            **_calibrated(100 / 255),
        },
    ),
    # Ouster OS1 data sheet: 64 beams over 33.2 degrees, 2048 columns, 120 m, 40 m at 10 %, 1.5 .. 3 cm (1 sigma).
    "os1-64": Beams(
        _even(16.6, -16.6, 64),
        {
            "azimuth_step": 360 / 2048,
            "range_min": 0.8,
            "range_max": 120.0,
            "range_noise": 0.02,
            "beam_bias": 0.0,
            "weak_power": _power_at(40.0),
            **_calibrated(100 / 255),
        },
    ),
    # Ouster OS1 data sheet: 128 beams over 45 degrees, otherwise as the OS1-64.
    "os1-128": Beams(
        _even(22.5, -22.5, 128),
        {
            "azimuth_step": 360 / 2048,
            "range_min": 0.8,
            "range_max": 120.0,
            "range_noise": 0.02,
            "beam_bias": 0.0,
            "weak_power": _power_at(40.0),
            **_calibrated(100 / 255),
        },
    ),
    # Livox Mid-360 user manual: -7 to 52 degrees, 200,000 points/s, 40 m at 10 %, 2 cm (1 sigma), matt surfaces 0..150.
    "mid-360": Beams(
        (0.0,) * 4,
        {
            "range_min": 0.1,
            "range_max": 70.0,
            "range_noise": 0.02,
            "beam_bias": 0.0,
            "weak_power": _power_at(40.0),
            **_calibrated(150 / 255),
        },
        Weave(lines=4, pulses=20_000, lowest=-7.0, highest=52.0, rounds=21.0, sweeps=33.98),
    ),
}
"""Beams of the sensors that can be simulated, by the name of their profile."""


def beams_of(model: str) -> Beams:
    """The beams of a sensor.

    Raises:
        ConfigError: It cannot be simulated.
    """
    if model not in BEAMS:
        raise ConfigError(f"sensor {model!r} cannot be simulated; use one of {', '.join(BEAMS)}")
    return BEAMS[model]


def beam_height(beam: npt.NDArray[np.int64]) -> FloatArray:
    """Height of the origin of the HDL-64E's beams 0..63 above the sensor frame's [m]."""
    return np.where(beam < UPPER_BLOCK, 0.209 - 0.00035 * beam, 0.126 - 0.0003 * (beam - UPPER_BLOCK))


def nearest_beam(points: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """(N,) int64, the beam of the HDL-64E that each of (N, 3 or more) points [m] came from, by its elevation."""
    across = np.hypot(points[:, 0], points[:, 1])
    upper, lower = (
        np.degrees(np.arctan2(points[:, 2] - float(beam_height(np.array(middle))), across)) for middle in (16, 48)
    )
    limits = 0.5 * (np.array(ELEVATION_DEGREES[1:]) + np.array(ELEVATION_DEGREES[:-1]))
    elevation = np.where(upper > limits[UPPER_BLOCK - 1], upper, np.minimum(lower, limits[UPPER_BLOCK - 1] - 1e-6))
    return np.asarray(np.searchsorted(-limits, -elevation), np.int64)
