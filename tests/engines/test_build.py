"""Engine folders: built, loaded as a detector, kept, rebuilt, and refused where they do not fit."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.batch import BatchResult, detect_batch
from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.config import dump_config
from pd_edge.detector import Detector, load
from pd_edge.engine_folder import EngineFolder
from pd_edge.engine_manifest import BuildFlags, PointRange, read_manifest
from pd_edge.engine_targets import TARGETS, find_target, target_of
from pd_edge.engines.build import BuildOptions, Trial, build_engine
from pd_edge.engines.build_progress import WHOLE, BuildProgress
from pd_edge.engines.exported import read_exported
from pd_edge.engines.onnx_metadata import read_metadata
from pd_edge.errors import ConfigError, EngineError, MissingExtraError
from pd_edge.kitti import ObjectDataset, boxes_to_labels, write_object_frame, write_split
from pd_edge.runtimes import open_engine
from pd_edge.sensors import KITTI
from pd_edge.training.sim.camera import camera_calibration

if TYPE_CHECKING:
    from pd_edge.training.pointpillars import PointPillars

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("onnx", reason="needs the train extra")

Cloud = npt.NDArray[np.float32]
WriteDense = Callable[..., Path]
OPENVINO, ONNXRUNTIME, RTX = BuildOptions("openvino"), BuildOptions("onnxruntime"), BuildOptions("tensorrt-rtx", "sm86")


@pytest.fixture(scope="session")
def dense(write_dense: WriteDense, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dense(tmp_path_factory.mktemp("exports") / "tiny-dense.onnx")


@pytest.fixture(scope="session")
def built(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder for OpenVINO; copy it before changing a file."""
    out = tmp_path_factory.mktemp("engines") / "tiny"
    build_engine(dense, out, OPENVINO)
    return out


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "engine"))


def assert_same(found: Detections, expected: Detections) -> None:
    assert len(expected.boxes) > 5
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


@pytest.mark.parametrize("options", [OPENVINO, ONNXRUNTIME], ids=lambda each: each.runtime)
def test_an_engine_finds_what_the_model_finds(
    dense: Path, tiny_bundle: Bundle, tiny_cloud: Cloud, tmp_path: Path, options: BuildOptions
) -> None:
    pytest.importorskip(options.runtime)
    engine, built = build_engine(dense, tmp_path / "engine", options)
    assert built
    assert (engine.name, engine.manifest.form, engine.manifest.target) == ("tiny", "dense", "cpu")
    assert engine.manifest.runtime_version
    detector = load(tmp_path / "engine", threads=1)
    assert (detector.runtime.name, detector.runtime.precision) == (options.runtime, "fp32")
    assert_same(detector.detect(tiny_cloud), load(tiny_bundle.folder).detect(tiny_cloud))
    assert not len(detector.detect(np.empty((0, 4), np.float32)).boxes)


def test_a_model_folder_builds_as_its_dense_part(tiny_bundle: Bundle, tiny_cloud: Cloud, tmp_path: Path) -> None:
    for number, source in enumerate((tiny_bundle.folder, tiny_bundle.folder / "dense.onnx")):
        engine, _ = build_engine(source, tmp_path / str(number), OPENVINO)
        assert engine.manifest.name == "tiny"
        found = load(tmp_path / str(number)).detect(tiny_cloud)
        assert_same(found, load(tiny_bundle.folder).detect(tiny_cloud))


def test_bfloat16_stands_in_for_float32_alone(built: Path) -> None:
    ov = pytest.importorskip("openvino")
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    assert load(built, precision="bf16").runtime.precision == "bf16"
    engine = EngineFolder.load(built)
    quantized = engine.manifest.model_copy(update={"precision": "int8-cpu"})
    runtime = open_engine(EngineFolder(built, quantized, engine.config, engine.encoder_net), precision="bf16")
    assert runtime.precision == "int8-cpu+bf16"


@pytest.mark.parametrize(
    ("form", "capable", "arithmetic"), [("dense", True, "fp16"), ("dense", False, "fp32"), ("plain", True, "fp32")]
)
def test_float16_is_computed_as_such_where_the_cpu_can_and_no_coordinate_is_in_it(  # noqa: PLR0917
    tiny_model: "PointPillars",
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: Any,
    capable: bool,
    arithmetic: str,
) -> None:
    from pd_edge.engines.onnx_file import export_onnx
    from pd_edge.runtimes import openvino

    export_onnx(tiny_model, tiny_bundle.config, tmp_path / "tiny.onnx", form, "fp16")
    build_engine(tmp_path / "tiny.onnx", tmp_path / "engine", OPENVINO)
    asked, compile_ = [], openvino._compile

    def note(path: Path, shape: Any, threads: Any, arithmetic: str, at_once: int = 1) -> Any:
        asked.append(arithmetic)
        return compile_(path, shape, threads, "fp32")

    monkeypatch.setattr(openvino, "_compile", note)
    monkeypatch.setattr(openvino, "cpu_has", lambda each: capable or each == "fp32")
    assert load(tmp_path / "engine").runtime.precision == "fp16"
    assert asked == [arithmetic]


@pytest.mark.parametrize("form", ["plain", "dense"])
@pytest.mark.parametrize("options", [OPENVINO, ONNXRUNTIME], ids=lambda each: each.runtime)
def test_every_exported_form_finds_what_the_model_finds(  # noqa: PLR0917
    tiny_model: "PointPillars", tiny_bundle: Bundle, tiny_cloud: Cloud, tmp_path: Path, options: BuildOptions, form: Any
) -> None:
    from pd_edge.engines.onnx_file import export_onnx

    pytest.importorskip(options.runtime)
    export_onnx(tiny_model, tiny_bundle.config, tmp_path / "tiny.onnx", form, "fp32")
    build_engine(tmp_path / "tiny.onnx", tmp_path / "engine", options)
    detector, expected = load(tmp_path / "engine"), load(tiny_bundle.folder)
    for cloud in (tiny_cloud, tiny_cloud[:700], np.tile(tiny_cloud, (30, 1)), tiny_cloud[:1]):
        found, wanted = detector.detect(cloud), expected.detect(cloud)
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=2e-3)
    outside = tiny_cloud[:5] + np.array([500, 0, 0, 0], np.float32)
    np.testing.assert_allclose(detector.detect(outside).scores, expected.detect(outside).scores, atol=1e-5)
    detector.warm_up()  # with no point at all
    np.testing.assert_allclose(detector.detect(outside).scores, expected.detect(outside).scores, atol=1e-5)


def test_the_same_engine_is_kept_and_another_needs_rebuild(dense: Path, copied: Path, tiny_bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    before = (copied / "engine.json").read_bytes()
    _, built = build_engine(dense, copied, OPENVINO)
    assert not built
    assert (copied / "engine.json").read_bytes() == before
    with pytest.raises(EngineError, match=r"another engine is there, tiny dense fp32 for openvino .*add --rebuild"):
        build_engine(dense, copied, ONNXRUNTIME)
    engine, built = build_engine(dense, copied, BuildOptions("onnxruntime", rebuild=True))
    assert built
    assert engine.manifest.runtime == "onnxruntime"
    assert load(copied).runtime.name == "onnxruntime"
    assert sorted(path.name for path in copied.iterdir()) == [
        *("config.yaml", "engine.json", "model.onnx", "pillar_net.npz")
    ]


def test_a_damaged_engine_is_rebuilt(dense: Path, copied: Path) -> None:
    (copied / "engine.json").write_text("{")
    with pytest.raises(EngineError, match="whose manifest is damaged; add --rebuild"):
        build_engine(dense, copied, OPENVINO)
    build_engine(dense, copied, BuildOptions("openvino", rebuild=True))
    EngineFolder.load(copied)


def test_nothing_else_is_written_over(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match="exists and is no engine folder"):
        build_engine(dense, tmp_path, BuildOptions("openvino", rebuild=True))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_ap_is_measured_at_build_time(dense: Path, tiny_cloud: Cloud, tmp_path: Path) -> None:
    calibration = camera_calibration()
    cars = np.array([[12.0, 0, -0.9, 4, 1.7, 1.5, 0.0]])
    write_object_frame(
        tmp_path, "000000", tiny_cloud, calibration, boxes_to_labels(cars, ["Car"], calibration, occlusion=[0])
    )
    write_split(tmp_path, "val", ["000000"])
    trial = Trial("here", ObjectDataset(tmp_path, "val"))
    engine, _ = build_engine(dense, tmp_path / "engine", OPENVINO, trial)
    measured = read_manifest(tmp_path / "engine").measured
    assert measured is not None
    assert (measured.data, measured.frames) == ("here", 1)
    assert 0 <= measured.ap["Car 3d moderate"] <= 100
    assert measured.ap["mean 3d moderate"] == measured.ap["Car 3d moderate"]
    assert engine.manifest.measured == measured


def test_frames_of_another_sensor_meet_its_mount(
    dense: Path, tmp_path: Path, tiny_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = KITTI.model_copy(update={"height": 2.23})
    calibration = camera_calibration()
    cars = np.array([[12.0, 0, -0.9, 4, 1.7, 1.5, 0.0]])
    labels = boxes_to_labels(cars, ["Car"], calibration, occlusion=[0])
    write_object_frame(tmp_path, "000000", tiny_cloud, calibration, labels)
    heights: list[float] = []

    def look(detector: Detector, *_: object) -> BatchResult:
        heights.append(detector.mount.to_model[2, 3])
        return detect_batch(detector, ObjectDataset(tmp_path))

    monkeypatch.setattr("pd_edge.engines.build.detect_batch", look)
    build_engine(dense, tmp_path / "engine", OPENVINO, Trial("here", ObjectDataset(tmp_path, sensor=high), high))
    assert heights == pytest.approx([0.5])


@pytest.mark.parametrize("option", ["--split val", "--sensor vlp-16"])
def test_what_is_said_of_no_frames_is_refused(
    option: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", str(dense), "--out", str(tmp_path / "engine"), *option.split()])
    assert ended.value.code == 1
    assert f"{option}: of the frames of --data, which is missing" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def _truncated(folder: Path) -> None:
    (folder / "engine.json").write_bytes((folder / "engine.json").read_bytes()[:200])


def _unknown_key(folder: Path) -> None:
    data = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps(data | {"precison": "fp32"}))


def _other_format(folder: Path) -> None:
    data = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps(data | {"format": 2}))


def _cut_engine(folder: Path) -> None:
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-8])


def _flipped_bit(folder: Path) -> None:
    data = bytearray((folder / "model.bin").read_bytes())
    data[100] ^= 1
    (folder / "model.bin").write_bytes(data)


def _missing(folder: Path) -> None:
    (folder / "model.xml").unlink()


def _other_grid(folder: Path) -> None:
    config = EngineFolder.load(folder).config
    grid = config.model.grid.model_copy(update={"x_max": 40.96})
    dump_config(
        config.model_copy(update={"model": config.model.model_copy(update={"grid": grid})}), folder / "config.yaml"
    )


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_truncated, "not valid JSON .* pd-edge build MODEL.onnx .*--rebuild"),
        (_unknown_key, "precison: unknown key; did you mean precision.*--rebuild"),
        (_other_format, "format: Input should be 1"),
        (
            _cut_engine,
            "model.bin: damaged or replaced .*pd-edge build .*tiny-dense.onnx --runtime openvino --out .*--rebuild",
        ),
        (_flipped_bit, "model.bin: damaged or replaced"),
        (_missing, "model.xml is missing; build it again: pd-edge build"),
        (_other_grid, "model part is not the one that the engine was built for"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(copied: Path, damage: Callable[[Path], None], text: str) -> None:
    damage(copied)
    with pytest.raises(EngineError, match=text):
        load(copied)


def test_the_runtime_and_precision_are_the_engines(built: Path) -> None:
    with pytest.raises(EngineError, match="was built for openvino, not torch; leave the runtime out"):
        load(built, runtime="torch")
    with pytest.raises(EngineError, match="precision 'int4': choose one of fp32, bf16"):
        load(built, precision="int4")
    with pytest.raises(EngineError, match="threads 0"):
        load(built, threads=0)


def test_a_model_folder_cannot_run_in_tensorrt_itself(tiny_bundle: Bundle) -> None:
    with pytest.raises(
        EngineError, match="runs engines, not model folders; build one with `pd-edge build tiny --runtime"
    ):
        load(tiny_bundle.folder, "tensorrt")


def test_the_rebuild_command_builds_the_same_engine(copied: Path) -> None:
    from pd_edge.engine_manifest import rebuild_command

    flags = BuildFlags(points=PointRange(least=5, usual=6, most=7), tf32=True, version_compatible=True, hardware="same")
    manifest = read_manifest(copied).model_copy(
        update={"runtime": "tensorrt", "target": "orin", "capability": (8, 7), "flags": flags, "source": "my file.onnx"}
    )
    assert rebuild_command(manifest, Path("out")) == (
        "pd-edge build 'my file.onnx' --runtime tensorrt --out out --target orin --min-points 5 --opt-points 6 "
        "--max-points 7 --tf32 --version-compatible --hardware same --rebuild"
    )


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({"form": None}, OPENVINO, "no form in its metadata, so it is not an export of pd-edge; write one with"),
        ({"form": "sparse"}, OPENVINO, "form 'sparse' is none of plugin, plain, dense"),
        ({"precision": "int4"}, OPENVINO, "precision 'int4' is none of fp32, fp16"),
        ({"pillar_net": None}, OPENVINO, "no pillar_net"),
        ({"pillar_net": "AAAA"}, OPENVINO, r"pillar_net is not this network's float32 in base64"),
        ({"pillar_net": "?"}, OPENVINO, "pillar_net is not"),
        ({"detector_config": "{"}, OPENVINO, "detector_config is not valid JSON"),
        ({"form": "plugin"}, OPENVINO, "openvino has no plugins; export `--form plain` or `--form dense`"),
        ({"form": "plugin"}, RTX, "tensorrt-rtx has no plugins; export `--form dense`"),
        ({"form": "plugin"}, BuildOptions("tensorrt"), "needs the plugin library; add `--plugin"),
        ({"form": "plain"}, RTX, "ScatterElements with a maximum; export `--form dense`"),
        ({"precision": "int8-cpu"}, RTX, "refuses precision int8-cpu; export `--precision int8-trt`"),
        (
            {},
            BuildOptions("tensorrt-rtx", "sm86", BuildFlags(version_compatible=True)),
            "no use for --version-compatible",
        ),
        ({}, BuildOptions("openvino", "orin"), "target orin .* is a GPU, openvino runs on the CPU"),
        ({}, BuildOptions("openvino", "tx2"), "target 'tx2' is unknown; choose one of cpu .*orin .*thor"),
        ({}, BuildOptions("openvino", plugin=Path("p.so")), "has no use for --plugin"),
        ({}, BuildOptions("onnxruntime", timing_cache=Path("t")), "has no use for --timing-cache"),
        ({}, BuildOptions("openvino", flags=BuildFlags(tf32=True, hardware="same")), "no use for --hardware, --tf32"),
        ({}, BuildOptions("openvino", flags=BuildFlags(points=PointRange(most=30_000))), "no use for --min-points"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_written(
    write_dense: WriteDense, tmp_path: Path, changes: dict[str, str | None], options: BuildOptions, text: str
) -> None:
    path = write_dense(tmp_path / "model.onnx", **changes)
    with pytest.raises(EngineError, match=text):
        build_engine(path, tmp_path / "out", options)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_target_is_known_before_a_runtime_is_asked_for(dense: Path, tmp_path: Path) -> None:
    for runtime in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(EngineError, match="target 'tx2' is unknown"):
            build_engine(dense, tmp_path / "out", BuildOptions(runtime, "tx2"))


def test_an_unknown_key_in_the_files_configuration_is_refused(write_dense: WriteDense, tmp_path: Path) -> None:
    path = write_dense(tmp_path / "model.onnx", detector_config='{"modell": {}}')
    with pytest.raises(ConfigError, match="modell: unknown key; did you mean model"):
        build_engine(path, tmp_path / "out", OPENVINO)


def test_files_from_elsewhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    with pytest.raises(EngineError, match=r"other\.onnx: cannot be read .*give an ONNX file"):
        read_exported(path)
    for data in (b"not a network", b"", b"\x00" * 64):
        path.write_bytes(data)
        with pytest.raises(EngineError, match="not an ONNX file, or a damaged one"):
            read_exported(path)


def test_a_file_that_is_cut_short_is_refused(dense: Path, tmp_path: Path) -> None:
    data = dense.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in (10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(EngineError, match="not an ONNX file, or a damaged one"):
            read_exported(path)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_metadata_or_a_value_error(data: bytes) -> None:
    try:
        found = read_metadata(data)
    except ValueError:
        return
    assert all(isinstance(text, str) for pair in found.items() for text in pair)


def test_metadata_is_what_onnx_reads(dense: Path) -> None:
    import onnx

    expected = {each.key: each.value for each in onnx.load(dense).metadata_props}
    assert read_metadata(dense.read_bytes()) == expected


def test_targets_have_the_capability_in_their_name() -> None:
    for name, target in TARGETS.items():
        assert target.name == name
        assert not name.startswith("sm") or target.sm == name
    assert (find_target("orin").capability, find_target("thor").capability) == ((8, 7), (11, 0))
    assert target_of((8, 9)).name == "sm89"
    assert target_of((13, 0)) == ("sm130", (13, 0), "GPU of this machine")


def test_progress_rises_through_nested_phases() -> None:
    seen: list[tuple[int, int]] = []
    progress = BuildProgress(lambda done, whole: seen.append((done, whole)))
    progress.start("build", None, 2)
    progress.start("parse", "build", 4)
    for index in range(4):
        progress.step("parse", index)
    progress.finish("parse")
    progress.step("build", 0)
    progress.start("optimise", "build", 0)
    progress.step("unknown", 3)
    progress.finish("optimise")
    progress.step("build", 1)
    progress.finish("build")
    done = [each for each, _ in seen]
    assert done == sorted(done)
    assert {12, 25, 50, WHOLE} <= set(done)
    assert seen[-1] == (WHOLE, WHOLE)


def test_a_missing_runtime_names_its_extra(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"tensorrt_rtx is not installed.*pd-edge\[tensorrt-rtx\]"):
        build_engine(dense, tmp_path / "out", RTX)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"openvino is not installed.*pd-edge\[openvino\]"):
        build_engine(dense, tmp_path / "out", OPENVINO)
