"""The ROS 2 package, as colcon and pip install it."""

from pathlib import Path

from setuptools import setup

NAME = "pd_edge_ros"
SHARE = f"share/{NAME}"


def files(folder: str) -> tuple[str, list[str]]:
    """A folder's files and where they are installed."""
    return f"{SHARE}/{folder}", sorted(str(each) for each in Path(folder).iterdir() if each.is_file())


setup(
    name=NAME,
    version="0.1.0",
    description="LiDAR 3D detection with pd_edge as a ROS 2 node.",
    license="Apache-2.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        files("launch"),
        files("config"),
    ],
    install_requires=["setuptools", "pd-edge"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            f"detector = {NAME}.detector:main",
            f"lifecycle_detector = {NAME}.lifecycle_detector:main",
        ]
    },
)
