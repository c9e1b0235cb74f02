"""Reading configurations: what is wrong is named, with the way out."""

from pathlib import Path

import pytest

from pd_edge.config import DetectorConfig, PointPillarsConfig, dump_config, load_config, parse_config
from pd_edge.errors import ConfigError, DataError

MODEL = {"pillar_channels": 8, "backbone_channels": [8, 16, 32], "neck_channels": 8}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"model": MODEL, "decod": {}}, "decod: unknown key; did you mean decode?"),
        ({"model": MODEL, "decode": {"topk": 5}}, "decode.topk: unknown key; did you mean top_k?"),
        ({"model": {**MODEL, "grid": {"sell": 1}}}, "model.grid.sell: unknown key; did you mean cell?"),
        ({"model": MODEL, "zzz": 1}, "zzz: unknown key; known are model, decode"),
        ({"model": {**MODEL, "neck_channels": "wide"}}, "model.neck_channels: Input should be a valid integer"),
        ({"model": {**MODEL, "classes": [{"nam": "Car"}]}}, "model.classes.0.nam: unknown key; take it out"),
        ({}, "model: Field required"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_meant(data: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(data, DetectorConfig, "file.yaml")
    assert str(error.value).startswith("file.yaml: ")
    assert text in str(error.value)


def test_a_file_that_holds_no_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match=r"holds \[1, 2\], expected names with values"):
        load_config(tmp_path / "list.yaml", DetectorConfig)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = DetectorConfig(model=parse_config(MODEL, PointPillarsConfig, "the test"))
    dump_config(config, tmp_path / "new" / "config.yaml")
    assert load_config(tmp_path / "new" / "config.yaml", DetectorConfig) == config


def test_anchors_at_their_usual_places_leave_no_word_in_a_file(tmp_path: Path) -> None:
    """So that what was written before anchors could stand elsewhere equals what is written now."""
    usual = parse_config(MODEL, PointPillarsConfig, "the test")
    assert "anchor_range" not in usual.model_dump()
    spread = parse_config({**MODEL, "anchor_range": [0, -1, 2, 1]}, PointPillarsConfig, "the test")
    dump_config(spread, tmp_path / "spread.yaml")
    assert load_config(tmp_path / "spread.yaml", PointPillarsConfig).anchor_range == (0, -1, 2, 1)
    with pytest.raises(ConfigError, match="must lead from low x y to high x y"):
        parse_config({**MODEL, "anchor_range": [0, 1, 2, 1]}, PointPillarsConfig, "the test")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        dump_config(parse_config(MODEL, PointPillarsConfig, "the test"), tmp_path / "file" / "config.yaml")
