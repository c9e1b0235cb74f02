"""Why there are no boxes: wrong inputs are named, good ones are not, and what is proposed mends them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.clouds import read_cloud, write_cloud
from pd_edge.config import Config, GridConfig
from pd_edge.doctor import diagnose
from pd_edge.doctor_evidence import Finding, Sample
from pd_edge.doctor_mount import check_model
from pd_edge.doctor_reference import Reference, figures, measure, reference
from pd_edge.doctor_report import DetectorWanted, Report, examine, lines
from pd_edge.doctor_sources import sample_of
from pd_edge.doctor_trial import Trial, check_scores
from pd_edge.errors import DataError
from pd_edge.sensors import KITTI, SensorProfile, load_profile
from tests.test_ground import turn

Cloud = npt.NDArray[np.float32]
Wrong = Callable[[Cloud], Cloud]


def scaled(*changes: tuple[int, float, float]) -> Wrong:
    """Columns times a factor plus an offset."""

    def change(points: Cloud) -> Cloud:
        changed = points.copy()
        for column, factor, offset in changes:
            changed[:, column] = changed[:, column] * np.float32(factor) + np.float32(offset)
        return changed

    return change


def swapped(points: Cloud) -> Cloud:
    return np.ascontiguousarray(points[:, [1, 0, 2, 3]])


def as_camera(points: Cloud) -> Cloud:
    return np.column_stack([-points[:, 1], -points[:, 2], points[:, 0], points[:, 3]])


MILLIMETRES = ((0, 1000.0, 0.0), (1, 1000.0, 0.0), (2, 1000.0, 0.0))
WRONG: dict[str, tuple[Wrong, dict[str, tuple[str, bool]]]] = {
    "good": (lambda points: points, {}),
    "2 m too high": (scaled((2, 1, -2)), {"height": ("height: 3.", True)}),
    "2 m too low": (scaled((2, 1, 2)), {"height": ("height: -0.", True)}),
    "tilted 10 degrees, nose up": (lambda points: turn(points, 10, 1), {"tilt": ("pitch: -", True)}),
    "tilted 10 degrees to a side": (lambda points: turn(points, 10, 0), {"tilt": ("roll: -", True)}),
    "intensity 0..255": (scaled((3, 255, 0)), {"intensity": ("intensity_max: 255", False)}),
    "intensity 0..3": (scaled((3, 100000, 0)), {"intensity": ("intensity_max: ", True)}),
    "x and y swapped": (swapped, {"axes": ("axes: [y, x, z]", True)}),
    "millimetres": (scaled(*MILLIMETRES), {"unit": ("unit: 0.001", True)}),
    "upside down": (lambda points: turn(points, 180, 0), {"up": ("roll: 180", True)}),
    "a camera's frame": (as_camera, {"up": ("axes: [z, -x, -y]", True)}),
    "several at once": (
        lambda points: scaled(*MILLIMETRES, (3, 255, 0))(turn(scaled((2, 1, -1))(points), 8, 1).astype(np.float32)),
        {
            "unit": ("unit: 0.001", True),
            "tilt": ("pitch: -", True),
            "height": ("height: 2.", True),
            "intensity": ("intensity_max: 255", False),
        },
    ),
}


def named(points: npt.NDArray[Any], profile: SensorProfile = KITTI) -> list[Finding]:
    return diagnose(Sample([points.astype(np.float32)]), profile, GridConfig(), reference())[0]


@pytest.fixture(scope="module")
def simulated() -> Cloud:
    """A simulated scan, cut to the camera's view as the training data are."""
    pytest.importorskip("open3d", reason="needs the train extra")
    from pd_edge.training.sim.scene import SimulateConfig, simulate_frame

    frame = simulate_frame(np.random.default_rng(5), SimulateConfig())
    return np.ascontiguousarray(frame.points[frame.in_image])


@pytest.fixture(scope="module")
def real(kitti_root: Path) -> Cloud:
    name = (kitti_root / "object" / "ImageSets" / "val.txt").read_text(encoding="utf-8").split()[0]
    return read_cloud(kitti_root / "object" / "training" / "velodyne_reduced" / f"{name}.bin")


@pytest.mark.parametrize("cloud", ["simulated", "real"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_are_named(name: str, cloud: str, request: pytest.FixtureRequest) -> None:
    wrong, expected = WRONG[name]
    points = wrong(request.getfixturevalue(cloud)).astype(np.float32)
    findings, proposed = diagnose(Sample([points]), KITTI, GridConfig(), reference())
    assert {each.name: each.blocks for each in findings} == {key: blocks for key, (_, blocks) in expected.items()}
    for each in findings:
        assert expected[each.name][0] in each.remedy
        assert all(getattr(proposed, key) == value for key, value in each.change.items())
    assert not named(points, proposed), "the proposed profile leaves nothing to be found"


def test_a_profile_that_describes_a_sensor_leaves_nothing_to_find(simulated: Cloud) -> None:
    lifted = scaled((2, 1, -0.8), (3, 255, 0))(simulated)
    assert not named(lifted, KITTI.model_copy(update={"height": 2.53, "intensity_max": 255.0}))
    assert [each.name for each in named(simulated, KITTI.model_copy(update={"height": 3.0}))] == ["height"]
    turned = turn(simulated, -90, 2)
    assert not named(turned, KITTI.model_copy(update={"yaw": 90.0}))
    assert [each.name for each in named(turned)] == ["axes"]


def test_a_full_turn_with_x_and_y_swapped_is_named_by_its_street() -> None:
    """Boxes there are all the same, of what stands beside the vehicle."""
    pytest.importorskip("open3d", reason="needs the train extra")
    from pd_edge.training.sim.scene import SimulateConfig, simulate_frame

    points = simulate_frame(np.random.default_rng(5), SimulateConfig(full_cloud=True)).points
    assert not named(points)
    assert {each.name: each.blocks for each in named(swapped(points))} == {"axes": False}


def test_a_profile_that_brings_fewer_boxes_is_said() -> None:
    before, after = Trial(7, 0.9, (0,) * 6), Trial(4, 0.8, (0,) * 6)
    report = Report("scan.bin", 1, [], KITTI, changed=True, before=before, after=after)
    said = list(lines(report))
    assert "with the proposed profile: 7 boxes -> 4 boxes" in said
    assert any(each.startswith("fewer than before") for each in said)
    assert not any(each.startswith("fewer") for each in lines(report._replace(after=before)))


def test_other_findings(simulated: Cloud) -> None:
    def found(**parts: Any) -> dict[str, Finding]:
        sample = Sample(**{"clouds": [simulated], **parts})
        return {each.name: each for each in diagnose(sample, KITTI, GridConfig(), reference())[0]}

    without = found(clouds=[scaled((3, 0, 0))(simulated)], intensity=False, fields=("x", "y", "z", "ring"))
    assert list(without) == ["fields"]
    assert "intensity_field" in without["fields"].remedy
    assert found(removed=0.99)["missing points"].blocks
    assert found(frame_id="map")["frame"].blocks
    assert not found(frame_id="velodyne")
    assert "reliable" in found(reliability="best_effort", message_bytes=2_000_000)["QoS"].remedy
    assert not found(reliability="reliable", message_bytes=2_000_000)
    assert "fewer beams" in found(clouds=[simulated[::8]])["density"].meaning
    assert found(clouds=[scaled((3, 0, 0))(simulated)])["intensity scale"].measured == "all intensities are 0"
    dark = found(clouds=[scaled((3, 1 / 255, 0))(simulated)])["intensity scale"]
    assert dark.change["intensity_curve"][-1] == (1, 1)
    nothing = simulated.copy()
    nothing[:, 3] = np.arange(len(nothing)) % 50 == 0
    (zeros,) = found(clouds=[nothing]).values()
    assert (zeros.measured, zeros.change) == ("95 % of the intensities are 0", {})
    low = found(clouds=[scaled((2, 1, 1))(simulated)])["height"].meaning
    assert low.startswith(("objects are 0.9", "objects are 1.0"))
    assert "m higher than" in low
    narrow = GridConfig(x_max=10.24, y_min=-2.56, y_max=2.56)
    others = diagnose(Sample([simulated]), KITTI, narrow, reference())[0]
    assert "density" not in {each.name for each in others}, "the table is of the shipped models' grid"
    twice = named(simulated, KITTI.model_copy(update={"intensity_max": 255.0}))
    assert [each.remedy for each in twice] == ["sensor profile: intensity_max: 1"]
    assert found(clouds=[scaled((3, 1, -0.5))(simulated)])["intensity"].blocks
    away = found(clouds=[scaled((0, 1, 200))(simulated)])
    assert away["range"].blocks


def test_a_model_that_was_trained_with_its_ground_elsewhere_is_told() -> None:
    shipped = Bundle.load("pointpillars-16x").config.model
    assert check_model(shipped, "shipped") is None
    kinds = tuple(each.model_copy(update={"anchor_z": each.anchor_size[2] / 2}) for each in shipped.classes)
    other = check_model(shipped.model_copy(update={"classes": kinds}), "mine")
    assert other is not None
    assert "the lowest anchors of mine stand at z = 0.00 m" in other.measured
    assert "+1.73 m" in other.remedy


def test_scores() -> None:
    none, low, good = (Trial(n, best, (0,) * 6) for n, best in ((0, 0.0), (0, 0.22), (3, 0.8)))
    assert check_scores(good, 0.3) is None
    assert check_scores(low, 0.2) is None
    strict = check_scores(good, 0.9)
    assert strict is not None
    assert (strict.expected, strict.blocks) == ("0.9 or more where there is an object", False)
    quiet, silent = check_scores(low, 0.3), check_scores(none, 0.3)
    assert quiet is not None
    assert silent is not None
    assert (quiet.remedy, quiet.blocks, silent.blocks) == ("command: --score 0.2", False, True)
    refused = check_scores(none._replace(refused="intensities from -1 to 1"), 0.3)
    assert refused is not None
    assert "intensities from -1 to 1" in refused.measured


def test_the_reference_is_what_its_function_measures(simulated: Cloud) -> None:
    table = measure([simulated, simulated], GridConfig())
    known = figures(simulated, GridConfig())
    assert known is not None
    assert table.frames == 2
    for name in set(Reference.model_fields) - {"frames"}:
        committed, spread = getattr(reference(), name), getattr(table, name)
        assert spread.low == spread.middle == spread.high == pytest.approx(known[name], abs=1e-3)
        assert 0.5 * committed.low < spread.middle < 2 * committed.high
    with pytest.raises(DataError, match="no cloud with points in the grid"):
        measure([scaled((0, -1, -1))(simulated)], GridConfig())


def test_every_field_of_a_profile_is_read(fields_read: set[tuple[str, str]], simulated: Cloud, tmp_path: Path) -> None:
    write_cloud(tmp_path / "scan.pcd", simulated[:2000])
    examine(str(tmp_path / "scan.pcd"), KITTI, DetectorWanted("nothing"))
    wanted = {(kind.__name__, field) for kind in (SensorProfile,) for field in kind.model_fields}
    assert wanted - fields_read == {("SensorProfile", "name")}  # for people
    assert issubclass(SensorProfile, Config)


def test_from_wrong_input_over_a_profile_to_boxes(
    simulated: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole journey: no box, the doctor's profile, boxes."""
    scan, profile, report = tmp_path / "scan.bin", tmp_path / "mine.yaml", tmp_path / "report.json"
    write_cloud(scan, scaled(*MILLIMETRES)(turn(scaled((2, 1, -2))(simulated), 180, 0).astype(np.float32)))
    common = [str(scan), "--model", "pointpillars-16x", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *common, "--write-profile", str(profile), "--json", str(report)])
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert all(f"BLOCKS {name}:" in said for name in ("unit", "up", "height"))
    data = json.loads(report.read_text(encoding="utf-8"))
    assert data["before"]["boxes"] == 0
    assert data["after"]["boxes"] > 0
    assert f"0 boxes -> {data['after']['boxes']} boxes" in said
    mended = load_profile(str(profile))
    assert (mended.name, mended.unit, mended.roll) == ("measured on scan.bin", 0.001, 180)
    found = examine(str(scan), mended, DetectorWanted("pointpillars-16x", threads=1))
    assert not found.findings
    assert found.before is not None
    assert found.before.boxes == data["after"]["boxes"]
    strict = examine(str(scan), mended, DetectorWanted("pointpillars-16x", threads=1, score=found.before.best))
    assert strict.before is not None
    assert strict.before.boxes == 1
    assert any("boxes in 1 clouds (scores 0." in line for line in lines(strict))
    assert next(lines(found)).startswith("nothing keeps boxes away in 1 clouds")


def test_what_cannot_be_read_or_loaded_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "VERSION 0.7\nFIELDS x y z ring\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\n"
    (tmp_path / "scan.pcd").write_text(f"{header}DATA ascii\n1 2 3 4\n", encoding="ascii")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "scan.pcd"), "--model", "nothing", "--write-profile", str(tmp_path / "p.yaml")])
    said = capsys.readouterr().out
    assert "p.yaml is not written" in " ".join(said.split())
    assert not (tmp_path / "p.yaml").exists()
    assert ended.value.code == 1
    assert "BLOCKS engine: no model named 'nothing'" in said
    assert "BLOCKS reading:" in said
    assert "no field intensity" in said
    monkeypatch.setitem(sys.modules, "rclpy", None)
    for source, text in (("nowhere.bin", "does not exist"), ("/no/topic", "no such path, and no ROS")):
        assert text in examine(source, KITTI, DetectorWanted("nothing")).findings[-1].measured


def test_own_data_are_looked_at_with_the_profile_that_they_name(tmp_path: Path, simulated: Cloud) -> None:
    lifted = scaled((2, 1, -1.0))(simulated)
    write_cloud(tmp_path / "points" / "a.bin", lifted)
    named_before = {each.name for each in examine(str(tmp_path), KITTI, DetectorWanted("nothing")).findings}
    (tmp_path / "dataset.yaml").write_text("sensor: high.yaml\n")
    (tmp_path / "high.yaml").write_text("name: high\nheight: 2.73\n")
    report = examine(str(tmp_path), KITTI, DetectorWanted("nothing"))
    assert named_before - {each.name for each in report.findings} == {"height"}
    assert report.profile.height == 2.73


def test_clouds_are_spread_over_a_folder(tmp_path: Path, simulated: Cloud) -> None:
    for number in range(5):
        write_cloud(tmp_path / "training" / "velodyne" / f"{number:06d}.bin", simulated[: 100 + number])
    sample = sample_of(tmp_path, KITTI, 3)
    assert [len(each) for each in sample.clouds] == [100, 102, 104]
    write_cloud(tmp_path / "own" / "points" / "first.npy", simulated[:50])
    assert [len(each) for each in sample_of(tmp_path / "own", KITTI, 3).clouds] == [50]
    broken = simulated[:100].copy()
    broken[:40, 0] = np.nan
    broken[40:60, :3] = 0
    write_cloud(tmp_path / "broken.npy", broken)
    assert sample_of(tmp_path / "broken.npy", KITTI, 1).removed == pytest.approx(0.6)
    with pytest.raises(DataError, match="have no topic"):
        sample_of(tmp_path, KITTI, 3, "/points")
    write_cloud(tmp_path / "broken.npy", broken[:60])
    with pytest.raises(DataError, match="none of 60 points in 1 clouds is a measurement"):
        sample_of(tmp_path / "broken.npy", KITTI, 1)


def test_a_bag(tmp_path: Path, simulated: Cloud) -> None:
    pytest.importorskip("rosbags", reason="needs the bags extra")
    pytest.importorskip("mcap", reason="needs the bags extra")
    from pd_edge.bags import BagWriter
    from pd_edge.pointcloud2 import layout_of
    from pd_edge.ros_messages import bag_types, header

    types = bag_types()
    kinds = types.types.__getitem__
    field = kinds("sensor_msgs/msg/PointField")
    with BagWriter(tmp_path / "drive.mcap", types) as bag:
        for number in range(4):
            layout = layout_of(scaled((2, 1, -2))(simulated))._asdict()
            layout["fields"] = [field(*each) for each in layout["fields"]]
            message = kinds("sensor_msgs/msg/PointCloud2")(header=header(kinds, number, "odom"), **layout)
            bag.write("/points", message, number)
    sample = sample_of(tmp_path / "drive.mcap", KITTI, 2)
    assert (len(sample.clouds), sample.frame_id, sample.fields) == (2, "odom", ("x", "y", "z", "intensity"))
    assert sample.message_bytes == 16 * len(simulated)
    findings, _ = diagnose(sample, KITTI, GridConfig(), reference())
    assert [each.name for each in findings] == ["frame", "height"]
    with pytest.raises(DataError, match="no PointCloud2 on /other"):
        sample_of(tmp_path / "drive.mcap", KITTI, 2, "/other")
