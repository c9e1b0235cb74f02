"""Starts the detector: ``ros2 launch pd_edge_ros detector.launch.py points:=/velodyne_points sensor:=vlp-16``."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("pd_edge_ros"))
ARGUMENTS = {
    "points": ("/velodyne_points", "Topic of the clouds, sensor_msgs/PointCloud2."),
    "model": ("pointpillars-4x", "A shipped model, a model folder or an engine folder."),
    "sensor": ("", "A sensor profile's name or YAML file."),
    "parameters": (str(SHARE / "config" / "detector.yaml"), "YAML file of all other parameters."),
    "use_sim_time": ("false", "Time from /clock, as of a bag played with --clock."),
    "lifecycle": ("false", "The lifecycle node, which waits for a manager, in place of the plain one."),
    "rviz": ("false", "Show clouds and boxes in RViz."),
}


def generate_launch_description() -> LaunchDescription:
    """The arguments, the node and the viewer."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    shared = {
        "package": "pd_edge_ros",
        "name": "detector",
        "namespace": "",
        "output": "screen",
        "remappings": [("points", given["points"])],
        "parameters": [
            given["parameters"],
            {name: ParameterValue(given[name], value_type=str) for name in ("model", "sensor")},
            {"use_sim_time": ParameterValue(given["use_sim_time"], value_type=bool)},
        ],
    }
    managed = given["lifecycle"]
    view = ["-d", str(SHARE / "config" / "detector.rviz")]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in ARGUMENTS.items()
            ),
            Node(executable="detector", condition=UnlessCondition(managed), **shared),
            LifecycleNode(executable="lifecycle_detector", condition=IfCondition(managed), **shared),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=view,
                remappings=[("points", given["points"])],
                condition=IfCondition(given["rviz"]),
            ),
        ]
    )
