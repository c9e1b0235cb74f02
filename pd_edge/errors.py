"""The errors a user can meet. Every message names the value, what was expected, and the way out."""


class PdEdgeError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(PdEdgeError):
    """A configuration file or value that cannot be used."""


class DataError(PdEdgeError):
    """A point cloud, label, calibration or data set that cannot be read as what it should be."""


class EngineError(PdEdgeError):
    """A model, its weights or a runtime that cannot be loaded or run."""


class TrainingError(PdEdgeError):
    """A training run that cannot go on."""


class MissingExtraError(PdEdgeError):
    """An optional dependency that the requested function needs is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; it comes with: pip install 'pd-edge[{extra}]'")
        self._needed = (module, extra)

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        """Survives the way back from another process; one that cannot be unpickled there blocks its pool for ever."""
        return type(self), self._needed
