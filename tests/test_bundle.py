"""Model folders: what they verify, and what they say when something does not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pd_edge import bundle as bundle_module
from pd_edge.bundle import Bundle, find_model, list_models, summarize
from pd_edge.config import SecondConfig, dump_config
from pd_edge.encoders import read_net
from pd_edge.errors import ConfigError, EngineError
from pd_edge.pillars import PillarNet


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny"))


def edit_config(folder: Path, section: str, **changes: object) -> None:
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    target = data[section] if section == "decode" else data["model"]["grid"]
    target.update(changes)
    path.write_text(yaml.safe_dump(data))


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_folder_loads_by_path(tiny_bundle: Bundle) -> None:
    loaded = Bundle.load(tiny_bundle.folder)
    assert loaded.name == "tiny"
    assert loaded.canvas_shape == (1, 8, 64, 128)
    assert isinstance(loaded.encoder_net, PillarNet)
    assert loaded.encoder_net.weight.shape == (10, 8)
    assert loaded.results == {"ap": 12.5}
    assert loaded.file("dense.onnx") == tiny_bundle.folder / "dense.onnx"
    assert Bundle.load(str(tiny_bundle.folder)).manifest == loaded.manifest


def test_shipped_models_load_by_name_and_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "SHIPPED", folder.parent)
    assert Bundle.load("tiny").folder == folder
    (summary,) = list_models()
    assert summary == summarize(folder)
    assert (summary.name, summary.weights, summary.results) == ("tiny", "fp32", {"ap": 12.5})
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert summary.runtime_bytes == sizes["dense.onnx"] + sizes["pillar_net.npz"]
    assert summary.total_bytes == summary.runtime_bytes + sizes["model.safetensors"]


def test_an_unknown_name_lists_what_is_shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "SHIPPED", folder.parent)
    with pytest.raises(EngineError, match=r"'pointpilars' \(shipped: tiny\)"):
        Bundle.load("pointpilars")
    with pytest.raises(EngineError, match=r"no manifest\.json"):
        find_model(folder.parent)


@pytest.mark.parametrize("name", ["dense.onnx", "model.safetensors", "pillar_net.npz"])
def test_a_changed_weight_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=rf"{name}: SHA-256 .* damaged or replaced"):
        Bundle.load(folder)


def test_a_vehicle_may_leave_the_training_weights_out(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    bundle = Bundle.load(folder)
    with pytest.raises(EngineError, match=r"model\.safetensors is missing"):
        bundle.file("model.safetensors")


def test_the_pillar_net_is_needed(folder: Path) -> None:
    (folder / "pillar_net.npz").unlink()
    with pytest.raises(EngineError, match=r"pillar_net\.npz"):
        Bundle.load(folder)


def test_weights_of_another_grid_name_both_and_the_fix(folder: Path) -> None:
    edit_config(folder, "model", x_max=40.96)
    with pytest.raises(
        EngineError, match=r"x_max is 40.96 in config.yaml, the weights were trained for 20.48; restore"
    ):
        Bundle.load(folder)


def test_decode_settings_may_be_edited(folder: Path) -> None:
    edit_config(folder, "decode", score_threshold=0.3)
    assert Bundle.load(folder).config.decode.score_threshold == 0.3


def test_a_pillar_net_of_another_width_is_refused(folder: Path) -> None:
    np.savez(folder / "pillar_net.npz", weight=np.zeros((10, 4), np.float32), bias=np.zeros(4, np.float32))
    entry = bundle_module.file_entry(folder / "pillar_net.npz").model_dump()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files=files | {"pillar_net.npz": entry})
    with pytest.raises(EngineError, match=r"shape \(10, 4\), but config.yaml needs \(10, 8\)"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "arrays",
    [
        {"weight": np.zeros((10, 8), np.float32)},
        {"weight": np.zeros((10, 8)), "bias": np.zeros(8)},
        {"weight": np.zeros((10, 8), np.float32), "bias": np.zeros(7, np.float32)},
        {"weight": np.zeros(8, np.float32), "bias": np.zeros(8, np.float32)},
        {"weight": np.array([{}]), "bias": np.zeros(8, np.float32)},
    ],
    ids=["no-bias", "float64", "sizes", "flat", "pickle"],
)
def test_a_malformed_pillar_net_is_refused(tiny_bundle: Bundle, tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "net.npz", **arrays)
    with pytest.raises(EngineError, match=r"net\.npz"):
        read_net(tmp_path / "net.npz", tiny_bundle.config.model)


def test_one_array_is_no_archive_of_weights(tiny_bundle: Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "net.npy", np.zeros((10, 8), np.float32))
    with pytest.raises(EngineError, match=r"net\.npy: cannot be read as arrays 'weight' and 'bias'"):
        read_net(tmp_path / "net.npy", tiny_bundle.config.model)


def test_the_configuration_of_another_detector_is_refused(folder: Path, tiny_bundle: Bundle) -> None:
    second = SecondConfig(sparse_channels=(4,) * 4, folded_channels=4, backbone_channels=(4, 4), neck_channels=4)
    dump_config(tiny_bundle.config.model_copy(update={"model": second}), folder / "config.yaml")
    with pytest.raises(EngineError, match=r"config\.yaml is of second, they are of pointpillars; restore"):
        Bundle.load(folder)


def test_manifest_and_results_say_what_is_wrong(folder: Path) -> None:
    edit_manifest(folder, extra=1)
    with pytest.raises(ConfigError, match="extra"):
        Bundle.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(EngineError, match="not valid JSON"):
        Bundle.load(folder)
    (folder / "results.json").write_text("[1]")
    with pytest.raises(EngineError, match="expected a JSON object of figures by name, found list"):
        bundle_module.read_results(folder)


def test_every_shipped_model_verifies() -> None:
    for model in list_models():
        assert Bundle.load(model.name).name == model.name
