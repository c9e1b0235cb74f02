"""``pd-edge build``: an ONNX file to an engine folder."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import Split

if TYPE_CHECKING:
    from pd_edge.engine_folder import EngineFolder
    from pd_edge.tables import Table


class EngineRuntime(str, Enum):
    """Runtimes that engines are built for."""

    openvino = "openvino"
    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


class HardwareLevel(str, Enum):
    """GPUs that may load an engine."""

    this = "this"
    same = "same"
    ampere_plus = "ampere-plus"


def build(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="ONNX file of `pd-edge export`, model folder or shipped model.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Engine folder to write.")],
    runtime: Annotated[EngineRuntime, typer.Option(help="Runtime to build for.")] = EngineRuntime.openvino,
    target: Annotated[
        str | None,
        typer.Option(
            help="Device: orin, thor, sm75, sm80, sm86, sm89, ...; the CPU or this machine's GPU if left out."
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace the engine that is in OUT.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Labelled frames to measure AP on; the manifest keeps the figures.")
    ] = None,
    split: Split = None,
    sensor: Annotated[str, typer.Option(help="Sensor profile of DATA: a shipped one's name, or a YAML file.")] = "",
    plugin: Annotated[Path | None, typer.Option(help="libpd_edge_plugins.so, for the form plugin.")] = None,
    min_points: Annotated[int, typer.Option(min=1, help="TensorRT, forms that take points: fewest.")] = 1,
    opt_points: Annotated[int, typer.Option(min=1, help="TensorRT, forms that take points: tuned for.")] = 20_000,
    max_points: Annotated[int, typer.Option(min=1, help="TensorRT, forms that take points: most.")] = 200_000,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that TensorRT keeps its timings in, for a faster next build.")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let TensorRT compute float32 in TF32.")] = False,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Let later versions of TensorRT (not RTX) load it."),
    ] = False,
    hardware: Annotated[
        HardwareLevel, typer.Option(help="TensorRT: GPUs that may load it; same: all of its compute capability.")
    ] = HardwareLevel.this,
) -> None:
    """Build an engine for one runtime.

    The engine folder goes wherever a model does: detect, eval, bench, compare. Its manifest, engine.json, tells what it
    was built from and for, and is checked whenever it is loaded. Precision is what the ONNX file says.

    An engine of the same file, runtime, version and flags that is already there is kept.

    SECOND is built for openvino and onnxruntime, not for TensorRT: its sparse layers have code for the CPU alone.

    \b
    Examples:
      pd-edge build pointpillars-4x --out built/4x-openvino
      pd-edge build second-4x --out built/second-4x
      pd-edge build 4x-int8.onnx --runtime onnxruntime --out built/4x-int8 --data data/kitti/object --split val
      pd-edge build 4x-dense.onnx --runtime tensorrt-rtx --target sm89 --out built/4x-rtx
      pd-edge build 4x-plugin.onnx --runtime tensorrt --target orin --plugin libpd_edge_plugins.so --out built/4x
    """
    from pd_edge.config import parse_config
    from pd_edge.engine_manifest import BuildFlags
    from pd_edge.engines.build import BuildOptions, Trial, build_engine
    from pd_edge.errors import ConfigError
    from pd_edge.kitti import open_dataset
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import counting, say, show

    if split is not None and data is None:
        raise ConfigError(f"--split {split}: of the frames of --data, which is missing; give both or neither")
    if sensor and data is None:
        raise ConfigError(f"--sensor {sensor}: of the frames of --data, which is missing; give both or neither")
    flags = {
        "points": {"least": min_points, "usual": opt_points, "most": max_points},
        "tf32": tf32,
        "version_compatible": version_compatible,
        "hardware": hardware.value,
    }
    options = BuildOptions(
        runtime=runtime.value,
        target=target,
        flags=parse_config(flags, BuildFlags, "build options"),
        plugin=plugin,
        timing_cache=timing_cache,
        rebuild=rebuild,
    )
    profile = load_profile(sensor)
    trial = None if data is None else Trial(str(data), open_dataset(data, split, profile), profile)
    with counting("building [%]") as advance:
        engine, built = build_engine(source, out, options, trial, advance)
    if engine.manifest.measured is not None:
        show(_measured(engine))
    say(f"engine: {out}" if built else f"engine: {out} is up to date; --rebuild builds it all the same")


def _measured(engine: "EngineFolder") -> "Table":
    """The AP that was measured at build time."""
    from pd_edge.tables import Table

    measured = engine.manifest.measured
    found = {} if measured is None else measured.ap
    kinds = dict.fromkeys(name.rpartition(" ")[0] for name in found)
    levels = ("easy", "moderate", "hard")
    rows = [
        (kind, *(f"{found[f'{kind} {each}']:.1f}" if f"{kind} {each}" in found else "-" for each in levels))
        for kind in kinds
    ]
    return Table(f"Average precision R40 [%] of {engine.name} in {engine.manifest.runtime}", ("class", *levels), rows)
