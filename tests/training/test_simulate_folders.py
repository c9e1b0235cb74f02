"""What simulated data sets may be written into, and that nothing in their configuration goes unread."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("open3d", reason="needs the train extra")

from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.config import Config, load_config
from pd_edge.errors import ConfigError, DataError
from pd_edge.kitti import Calibration, write_object_frame, write_split
from pd_edge.training.sim.drive import drive_scan
from pd_edge.training.sim.scene import SimulateConfig
from pd_edge.training.simulate import NO_USE_IN_DRIVES, Recipe, simulate_drive, simulate_object

COARSE = SimulateConfig.model_validate({"sensor": {"azimuth_step": 3.0}})
"""Few points, so that frames are made fast."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def leaves(config: Config) -> dict[str, Any]:
    """Dotted names and values of all fields, those of the configurations inside included."""
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = config.__dict__[name]
        inner = leaves(value) if isinstance(value, Config) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": each for key, each in inner.items()}
    return found


def changed(base: SimulateConfig, name: str, value: Any) -> SimulateConfig:
    """The configuration with one field, named as :func:`leaves` does, set."""
    data = base.model_dump()
    *outer, last = name.split(".")
    part = data
    for key in outer:
        part = part[key]
    part[last] = value
    return SimulateConfig.model_validate(data)


def command(*arguments: object) -> int:
    """Runs ``pd-edge``; returns its exit code."""
    with pytest.raises(SystemExit) as exit_:
        main([str(each) for each in arguments])
    return int(exit_.value.code or 0)


def test_real_frames_are_left_alone(
    tmp_path: Path, calibration: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = tmp_path / "kit"
    write_object_frame(kit, "000007", np.zeros((1, 4), np.float32), calibration, [])
    for split in ("train", "val"):
        write_split(kit, split, ["000007"])
    before = contents(kit)
    for more in ((), ("--drive",)):
        assert command("simulate", kit, "--frames", 1, *more) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "kit: holds 'ImageSets' but no recipe.yaml" in message
        assert "give another" in message
        assert contents(kit) == before


def test_empty_and_missing_folders_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    for name in ("empty", "not/there"):
        simulate_object(tmp_path / name, 1, 1, COARSE, workers=1)
        assert load_config(tmp_path / name / "recipe.yaml", Recipe).frames == 1


@pytest.mark.parametrize(("out", "said"), [("c.npy", "Not a directory"), ("c.npy/sub", "Not a directory")])
def test_what_is_no_folder_is_one_line(tmp_path: Path, out: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.npy").write_bytes(b"cloud")
    assert command("simulate", tmp_path / out, "--frames", 1) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{tmp_path / out}: cannot be used ({said})" in message
    assert (tmp_path / "c.npy").read_bytes() == b"cloud"


@pytest.mark.parametrize("step", ["mkdir", "write_bytes"])
def test_a_folder_that_cannot_be_written(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(DataError, match=r"recipe.yaml: cannot be written \(No space left on device\)"):
        simulate_object(tmp_path / "out", 1, 1, COARSE, workers=1)


def test_a_drive_keeps_its_length(tmp_path: Path) -> None:
    simulate_drive(tmp_path, 2, 4, COARSE, workers=1)
    before = contents(tmp_path)
    for frames in (1, 3):
        with pytest.raises(
            ConfigError, match=rf"another recipe \(frames 2, asked for {frames}\); choose another folder"
        ):
            simulate_drive(tmp_path, frames, 4, COARSE, workers=1)
    assert contents(tmp_path) == before


def test_an_interrupted_drive_is_made_anew(tmp_path: Path) -> None:
    path = simulate_drive(tmp_path, 2, 4, COARSE, workers=1)
    before = contents(tmp_path)
    (path / "tracklet_labels.xml").unlink()
    simulate_drive(tmp_path, 2, 4, COARSE, workers=1)
    assert contents(tmp_path) == before


def test_every_difference_of_recipes_is_named(tmp_path: Path) -> None:
    simulate_object(tmp_path, 1, 4, COARSE, workers=1)
    with pytest.raises(
        ConfigError, match=r"kind object, asked for drive; seed 4, asked for 5; frames 1, asked for 2; .*"
    ):
        simulate_drive(tmp_path, 2, 5, workers=1)
    with pytest.raises(ConfigError, match=r"\(config.sensor.azimuth_step 3.0, asked for 0.1733\)"):
        simulate_object(tmp_path, 2, 4, workers=1)


def test_the_demo_runs_again_in_its_folder(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for frames in (2, 2, 1):
        assert command("demo", "--model", tiny_bundle.folder, "--out", tmp_path / "demo", "--frames", frames) == 0
        assert len(list((tmp_path / "demo" / "labels").iterdir())) == frames
    recipes = [load_config(path, Recipe) for path in (tmp_path / "demo").rglob("recipe.yaml")]
    assert sorted(recipe.frames for recipe in recipes) == [1, 2]


FIELDS = leaves(SimulateConfig())
OBJECTS_ONLY = {name for name in FIELDS if name.startswith(NO_USE_IN_DRIVES)}
EFFECTIVE: dict[str, Any] = {
    "sensor.range_min": 10.0,
    "sensor.model": "os1-64",
    "world.open_side": 1.0,
    "world.backdrop": 0.0,
    "placement.attempts": 3,
    "full_cloud": True,
    "min_points": 50,
    "val_share": 1.0,
}
"""Values that make a difference, of fields whose halves make none or are not allowed."""


def other(name: str) -> SimulateConfig:
    """Coarse scans with one field changed."""
    return changed(COARSE, name, EFFECTIVE[name] if name in EFFECTIVE else 0.5 * FIELDS[name])


@pytest.mark.parametrize(
    ("kind", "unread"),
    [("object", set()), ("drive", OBJECTS_ONLY - {"world.curb_min", "world.curb_max"})],
)
def test_every_field_is_read(kind: str, unread: set[str], tmp_path: Path, fields_read: set[tuple[str, str]]) -> None:
    """Notes each attribute that is asked for; a drive draws curbs, and then takes others."""
    prefixes = {"SensorConfig": "sensor.", "PlacementConfig": "placement.", "WorldConfig": "world."}
    if kind == "object":
        simulate_object(tmp_path, 1, 11, COARSE, workers=1)
    else:
        drive_scan(11, 1, COARSE, 0)
    assert set(FIELDS) - {prefixes.get(owner, "") + name for owner, name in fields_read} == unread


@pytest.mark.parametrize("name", FIELDS)
def test_drives_heed_a_field_or_refuse_it(name: str, tmp_path: Path) -> None:
    scan, usual = (drive_scan(4, 1, config, 0) for config in (other(name), COARSE))
    same = scan.points.tobytes() == usual.points.tobytes() and scan.labels == usual.labels
    assert same == (name in OBJECTS_ONLY)
    if name in OBJECTS_ONLY:
        with pytest.raises(ConfigError, match=rf"drive: {name} = .* \(default .*\): drives have no use for that"):
            simulate_drive(tmp_path / "out", 1, 4, other(name), workers=1)
        assert not (tmp_path / "out").exists()
