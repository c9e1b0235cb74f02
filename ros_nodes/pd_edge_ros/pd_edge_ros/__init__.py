"""The detector of pd_edge as a ROS 2 node: PointCloud2 in, boxes, markers and diagnostics out.

Only :mod:`pd_edge_ros.server`, :mod:`pd_edge_ros.parameters`, :mod:`pd_edge_ros.qos`, :mod:`pd_edge_ros.transforms` and
the two nodes need ROS; the rest is plain Python.
"""
