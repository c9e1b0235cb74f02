"""Scans to look at, and what a written page holds."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.ros_messages import Objects
from pd_edge.view.encode import Packed, unpack
from pd_edge.view.moments import Moment

_SCENE = re.compile(r'<script type="application/json" id="scene">(.*?)</script>', re.DOTALL)
_POINTS = re.compile(r'<script type="application/octet-stream" id="points-(\d+)">(.*?)</script>')
SCORES = (0.9, 0.6, 0.35, 0.2)
NAMES = ("Car", "Pedestrian", "Car", "Cyclist")


def boxes(shift: float = 0.0) -> npt.NDArray[np.float64]:
    """Four boxes ahead, the first of them 12 m away."""
    rows = [
        [12.0, 0, -1, 4, 1.7, 1.5, 0.1],
        [9, 4, -0.9, 0.8, 0.6, 1.8, 1],
        [22, -6, -1, 4, 1.7, 1.5, 3],
        [16, 6, -1, 1.8, 0.6, 1.7, 0],
    ]
    return np.asarray(rows, np.float64) + np.array([shift, 0, 0, 0, 0, 0, 0], np.float64)


def moments(count: int = 4) -> list[Moment]:
    """Scans of 2,000 points, 0.5 s apart, with four boxes and, in all but the last, one object of the ground truth."""
    made = []
    for place in range(count):
        rng = np.random.default_rng(place)
        points = rng.uniform((-10, -20, -1.8, 0), (40, 20, 1, 1), (2000, 4)).astype(np.float32)
        found = Objects(boxes(place), list(NAMES), np.array(SCORES))
        truth = Objects(boxes(place + 0.3)[:1], ["Car"], np.ones(1)) if place < count - 1 else None
        made.append(Moment(f"{place:06d}", 10**18 + place * 500_000_000, points, found, truth))
    return made


def scene_of(page: Path) -> Any:
    """The scene that a page holds."""
    found = _SCENE.search(page.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def clouds_of(page: Path) -> list[npt.NDArray[np.float32]]:
    """The points of each scan, as a browser unpacks them."""
    frames = scene_of(page)["frames"]
    blocks = _POINTS.findall(page.read_text(encoding="utf-8"))
    assert [int(place) for place, _ in blocks] == list(range(len(frames)))
    packed = (
        Packed(base64.b64decode(text), frame["shown"], frame["step"])
        for (_, text), frame in zip(blocks, frames, strict=True)
    )
    return [unpack(each) for each in packed]
