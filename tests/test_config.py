"""Reading configurations: what is wrong is named, with the way out."""

from pathlib import Path

import pytest

from pd_edge.bundle import CONFIG, SHIPPED, shipped_models
from pd_edge.config import DetectorConfig, PointPillarsConfig, SecondConfig, dump_config, load_config, parse_config
from pd_edge.errors import ConfigError, DataError

MODEL = {"pillar_channels": 8, "backbone_channels": [8, 16, 32], "neck_channels": 8}
SECOND = {
    "detector": "second",
    "sparse_channels": [4, 4, 8, 8],
    "folded_channels": 8,
    "backbone_channels": [8, 16],
    "neck_channels": 8,
}


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
        ({"model": {**MODEL, "backbone_channels": [8, 0, 32]}}, "backbone_channels.1: Input should be greater than 0"),
        (
            {"model": {**MODEL, "backbone_layers": [3, 5, -1]}},
            "backbone_layers.2: Input should be greater than or equal",
        ),
        ({"model": {**SECOND, "sparse_channels": [0, 4, 8, 8]}}, "sparse_channels.0: Input should be greater than 0"),
        ({"model": {**SECOND, "backbone_channels": [8, -1]}}, "backbone_channels.1: Input should be greater than 0"),
        ({"model": "pointpillars-4x"}, "model: expected names with values, 'detector' one of the names (got 'pointpil"),
        ({"model": {**SECOND, "detector": None}}, "model: expected names with values, 'detector' one of the names"),
        (
            {"model": {**SECOND, "detector": "Second"}},
            "model: 'Second' is unknown; use one of 'pointpillars', 'second'",
        ),
        (
            {"model": {**MODEL, "sparse_channels": [1]}},
            "model.sparse_channels: unknown key; it goes with detector: second",
        ),
        (
            {"model": {**SECOND, "pillar_channels": 8}},
            "model.pillar_channels: unknown key; it goes with detector: pointpillars",
        ),
        ({"model": {**MODEL, "grid": {"sparse_channels": 1}}}, "model.grid.sparse_channels: unknown key; known are"),
        ({"model": {**SECOND, "grid": {"hight": 0.1}}}, "model.grid.hight: unknown key; did you mean height?"),
        ({"model": {**SECOND, "grid": {"z_max": -0.8}}}, "22 voxels above each other leave none after the sparse"),
        ({"model": {**SECOND, "grid": {"z_max": 3.3}}}, "make it a whole number of them, at most 62"),
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


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_configuration_is_written_as_it_was_read(name: str, tmp_path: Path) -> None:
    """Caches and resumed runs are found by a hash of these words, in their order."""
    dump_config(load_config(SHIPPED / name / CONFIG, DetectorConfig), tmp_path / CONFIG)
    assert (tmp_path / CONFIG).read_text() == (SHIPPED / name / CONFIG).read_text()


def columns_of(nz: int) -> dict[str, object]:
    return {**SECOND, "grid": {"z_min": 0, "z_max": nz * 0.125, "height": 0.125}}


def test_a_column_has_from_least_to_most_heights() -> None:
    for nz in (24, 62):
        assert parse_config(columns_of(nz), SecondConfig, "the test").canvas_shape[1] > 0
    for nz, text in ((23, "use 24 or more"), (63, "at most 62")):
        with pytest.raises(ConfigError, match=text):
            parse_config(columns_of(nz), SecondConfig, "the test")


def test_the_outermost_anchors_of_second_stand_on_the_edges_of_its_own_grid() -> None:
    small = parse_config({**SECOND, "grid": {"x_max": 12.8, "y_min": -3.2, "y_max": 3.2}}, SecondConfig, "the test")
    assert small.anchor_range == (0.0, -3.2, 12.8, 3.2)
    assert parse_config(SECOND, SecondConfig, "the test").anchor_range == (0.0, -40.0, 70.4, 40.0)
    assert parse_config({**SECOND, "anchor_range": None}, SecondConfig, "the test").anchor_range is None


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        dump_config(parse_config(MODEL, PointPillarsConfig, "the test"), tmp_path / "file" / "config.yaml")
