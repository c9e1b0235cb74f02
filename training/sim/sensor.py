"""The HDL-64E: its beams, the rays of one turn, and how a hit becomes a measured point.

Beam angles and the heights of their origins were fitted to full scans of KITTI's sensor: on every ring the height of
the points is a straight line over their horizontal distance, to better than 0.1 mrad.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.config import Config

FloatArray = npt.NDArray[np.float64]

ELEVATION_DEGREES = (
    *(1.937, 1.574, 1.305, 0.872, 0.579, 0.181, -0.089, -0.452, -0.803, -1.201, -1.494, -1.833, -2.208, -2.547),
    *(-2.874, -3.236, -3.539, -3.936, -4.216, -4.588, -4.914, -5.251, -5.610, -5.958, -6.329, -6.676, -6.999, -7.287),
    *(-7.679, -8.058, -8.311, -8.712, -9.026, -9.574, -10.063, -10.471, -10.957, -11.599, -12.115, -12.562, -13.041),
    *(-13.485, -14.048, -14.598, -15.189, -15.657, -16.177, -16.554, -17.187, -17.730, -18.323, -18.797, -19.320),
    *(-19.736, -20.222, -20.787, -21.318, -21.935, -22.438, -22.856, -23.323, -23.972, -24.506, -24.999),
)
"""Elevation of the 64 beams, top to bottom [degrees]."""
INTENSITY_OFFSET = (
    *(0.01, -0.02, -0.05, -0.14, 0.00, -0.06, 0.02, -0.05, 0.01, -0.08, -0.01, 0.01, 0.03, -0.01, -0.04, -0.04),
    *(-0.03, -0.02, 0.02, -0.08, 0.00, -0.16, 0.01, 0.01, -0.10, -0.03, -0.01, 0.01, 0.01, -0.11, 0.01, 0.01),
    *(-0.04, -0.05, -0.02, -0.12, -0.21, -0.01, 0.04, 0.03, -0.03, 0.00, -0.16, 0.00, -0.01, 0.00, 0.00, -0.02),
    *(-0.06, 0.01, 0.04, -0.22, -0.01, -0.09, -0.10, -0.01, 0.01, 0.05, -0.09, -0.09, -0.10, 0.01, 0.05, 0.03),
)
"""What each beam reports above or below the others, medians over road and walls."""
UPPER_BLOCK = 32
"""The first 32 beams come out of the upper of the sensor's two optical blocks."""


class SensorConfig(Config):
    """How the simulated sensor scans and errs."""

    azimuth_step: float = Field(0.1733, gt=0, description="Angle between neighbouring columns [degrees].")
    elevation_jitter: float = Field(0.03, ge=0, description="Standard deviation of a beam's angle per frame [degrees].")
    range_min: float = Field(0.9, ge=0, description="Nearer hits give no point [m].")
    range_max: float = Field(80.0, gt=0, description="Farther hits give no point [m].")
    range_noise: float = Field(0.012, ge=0, description="Standard deviation of a measured range [m].")
    beam_bias: float = Field(0.008, ge=0, description="Standard deviation of a beam's constant range error [m].")
    dropout: float = Field(0.012, ge=0, lt=1, description="Share of pulses lost whatever they hit.")
    weak_dropout: float = Field(0.95, ge=0, le=1, description="Share of pulses lost where the return is weakest.")
    weak_power: float = Field(-9.65, description="Logarithm of the power at which half of these pulses are lost.")
    intensity_noise: float = Field(0.045, ge=0, description="Standard deviation of a measured intensity, 0..1.")
    intensity_floor: float = Field(0.09, ge=0, le=1, description="About where a small intensity is reported as 0.")
    gain_sd: float = Field(0.03, ge=0, description="Standard deviation of a beam's intensity offset in a frame.")
    noise_min: float = Field(0.7, gt=0, description="Least factor of a frame on range noise, bias and losses.")
    noise_max: float = Field(1.5, gt=0, description="Greatest factor of a frame on range noise, bias and losses.")


class Rays(NamedTuple):
    """Pulses of one turn in the sensor frame, in the order in which KITTI stores points."""

    origins: npt.NDArray[np.float32]
    """(N, 3) float32 [m]."""
    directions: npt.NDArray[np.float32]
    """(N, 3) float32, unit vectors."""
    beam: npt.NDArray[np.int64]
    """(N,) int64, 0 is the highest beam."""


class Sensor(NamedTuple):
    """One copy of the sensor, with the errors it keeps from turn to turn."""

    elevation: FloatArray
    """(64,) float64 [rad]."""
    bias: FloatArray
    """(64,) float64, constant range error of each beam [m]."""
    gain: FloatArray
    """(64,) float64, offset of each beam's intensity."""
    noise: float
    """Factor on noise and losses."""


def draw_sensor(rng: np.random.Generator, config: SensorConfig) -> Sensor:
    """A sensor that deviates from the fitted one as the configuration says."""
    noise = rng.uniform(config.noise_min, config.noise_max)
    elevation = np.radians(ELEVATION_DEGREES) + np.radians(config.elevation_jitter) * rng.standard_normal(64)
    bias = config.beam_bias * noise * rng.standard_normal(64)
    gain = np.array(INTENSITY_OFFSET) + config.gain_sd * rng.standard_normal(64)
    return Sensor(elevation, bias, gain, noise)


def beam_height(beam: npt.NDArray[np.int64]) -> FloatArray:
    """Height of the origin of beams 0..63 above the sensor frame's [m]."""
    return np.where(beam < UPPER_BLOCK, 0.209 - 0.00035 * beam, 0.126 - 0.0003 * (beam - UPPER_BLOCK))


def turn_rays(rng: np.random.Generator, config: SensorConfig, sensor: Sensor, full: bool) -> Rays:
    """The pulses of one turn; every beam starts it at an azimuth of its own.

    Args:
        rng: Source of the starting azimuths.
        config: The sensor's azimuth step.
        sensor: Its beams.
        full: True for all around, False for the pulses that can land in the camera's image.
    """
    step = config.azimuth_step
    beams = np.arange(64) if full else np.flatnonzero(sensor.elevation > np.radians(-17.6))
    half = 180.0 if full else 42.5
    columns = np.concatenate([np.arange(0.0, half - step if full else half, step), np.arange(-half, 0.0, step)])
    azimuth = np.radians(columns[None, :] + rng.uniform(0, step, 64)[beams, None]).ravel()
    slope = np.repeat(sensor.elevation[beams], len(columns))
    beam = np.repeat(beams, len(columns))
    directions = np.column_stack([np.cos(slope) * np.cos(azimuth), np.cos(slope) * np.sin(azimuth), np.sin(slope)])
    origins = np.column_stack([np.zeros((len(beam), 2)), beam_height(beam)])
    return Rays(origins.astype(np.float32), directions.astype(np.float32), beam)
