"""The simulated sensor: its settings, one copy of it with its errors, and the rays of one turn."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pd_edge.config import Config
from pd_edge.errors import ConfigError
from pd_edge.sensors import KITTI, MODEL_HEIGHT, SensorProfile, load_profile
from pd_edge.training.sim.beams import BEAMS, HDL64E, INTENSITY_OFFSET, Weave, beam_height, beams_of

FloatArray = npt.NDArray[np.float64]


_STEP = 0.1733
"""Azimuth step of KITTI's sensor [degrees]."""


class SensorConfig(Config):
    """How the simulated sensor scans and errs. What is left out is as it is of the sensor that ``model`` names."""

    model: str = Field(HDL64E, description=f"The sensor, whose beams these are: {', '.join(BEAMS)}.")
    height: float = Field(
        MODEL_HEIGHT, gt=0, le=10, description="Of the sensor above a level road, about [m]; left out, its profile's."
    )
    azimuth_step: float = Field(_STEP, gt=0, description="Angle between neighbouring columns [degrees].")
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
    intensity_scale: float = Field(1.0, gt=0, le=1, description="Intensity of a matt white surface nearby, 0..1.")
    intensity_fade: float = Field(
        1.0, ge=0, description="How much the intensity falls with the power that returns; 0: evened out at any range."
    )
    gain_sd: float = Field(0.03, ge=0, description="Standard deviation of a beam's intensity offset in a frame.")
    noise_min: float = Field(0.7, gt=0, description="Least factor of a frame on range noise, bias and losses.")
    noise_max: float = Field(1.5, gt=0, description="Greatest factor of a frame on range noise, bias and losses.")

    @model_validator(mode="before")
    @classmethod
    def _as_the_model(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("model", HDL64E) == HDL64E:
            return data
        try:
            if beams_of(data["model"]).weave is not None and data.get("azimuth_step", _STEP) != _STEP:
                raise ValueError(f"azimuth_step: the {data['model']} has no columns; leave it out")
            return {**beams_of(data["model"]).settings, "height": _own_profile(data["model"]).height, **data}
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @property
    def profile(self) -> SensorProfile:
        """How clouds of this sensor are to be read: mount and intensity, as the profile of its name has them."""
        return _own_profile(self.model).model_copy(update={"height": self.height})

    @property
    def lift(self) -> float:
        """Height above the place of KITTI's sensor, which the world is built around [m]."""
        return self.height - MODEL_HEIGHT


@cache
def _own_profile(model: str) -> SensorProfile:
    """KITTI's for the HDL-64E, whose clouds have intensities of 0..1; the shipped one for any other."""
    return KITTI if model == HDL64E else load_profile(model)


class Rays(NamedTuple):
    """Pulses of one turn around the place of KITTI's sensor, beam by beam as KITTI stores points."""

    origins: npt.NDArray[np.float32]
    """(N, 3) float32 [m]."""
    directions: npt.NDArray[np.float32]
    """(N, 3) float32, unit vectors."""
    beam: npt.NDArray[np.int64]
    """(N,) int64, 0 is the highest beam."""


class Sensor(NamedTuple):
    """One copy of the sensor, with the errors it keeps from turn to turn."""

    elevation: FloatArray
    """(beams,) float64 [rad]."""
    bias: FloatArray
    """(beams,) float64, constant range error of each beam [m]."""
    gain: FloatArray
    """(beams,) float64, offset of each beam's intensity."""
    noise: float
    """Factor on noise and losses."""


def draw_sensor(rng: np.random.Generator, config: SensorConfig) -> Sensor:
    """A sensor that deviates from the one of its data sheet, or of KITTI's car, as the configuration says."""
    nominal = np.radians(beams_of(config.model).elevation)
    count = len(nominal)
    offset = np.array(INTENSITY_OFFSET) if config.model == HDL64E else np.zeros(count)
    noise = rng.uniform(config.noise_min, config.noise_max)
    elevation = nominal + np.radians(config.elevation_jitter) * rng.standard_normal(count)
    bias = config.beam_bias * noise * rng.standard_normal(count)
    gain = offset + config.gain_sd * rng.standard_normal(count)
    return Sensor(elevation, bias, gain, noise)


HALF_VIEW, LOWEST_VIEW = 42.5, -17.6
"""Azimuth [degrees] either side, and elevation at the height of KITTI's sensor, of what can land in the image."""


def turn_rays(rng: np.random.Generator, config: SensorConfig, sensor: Sensor, full: bool) -> Rays:
    """The pulses of one turn; every beam starts it at an azimuth of its own.

    Args:
        rng: Source of the starting azimuths.
        config: The sensor's model, azimuth step and height.
        sensor: Its beams.
        full: True for all around, False for the pulses that can land in the camera's image.
    """
    weave = beams_of(config.model).weave
    if weave is not None:
        return _woven(rng, config, sensor, weave, 180.0 if full else HALF_VIEW)
    step, count = config.azimuth_step, len(sensor.elevation)
    # From above the camera, what the image shows at its lower edge may be right below.
    steep = full or config.lift > 0
    beams = np.arange(count) if steep else np.flatnonzero(sensor.elevation > np.radians(LOWEST_VIEW))
    half = 180.0 if full else HALF_VIEW
    columns = np.concatenate([np.arange(0.0, half - step if full else half, step), np.arange(-half, 0.0, step)])
    azimuth = np.radians(columns[None, :] + rng.uniform(0, step, count)[beams, None]).ravel()
    slope = np.repeat(sensor.elevation[beams], len(columns))
    return _rays(config, azimuth, slope, np.repeat(beams, len(columns)))


def _woven(rng: np.random.Generator, config: SensorConfig, sensor: Sensor, weave: Weave, half: float) -> Rays:
    """The pulses of a weave whose azimuth is within ``half`` [degrees]; every turn starts at other phases."""
    time = np.arange(weave.pulses // weave.lines) / (weave.pulses // weave.lines)
    line = np.repeat(np.arange(weave.lines), len(time))
    time = np.tile(time, weave.lines)
    round_, sweep = rng.random(2)
    azimuth = (2 * (weave.rounds * time + round_) + 1) % 2 - 1
    height = np.abs((2 * (weave.sweeps * time + sweep + line / weave.lines)) % 2 - 1)
    slope = np.radians(weave.lowest + (weave.highest - weave.lowest) * height) + sensor.elevation[line]
    seen = np.abs(azimuth) * 180.0 <= half
    return _rays(config, np.pi * azimuth[seen], slope[seen], line[seen])


def _rays(config: SensorConfig, azimuth: FloatArray, slope: FloatArray, beam: npt.NDArray[np.int64]) -> Rays:
    """Pulses of beams at azimuths and elevations [rad], from where the beams leave."""
    directions = np.column_stack([np.cos(slope) * np.cos(azimuth), np.cos(slope) * np.sin(azimuth), np.sin(slope)])
    height = beam_height(beam) if config.model == HDL64E else np.zeros(len(beam))
    origins = np.column_stack([np.zeros((len(beam), 2)), height + config.lift])
    return Rays(origins.astype(np.float32), directions.astype(np.float32), beam)
