"""mmdetection3d's Python configurations are understood without being run."""

from pathlib import Path

import pytest

from pd_edge.errors import ConfigError
from pd_edge.training.importers.python_config import Unreadable, parse_python_config, read_python_config


def test_plain_values_names_and_arithmetic() -> None:
    found = parse_python_config(
        "size = [0.16, 0.16, 4]\nlr = 0.001\nroot = 'data/' + 'kitti'\n"
        "model = dict(voxel=size, half={'x': -lr * 10, 'y': (1, 2 - 1)}, none=None)\n",
        "text",
    )
    assert found["model"] == {"voxel": [0.16, 0.16, 4], "half": {"x": -0.01, "y": (1, 1)}, "none": None}
    assert found["root"] == "data/kitti"


def test_an_expression_is_not_run_and_hinders_nobody(tmp_path: Path) -> None:
    text = f"import os\nmodel = dict(a=1, b=os.mkdir({str(tmp_path / 'trace')!r}), c=[unknown, 2])\n"
    found = parse_python_config(text, "text")
    assert found["model"]["a"] == 1
    assert isinstance(found["model"]["b"], Unreadable)
    assert repr(found["model"]["c"][0]) == "the expression unknown"
    assert not (tmp_path / "trace").exists()


def test_what_would_fill_the_memory_is_not_computed() -> None:
    found = parse_python_config(
        "a = [0] * 99999999999\nb = 99999999999 * 'text'\nc = [1, 2] * 3\nd = 9999 * 9999\n", "text"
    )
    assert [type(found[name]) for name in "ab"] == [Unreadable, Unreadable]
    assert (found["c"], found["d"]) == ([1, 2, 1, 2, 1, 2], 9999 * 9999)


def test_files_it_is_based_on_are_merged(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.py").write_text("model = dict(head=dict(type='A', size=1), neck=dict(type='N', k=3))\n")
    (tmp_path / "base" / "data.py").write_text("classes = ['Car']\n")
    child = tmp_path / "child.py"
    child.write_text(
        "_base_ = ['base/model.py', 'base/data.py']\n"
        "model = dict(head=dict(size=2), neck=dict(_delete_=True, type='M'))\n"
    )
    found = read_python_config(child)
    assert found == {"model": {"head": {"type": "A", "size": 2}, "neck": {"type": "M"}}, "classes": ["Car"]}


def test_a_missing_base_and_bad_python_are_named(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("_base_ = 'gone.py'\n")
    with pytest.raises(ConfigError, match=r"is based on gone\.py, which is not at"):
        read_python_config(tmp_path / "child.py")
    with pytest.raises(ConfigError, match="text: not valid Python"):
        parse_python_config("model = dict(", "text")
