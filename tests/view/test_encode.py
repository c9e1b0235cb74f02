"""Points in few bytes and back."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.errors import DataError
from pd_edge.view.encode import LEAST_STEP, pack, thin, unpack


@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.floats(0.01, 2000))
def test_points_come_back_to_half_a_step(seed: int, count: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    low, high = (-reach, -reach, -reach, 0), (reach, reach, reach, 1)
    points = rng.uniform(low, high, (count, 4)).astype(np.float32)
    packed = pack(points)
    back = unpack(packed)
    assert back.shape == points.shape
    assert packed.step == pytest.approx(max(LEAST_STEP, float(np.abs(points[:, :3]).max(initial=0)) / 32767))
    np.testing.assert_allclose(back[:, :3], points[:, :3], atol=0.51 * packed.step + 1e-6 * reach)
    np.testing.assert_allclose(back[:, 3], points[:, 3], atol=0.51 / 255)


def test_neighbours_at_opposite_ends_survive_the_difference() -> None:
    points = np.array([[-80, 80, -80, 0], [80, -80, 80, 1], [-80, 80, -80, 0.5]], np.float32)
    np.testing.assert_allclose(unpack(pack(points))[:, :3], points[:, :3], atol=0.002)


def test_a_scan_in_the_sensor_s_order_takes_less_than_four_bytes_a_point() -> None:
    angle = np.linspace(0, 200 * np.pi, 100_000)
    rings = np.repeat(np.linspace(5, 60, 100), 1000)
    noise = np.random.default_rng(0).normal(0, 0.01, 100_000)
    scan = np.column_stack([(rings + noise) * np.cos(angle), (rings + noise) * np.sin(angle), noise - 1.7, noise % 0.1])
    assert len(pack(scan.astype(np.float32)).data) < 4 * len(scan)


def test_bytes_of_something_else_are_refused() -> None:
    packed = pack(np.ones((5, 4), np.float32))
    with pytest.raises(DataError, match="35 bytes for 6 points"):
        unpack(packed._replace(number=6))
    with pytest.raises(DataError, match="expected a zlib stream"):
        unpack(packed._replace(data=b"no"))


def test_thinning_keeps_what_lies_in_boxes_and_the_order(clouds: list[npt.NDArray[np.float32]]) -> None:
    cloud = clouds[0]
    kept = np.zeros(len(cloud), bool)
    kept[[3, 30, 49]] = True
    some = thin(cloud, 10, kept)
    places = [int(np.flatnonzero((cloud == row).all(axis=1))[0]) for row in some]
    assert len(places) == 10
    assert places == sorted(places)
    assert {3, 30, 49} <= set(places)
    assert len(thin(cloud, 2, kept)) == 2
    assert thin(cloud, None, kept) is cloud
    assert thin(cloud, len(cloud), kept) is cloud
