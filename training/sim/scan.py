"""Casts a turn's pulses at a scene and turns hits into points, with the owner of every point."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.training.sim.materials import Material, optics_table
from pd_edge.training.sim.mesh import Mesh, merge
from pd_edge.training.sim.sensor import Rays, Sensor, SensorConfig

FloatArray = npt.NDArray[np.float64]

LAYERS = 4
"""Surfaces one pulse may meet: it can pass through glass, meshes and leaves."""

DARKEST = 0.01
"""Least reflectivity of any surface."""


class Hits(NamedTuple):
    """Nearest opaque surface of every pulse, before the sensor's errors."""

    distance: FloatArray
    """(N,) float64 [m], infinite where nothing is hit."""
    owner: npt.NDArray[np.int64]
    """(N,) int64, index of the piece hit; -1 where nothing is."""
    material: npt.NDArray[np.int64]
    """(N,) int64."""
    cosine: FloatArray
    """(N,) float64, cosine of the angle of incidence."""


class Scan(NamedTuple):
    """A measured turn."""

    points: npt.NDArray[np.float32]
    """(M, 4) float32, x y z [m] in the sensor's own frame, and the intensity as the sensor writes it."""
    owner: npt.NDArray[np.int64]
    """(M,) int64, index of the piece each point lies on."""
    hits: Hits
    """What every pulse met, also those that gave no point."""

    def points_on(self, pieces: int, chosen: npt.NDArray[np.bool_] | slice = slice(None)) -> npt.NDArray[np.int64]:
        """(pieces,) int64, the chosen points on each of the first pieces."""
        return np.bincount(self.owner[chosen], minlength=pieces)[:pieces].astype(np.int64)


def draw_reflectivity(rng: np.random.Generator, pieces: int) -> FloatArray:
    """(pieces, M) float64: how bright each piece of a scene is in every material."""
    table = optics_table()
    drawn = table[None, :, 0] + table[None, :, 1] * rng.standard_normal((pieces, len(Material)))
    return np.maximum(drawn, DARKEST)


def scan(
    rng: np.random.Generator,
    config: SensorConfig,
    sensor: Sensor,
    rays: Rays,
    pieces: Sequence[Mesh],
    *,
    reflectivity: FloatArray,
) -> Scan:
    """One turn of the sensor, all pulses from one place: the car's motion during the turn is left out.

    Args:
        rng: Source of noise and losses.
        config: The sensor.
        sensor: Its lasting errors.
        rays: The pulses.
        pieces: The scene around the place of KITTI's sensor [m]; an index into it is the owner reported.
        reflectivity: (pieces, M) of every piece in every material.

    Raises:
        MissingExtraError: Open3D is not installed.
    """
    hits = cast(rng, rays, pieces)
    shine = _shine(config, sensor, rays, hits, reflectivity)
    kept = np.flatnonzero(_returned(rng, config, sensor, hits, shine.power))
    depth = optics_table()[hits.material[kept], 4]
    error = sensor.bias[rays.beam[kept]] + sensor.noise * config.range_noise * rng.standard_normal(len(kept))
    measured = hits.distance[kept] + error + np.abs(depth * rng.standard_normal(len(kept)))
    xyz = rays.origins[kept] + rays.directions[kept] * measured[:, None]
    xyz[:, 2] -= config.lift
    intensity = _written(config, _reported(rng, config, shine.intensity[kept]))
    rounded = np.column_stack([xyz.round(3), intensity])
    return Scan(rounded.astype(np.float32), hits.owner[kept], hits)


def _reported(rng: np.random.Generator, config: SensorConfig, intensity: FloatArray) -> FloatArray:
    """Intensities with noise; what is below a threshold that is not sharp is reported as zero."""
    noisy = np.clip(intensity + config.intensity_noise * rng.standard_normal(len(intensity)), 0.0, 0.99)
    threshold = config.intensity_floor * rng.uniform(0.4, 1.4, len(intensity))
    return np.where(noisy < threshold, 0.0, noisy)


def _written(config: SensorConfig, intensity: FloatArray) -> FloatArray:
    """Intensities 0..1 as the sensor writes them: KITTI's as hundredths, others as whole numbers of their scale."""
    greatest = config.profile.intensity_max
    return intensity.round(2) if greatest is None else (intensity * greatest).round()


def cast(rng: np.random.Generator, rays: Rays, pieces: Sequence[Mesh]) -> Hits:
    """Finds what every pulse meets, letting it pass through what is partly transparent."""
    world = _World(pieces)
    through = optics_table()[:, 2]
    hits = world.first_hits(rays.origins, rays.directions)
    passing = np.flatnonzero(_passes(rng, hits, through))
    for _ in range(LAYERS - 1):
        if not len(passing):
            break
        start = hits.distance[passing] + 0.01
        directions = rays.directions[passing]
        origins = rays.origins[passing] + (directions * start[:, None]).astype(np.float32)
        behind = world.first_hits(origins, directions)
        hits.distance[passing] = behind.distance + start
        hits.owner[passing], hits.material[passing] = behind.owner, behind.material
        hits.cosine[passing] = behind.cosine
        passing = passing[_passes(rng, behind, through)]
    return hits


def _passes(rng: np.random.Generator, hits: Hits, through: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray((hits.owner >= 0) & (rng.random(len(hits.owner)) < through[hits.material]))


class _World:
    """The scene as Open3D keeps it: one mesh, with owner and material of each triangle beside it."""

    def __init__(self, pieces: Sequence[Mesh]) -> None:
        try:
            import open3d  # noqa: PLC0415 - an extra, and slow to import
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "open3d", "train") from error
        except (ImportError, OSError) as error:
            raise EngineError(
                f"open3d cannot be loaded ({error}); it needs system libraries, on Debian and Ubuntu: "
                "apt-get install libegl1 libgl1 libgomp1 libusb-1.0-0 libx11-6"
            ) from error
        mesh = merge(pieces)
        self._owner = np.repeat(np.arange(len(pieces)), [len(piece.triangles) for piece in pieces])
        self._material = mesh.material
        self._tensor = open3d.core.Tensor.from_numpy
        self._scene = open3d.t.geometry.RaycastingScene(nthreads=1)
        self._scene.add_triangles(
            self._tensor(mesh.vertices.astype(np.float32)), self._tensor(mesh.triangles.astype(np.uint32))
        )

    def first_hits(self, origins: npt.NDArray[np.float32], directions: npt.NDArray[np.float32]) -> Hits:
        rays = np.concatenate([origins, directions], axis=1)
        answer = self._scene.cast_rays(self._tensor(rays), nthreads=1)
        distance = answer["t_hit"].numpy().astype(np.float64)
        triangle = answer["primitive_ids"].numpy().astype(np.int64)
        hit = np.isfinite(distance)
        triangle[~hit] = 0
        cosine = np.abs(np.einsum("ij,ij->i", answer["primitive_normals"].numpy(), directions)).astype(np.float64)
        return Hits(distance, np.where(hit, self._owner[triangle], -1), self._material[triangle], cosine)


class _Shine(NamedTuple):
    """What comes back of every pulse."""

    power: FloatArray
    """(N,) float64, logarithm of the power that decides whether there is a return; the unit is arbitrary."""
    intensity: FloatArray
    """(N,) float64 as the sensor would report it without noise; may be negative."""


def _shine(config: SensorConfig, sensor: Sensor, rays: Rays, hits: Hits, reflectivity: FloatArray) -> _Shine:
    """Power and intensity of every return.

    A matt surface fades slowly towards grazing incidence, a glossy one throws the light away much earlier. The sensor
    evens out the range up to about 25 m; beyond, and for dark surfaces earlier, the intensity falls to zero with the
    logarithm of the power. The figures are fitted to ground and walls of real scans; that glossy surfaces lose more
    pulses to distance than matt ones, to the points on cars. Sensors that report a calibrated reflectivity take its
    ``intensity_scale``, without the fall.
    """
    gloss = optics_table()[hits.material, 3]
    cosine = np.clip(hits.cosine, 1e-3, 1.0)
    bright = reflectivity[np.maximum(hits.owner, 0), hits.material] * (1.0 - gloss + gloss * cosine**3)
    power = np.log(bright / 0.34) + 0.31 * np.log(cosine) - 2.0 * np.log(np.clip(hits.distance, 1.0, 1e3))
    fade = np.clip(0.8 + 0.6 * (power + 6.91), 0.0, 1.0)
    reported = config.intensity_scale * bright * fade**config.intensity_fade
    return _Shine(power - 0.6 * gloss, reported + sensor.gain[rays.beam])


def _returned(
    rng: np.random.Generator, config: SensorConfig, sensor: Sensor, hits: Hits, power: FloatArray
) -> npt.NDArray[np.bool_]:
    """Which pulses come back: in range, not lost by chance, strong enough."""
    within = (hits.distance > config.range_min) & (hits.distance < config.range_max)
    weakness = 1.0 / (1.0 + np.exp(np.clip((power - config.weak_power) / 0.6, -30, 30)))
    lost = sensor.noise * config.dropout + config.weak_dropout * weakness
    return np.asarray(within & (rng.random(len(lost)) >= lost))
