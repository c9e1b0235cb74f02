"""The camera beside the sensor: its calibration is KITTI's arrangement, with angles as KITTI's car has them."""

from functools import cache

import numpy as np
import numpy.typing as npt

from pd_edge.kitti import Calibration

FloatArray = npt.NDArray[np.float64]


@cache
def camera_calibration(lift: float = 0.0) -> Calibration:
    """The one camera of every simulated frame, which looks 0.6 degrees up, image 1242 x 375.

    Args:
        lift: Height of the sensor above the place of KITTI's [m]; camera and inertial unit stay where they are.
    """
    P2 = np.array([[721.54, 0.0, 609.56, 44.86], [0.0, 721.54, 172.85, 0.2164], [0.0, 0.0, 1.0, 0.002746]])
    R0_rect = _rotation(-0.0083, -0.0098, -0.0043)
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    turn = R0_rect.T @ _rotation(-0.0105, 0.0, -0.0105) @ axes
    return Calibration(
        P2=P2,
        R0_rect=R0_rect,
        Tr_velo_to_cam=np.column_stack([turn, np.array([-0.004, -0.076, -0.272]) + lift * turn[:, 2]]),
        Tr_imu_to_velo=np.column_stack([np.eye(3), [-0.81, 0.32, -0.80 - lift]]),
        image_size=(1242, 375),
    )


def _rotation(about_x: float, about_y: float, about_z: float) -> FloatArray:
    """Rotation by angles [rad] about x, then y, then z."""
    cx, cy, cz = np.cos([about_x, about_y, about_z])
    sx, sy, sz = np.sin([about_x, about_y, about_z])
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(z @ y @ x, np.float64)
