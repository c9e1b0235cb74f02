"""One HTML file that shows scans: it holds all it needs and asks the network for nothing.

What comes from outside (titles, names of frames and classes) stands in a block of JSON without a ``<``, and gets onto
the page as text. The page's policy lets no script run but the viewer's own, which is known by its hash.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pd_edge.boxes import points_in_boxes
from pd_edge.files import read_text, write_bytes
from pd_edge.view.encode import pack, thin
from pd_edge.view.moments import Moment
from pd_edge.view.scene import Scene, known_of

VIEWER = Path(__file__).resolve().parent / "viewer"
SCRIPTS = ("data.js", "camera.js", "points.js", "overlay.js", "panel.js", "timeline.js", "viewer.js")
"""In the order in which they use each other."""
_MARK = re.compile(r"@@([A-Z_]+)@@")


class Written(NamedTuple):
    """What a viewer's file holds.

    Attributes:
        path: The file.
        frames: Scans in it.
        boxes: Detections in it, of any score.
        size: [bytes]
    """

    path: Path
    frames: int
    boxes: int
    size: int


def write_html(
    path: Path,
    scene: Scene,
    moments: Iterable[Moment],
    *,
    most_points: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Written:
    """Writes the viewer.

    Args:
        path: The file.
        scene: An empty scene; it is filled.
        moments: The scans.
        most_points: Points of a scan at most, drawn at random but for those in boxes; all when left out.
        advance: Called with the scans done, after each.

    Raises:
        DataError: The file cannot be written.
    """
    blocks: list[str] = []
    for moment in moments:
        known = known_of(moment)
        shown = _shown(moment, most_points)
        packed = pack(shown)
        scene.add(moment, known, packed.number, packed.step)
        text = base64.b64encode(packed.data).decode()
        blocks.append(f'<script type="application/octet-stream" id="points-{len(blocks)}">{text}</script>')
        if advance is not None:
            advance(len(blocks))
    data = page(scene.as_json(), blocks).encode()
    write_bytes(path, data)
    return Written(path, len(blocks), scene.boxes, len(data))


def page(scene: dict[str, Any], blocks: Iterable[str] = ()) -> str:
    """The page of a scene, as :meth:`Scene.as_json` gives it, and blocks of points."""
    style, script = (f"\n{text}" for text in _assets())
    filled = {
        "TITLE": html.escape(str(scene["title"])),
        "STYLE": style,
        "STYLE_HASH": _hash(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _hash(script),
        "SCENE": safe_json(scene),
        "POINTS": "\n".join(blocks),
    }
    return _MARK.sub(lambda mark: filled[mark[1]], read_text(VIEWER / "viewer.html", "the viewer's page"))


def safe_json(data: Any) -> str:
    """JSON that holds nothing which could end the block it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(moment: Moment, most: int | None) -> Any:
    if most is None or len(moment.points) <= most:
        return moment.points
    inside = points_in_boxes(moment.points, moment.found.boxes) >= 0
    if moment.truth is not None:
        inside |= points_in_boxes(moment.points, moment.truth.boxes) >= 0
    return thin(moment.points, most, inside)


@cache
def _assets() -> tuple[str, str]:
    """Style and script; the script in a function of its own, so that its names are nobody else's."""
    parts = [read_text(VIEWER / name, "a part of the viewer") for name in SCRIPTS]
    script = '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"
    return read_text(VIEWER / "viewer.css", "the viewer's style"), script


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
