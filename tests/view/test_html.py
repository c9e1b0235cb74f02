"""The page: what it holds, and that nothing from outside becomes a part of it."""

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from pd_edge.ros_messages import Objects
from pd_edge.view.html import page, safe_json, write_html
from pd_edge.view.scene import MORE_COLOURS, Scene, Volume

from .helpers import NAMES, SCORES, boxes, clouds_of, moments, scene_of

NASTY = '</script><img src=x onerror="alert(1)">&@@SCRIPT@@'


def test_a_page_holds_scans_boxes_and_what_is_known_of_them(tmp_path: Path) -> None:
    seen: list[int] = []
    written = write_html(tmp_path / "a" / "view.html", Scene("drive", "boxes"), moments(), advance=seen.append)
    assert (written.frames, written.boxes, seen) == (4, 16, [1, 2, 3, 4])
    assert written.size == written.path.stat().st_size
    scene = scene_of(written.path)
    assert [each["name"] for each in scene["classes"]] == ["Car", "Pedestrian", "Cyclist"]
    assert scene["score"] == 0.3
    first, last = scene["frames"][0], scene["frames"][-1]
    assert [each["time"] for each in scene["frames"]] == [0.0, 0.5, 1.0, 1.5]
    assert [scene["classes"][row[0]]["name"] for row in first["found"]] == list(NAMES)
    assert [row[1] for row in first["found"]] == list(SCORES)
    np.testing.assert_allclose([row[2:9] for row in first["found"]], boxes(), atol=1e-3)
    assert [bool(row[10]) for row in first["found"]] == [True, False, False, False]
    assert first["found"][0][9] == first["found"][0][9] > 0
    assert [scene["truth_names"][row[0]] for row in first["truth"]] == ["Car"]
    assert last["truth"] is None
    assert last["found"][0][10] is None
    for moment, cloud in zip(moments(), clouds_of(written.path), strict=True):
        np.testing.assert_allclose(cloud[:, :3], moment.points[:, :3], atol=2e-3)


def test_few_points_are_those_in_boxes_first(tmp_path: Path) -> None:
    written = write_html(tmp_path / "view.html", Scene("drive"), moments(1), most_points=100)
    frame = scene_of(written.path)["frames"][0]
    assert (frame["points"], frame["shown"], len(clouds_of(written.path)[0])) == (2000, 100, 100)
    whole = write_html(tmp_path / "whole.html", Scene("drive"), moments(1))
    assert scene_of(whole.path)["frames"][0]["found"] == frame["found"]


def test_words_from_outside_cannot_leave_their_place(tmp_path: Path) -> None:
    moment = moments(1)[0]
    named = moment._replace(name=NASTY, notes=(NASTY,), truth=Objects(boxes()[:1], [NASTY], np.ones(1)))
    found = Objects(boxes()[:1], [NASTY], np.ones(1))
    written = write_html(tmp_path / "view.html", Scene(NASTY, NASTY), [named._replace(found=found)])
    text = written.path.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("</script>") == text.count("<script") == 3
    scene = scene_of(written.path)
    assert scene["title"] == scene["subtitle"] == scene["classes"][0]["name"] == scene["frames"][0]["name"] == NASTY


def test_json_has_nothing_that_ends_its_block() -> None:
    assert not set("<>&") & set(safe_json({"a": NASTY, NASTY: 1}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        safe_json(float("nan"))


def test_only_the_viewer_s_own_script_may_run_and_nothing_is_loaded() -> None:
    text = page(Scene("drive").as_json())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        body = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'")
    assert not re.search(r"https?:|//[a-z]+\.|@import|\bsrc=|url\(", text.replace(policy[0], ""))


def test_classes_have_colours_of_their_own() -> None:
    scene = Scene("drive", classes=("Tram", "Car", "Van"))
    assert scene.colours == [MORE_COLOURS[0], "#ff9d2e", MORE_COLOURS[1]]
    assert len({*scene.colours}) == 3


def test_a_scene_without_a_model_has_no_volume() -> None:
    from pd_edge.config import GridConfig

    assert Scene("drive").as_json()["volume"] is None
    ahead = Scene("drive", volume=Volume(GridConfig())).as_json()
    assert (ahead["volume"], ahead["around"]) == ([0.0, 69.12, -39.68, 39.68], None)
    around = Scene("drive", volume=Volume(GridConfig(), around=True)).as_json()
    assert (around["volume"], around["around"]) == (None, 69.12)
