"""``pd-edge bench``: runtimes side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import DEFAULT_MODEL, JsonFile, Sensor, Threads

if TYPE_CHECKING:
    from pd_edge.bench import Case, Cloud

STANDARD = "openvino:fp32,openvino:bf16,onnxruntime:fp32,torch:fp32"


def bench(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Shipped model, model folder or engine folder; may be repeated. [{DEFAULT_MODEL}]"),
    ] = None,
    runtimes: Annotated[str, typer.Option(help="Runtimes with their precision, separated by commas.")] = STANDARD,
    frames: Annotated[
        Path | None, typer.Option(help="Clouds or data set to run on; an artificial cloud if left out.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Frames to time in each case.")] = 100,
    threads: Threads = None,
    sensor: Sensor = "",
    json_file: JsonFile = None,
) -> None:
    """Measure latency, memory and load time, side by side.

    Each case runs in a process of its own. An engine folder runs in the runtime that it was built for, and of the
    precisions listed for that runtime in each.

    JSON: [{case: {model, runtime, precision, threads, sensor}, load_ms, peak_mib, stages_ms: {stage: {min, p50, p95,
    p99}}, frames, points, detections, precision}], or {case, skipped: reason} for what cannot run on this machine.

    \b
    Examples:
      pd-edge bench
      pd-edge bench --model pointpillars-4x --model pointpillars-16x --runtimes openvino:fp32
      pd-edge bench --model pointpillars-4x --model built/4x-int8
      pd-edge bench --frames kitti/object --runs 200 --json bench.json
    """
    from pd_edge.bench import Case
    from pd_edge.bench import bench as measure
    from pd_edge.commands.shared import present
    from pd_edge.errors import ConfigError
    from pd_edge.report import bench_json, bench_table
    from pd_edge.runtimes import PRECISIONS, RUNTIMES
    from pd_edge.terminal import counting

    pairs = [each.strip().partition(":") for each in runtimes.split(",")]
    for runtime, _, precision in pairs:
        if runtime not in RUNTIMES or precision not in ("", *PRECISIONS):
            raise ConfigError(
                f"runtime '{runtime}{':' if precision else ''}{precision}': choose of {', '.join(RUNTIMES)}, each with "
                f":{' or :'.join(PRECISIONS)} behind it or nothing"
            )
    if sensor and frames is None:
        raise typer.BadParameter("belongs to --frames; the random cloud is of KITTI's sensor", param_hint="--sensor")
    wanted = [(runtime, precision or "fp32") for runtime, _, precision in pairs]
    cases = [Case(name, *pair, threads, sensor) for name in model or [DEFAULT_MODEL] for pair in _pairs(name, wanted)]
    clouds = _clouds(cases[0], frames, runs)
    with counting("cases") as advance:
        advance(0, len(cases))
        started: list[Case] = []

        def begin(case: Case) -> None:
            advance(len(started), len(cases))
            started.append(case)

        results = measure(cases, clouds, runs, progress=begin)
    present([bench_table(results)], bench_json(results), json_file)


def _pairs(model: str, wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Runtimes and precisions to run a model in: those that are wanted, or an engine's own."""
    from pd_edge.bundle import shipped_models
    from pd_edge.engine_folder import is_engine_folder
    from pd_edge.engine_manifest import read_manifest

    if model in shipped_models() or not is_engine_folder(model):
        return wanted
    runtime = read_manifest(Path(model)).runtime
    own = [pair for pair in wanted if pair[0] == runtime]
    return own or [(runtime, "fp32")]


def _clouds(case: "Case", frames: Path | None, most: int) -> "list[Cloud]":
    """Clouds to run on, cut to the camera's view where that is known."""
    from pd_edge.batch import points_to_use
    from pd_edge.bench import synthetic_cloud
    from pd_edge.commands.shared import model_config
    from pd_edge.kitti import open_dataset
    from pd_edge.sensors import load_profile

    if frames is None:
        return [synthetic_cloud(20_000, model_config(case.model).model.grid)]
    dataset = open_dataset(frames, sensor=load_profile(case.sensor))
    return [points_to_use(dataset.frame(index))[0] for index in range(min(most, len(dataset)))]
