"""Engine folders: a detector built for one runtime, as `pd-edge build` writes them.

An engine folder holds::

    engine.json         the manifest: what was built, from what, for what (pd_edge.engine_manifest)
    config.yaml         the DetectorConfig; its `decode` part may be edited, its `model` part belongs to the engine
    pillar_net.npz      the encoder's weights (voxel_net.npz of SECOND), for the form dense alone
    the engine's files  model.xml and model.bin, model.onnx, or model.engine and what it needs: the plugin library, or
                        kernels.fatbin, what runs before the form dense on a GPU
"""

from dataclasses import dataclass
from pathlib import Path

from pd_edge.bundle import CONFIG
from pd_edge.config import DetectorConfig, load_config
from pd_edge.encoders import EncoderNet, net_file, read_net
from pd_edge.engine_manifest import ENGINE_MANIFEST, EngineManifest, check_files, read_manifest, rebuild_advice
from pd_edge.errors import EngineError

OPENVINO_MODEL = "model.xml"
OPENVINO_WEIGHTS = "model.bin"
ONNX_MODEL = "model.onnx"
TENSORRT_ENGINE = "model.engine"
KERNELS = "kernels.fatbin"


@dataclass(frozen=True)
class EngineFolder:
    """An engine folder whose manifest, configuration and files agree.

    Attributes:
        folder: The folder.
        manifest: Its manifest.
        config: The detector's configuration; ``config.model`` is the one that the engine was built for.
        encoder_net: The encoder's weights for the form ``dense``; None for a form that takes points.
    """

    folder: Path
    manifest: EngineManifest
    config: DetectorConfig
    encoder_net: EncoderNet | None

    @classmethod
    def load(cls, folder: Path) -> "EngineFolder":
        """Reads and verifies an engine folder; the engine itself is opened by its runtime.

        Raises:
            EngineError: The manifest cannot be used, a file is missing or damaged, or the configuration is for another
                network or grid than the engine.
            ConfigError: ``config.yaml`` has an unknown, missing or wrong key.
        """
        manifest = read_manifest(folder)
        config = load_config(folder / CONFIG, DetectorConfig)
        if config.model != manifest.detector.model:
            raise EngineError(
                f"{folder / CONFIG}: its model part is not the one that the engine was built for; restore it, or "
                f"{rebuild_advice(manifest, folder)}"
            )
        check_files(manifest, folder)
        model = config.model
        net = read_net(folder / net_file(model), model) if manifest.form == "dense" else None
        return cls(folder, manifest, config, net)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def canvas_shape(self) -> tuple[int, int, int, int]:
        """Shape of the canvas that a dense engine takes: (1, C, H, W)."""
        return self.config.model.canvas_shape

    def file(self, name: str) -> Path:
        """Path of one of the engine's files, verified.

        Raises:
            EngineError: The manifest does not list it.
        """
        if name not in self.manifest.files:
            raise EngineError(f"{self.folder}: {name} is not listed; {rebuild_advice(self.manifest, self.folder)}")
        return self.folder / name


def is_engine_folder(path: str | Path) -> bool:
    """Whether there is an engine folder at a path."""
    return (Path(path) / ENGINE_MANIFEST).is_file()
