"""Devices by name, with the compute capability of their GPU."""

from typing import NamedTuple

from pd_edge.errors import EngineError


class Target(NamedTuple):
    """What an engine is built for."""

    name: str
    capability: tuple[int, int] | None
    """Compute capability of the GPU, (major, minor); None for a CPU."""
    device: str
    """Devices of this kind, for tables and errors."""

    @property
    def sm(self) -> str:
        """The capability as compilers write it, such as ``sm87``; ``cpu`` for a CPU."""
        return "cpu" if self.capability is None else sm_name(self.capability)


# Exported: NVIDIA's list of CUDA GPUs and their compute capability.
TARGETS = {
    each.name: each
    for each in (
        Target("cpu", None, "any CPU"),
        Target("orin", (8, 7), "Jetson AGX Orin, Orin NX, Orin Nano"),
        Target("thor", (11, 0), "Jetson AGX Thor"),
        Target("sm75", (7, 5), "Turing: RTX 20, T4"),
        Target("sm80", (8, 0), "A100"),
        Target("sm86", (8, 6), "Ampere: RTX 30, A10, A40"),
        Target("sm87", (8, 7), "Jetson Orin"),
        Target("sm89", (8, 9), "Ada: RTX 40, L4, L40"),
        Target("sm90", (9, 0), "Hopper: H100, H200"),
        Target("sm100", (10, 0), "Blackwell: B200"),
        Target("sm110", (11, 0), "Jetson Thor"),
        Target("sm120", (12, 0), "Blackwell: RTX 50, RTX PRO"),
        Target("sm121", (12, 1), "DGX Spark"),
    )
}


def find_target(name: str) -> Target:
    """A target by name.

    Raises:
        EngineError: There is none of that name.
    """
    if name not in TARGETS:
        known = ", ".join(f"{each.name} ({each.device})" for each in TARGETS.values())
        raise EngineError(f"target '{name}' is unknown; choose one of {known}")
    return TARGETS[name]


def target_of(capability: tuple[int, int]) -> Target:
    """The target of a GPU's compute capability; one that the table lacks is made of the number."""
    named = next((each for each in TARGETS.values() if each.capability == capability), None)
    return named or Target(sm_name(capability), capability, "GPU of this machine")


def sm_name(capability: tuple[int, int]) -> str:
    """``sm87`` for (8, 7)."""
    return "sm{}{}".format(*capability)
