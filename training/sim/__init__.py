"""The simulated LiDAR: shapes, worlds, a sensor, and objects placed where real ones stand."""
