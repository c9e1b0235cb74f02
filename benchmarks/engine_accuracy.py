"""What forms, runtimes and precisions cost: ``python benchmarks/engine_accuracy.py pointpillars-4x [...]``.

Exports a model, builds engines for the CPU runtimes and compares them on the same frames: all of them with torch on
real frames, and what is computed otherwise than in float32 with fp32 in OpenVINO on simulated frames, which are enough
for the AP of three classes. Figures and machine go to ``accuracy-MODEL-real.json`` and ``-simulated.json``, and
``accuracy.md`` is written anew from all such files in the folder. The same as `pd-edge export`, `build` and `compare`.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pd_edge
from pd_edge.compare import Difference, compare, gates_of
from pd_edge.compare_report import difference_json, difference_table
from pd_edge.detector import load
from pd_edge.drive_report import machine
from pd_edge.engine_manifest import Form, Precision, RuntimeName
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.onnx_file import export_onnx
from pd_edge.engines.source import Source, open_source
from pd_edge.files import write_bytes
from pd_edge.kitti import Dataset, open_dataset
from pd_edge.report import write_json
from pd_edge.tables import Table, markdown_table
from pd_edge.terminal import counting

RESULTS = Path(__file__).parent.parent / "engines" / "results"
ENGINES: tuple[tuple[RuntimeName, Form, Precision], ...] = (
    ("onnxruntime", "dense", "fp32"),
    ("openvino", "plain", "fp32"),
    ("onnxruntime", "plain", "fp32"),
    ("openvino", "dense", "fp16"),
    ("openvino", "dense", "int8-trt"),
    ("openvino", "dense", "int8-cpu"),
    ("onnxruntime", "dense", "int8-cpu"),
)
HEADING = """# What forms, runtimes and precisions cost

Written by `benchmarks/engine_accuracy.py`; the JSON files beside it hold the same figures and more. `gate` is what
`pd-edge compare` says of them. INT8 is calibrated on 32 frames spread over the KITTI folder, some of which are among
the real ones; a calibration sees no labels.
"""
INT8, INT8_AND_BF16 = "openvino dense int8-cpu", "openvino dense int8-cpu, the rest bf16"
LESS_THAN_FLOAT32 = ("openvino dense fp16", "openvino dense int8-trt", INT8, INT8_AND_BF16)


def build_all(source: Source, calibration_data: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Exports and builds all engines; yields their names and folders."""
    with counting("calibration frames") as advance:
        calibration = source.calibrate(calibration_data, 32, 100.0, advance)
    for runtime, form, precision in ENGINES:
        onnx = folder / f"{form}-{precision}.onnx"
        if not onnx.exists():
            given = calibration if "int8" in precision else None
            export_onnx(source.model, source.config, onnx, form, precision, calibration=given, name=source.name)
        out = folder / f"{runtime}-{form}-{precision}"
        build_engine(onnx, out, BuildOptions(runtime))
        yield f"{runtime} {form} {precision}", out


def measure(
    model: str,
    others: dict[str, tuple[str | Path, str | None, str]],
    dataset: Dataset,
    threads: int | None,
    most: int | None = None,
) -> list[Difference]:
    """Compares the first of some detectors with the others, on all frames or the first so many."""
    detectors = {
        name: load(each if isinstance(each, Path) else model, runtime, precision, threads)
        for name, (each, runtime, precision) in others.items()
    }
    with counting(f"{model}: frames") as advance:
        return compare(detectors, dataset, most, advance)


def write_result(out: Path, kind: str, model: str, data: str, differences: list[Difference]) -> None:
    """Writes one comparison as JSON."""
    packages = ("openvino", "onnxruntime", "torch", "onnx")
    found = {
        "model": model,
        "data": data,
        "frames": differences[0].frames,
        "machine": machine(),
        "versions": {"pd-edge": pd_edge.__version__} | {each: version(each) for each in packages},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "detectors": difference_json(differences, gates_of(differences)),
    }
    write_json(out / f"accuracy-{model}-{kind}.json", found)


def write_tables(out: Path) -> None:
    """Writes the tables of all comparisons in a folder."""
    files = sorted(out.glob("accuracy-*.json"), key=lambda each: (each.stem.rpartition("-")[2], each.name))
    tables = [markdown_table(_table(json.loads(path.read_text()))) for path in files]
    write_bytes(out / "accuracy.md", ("\n".join([HEADING, *tables]).rstrip("\n") + "\n").encode())


def _table(found: dict[str, Any]) -> Table:
    """One comparison as a table, under its model and data, with the machine below."""
    nan: Any = float("nan")
    rows = [
        Difference(**{name: nan if each.get(name) is None else each[name] for name in Difference._fields})
        for each in found["detectors"]
    ]
    table = difference_table(rows, [each.beyond(gate) for each, gate in zip(rows, gates_of(rows), strict=True)])
    versions = ", ".join(f"{name} {each}" for name, each in found["versions"].items())
    notes = (*table.notes, f"{found['date']}, {found['machine']}; {versions}.")
    return table._replace(title=f"{found['model']}, {found['data']}", notes=notes)


def main() -> None:
    """Measures what is asked for, and writes files and tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["pointpillars-4x", "pointpillars-16x"])
    parser.add_argument("--simulated", type=Path, help="labelled simulated frames, 500 or more (data/sim-val)")
    parser.add_argument("--real", type=Path, help="KITTI object folder; its split val is used (data/kitti/object)")
    parser.add_argument("--calibration", type=Path, default=Path("data/kitti/object"), help="frames for INT8's ranges")
    parser.add_argument("--frames", type=int, help="take only so many simulated frames; all where left out")
    parser.add_argument("--threads", type=int, help="CPU threads of each network")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    for model in arguments.models if arguments.simulated or arguments.real else ():
        with tempfile.TemporaryDirectory() as scratch:
            source = open_source(model)
            engines = {
                name: (path, None, "fp32") for name, path in build_all(source, arguments.calibration, Path(scratch))
            }
            engines[INT8_AND_BF16] = (engines[INT8][0], None, "bf16")
            float32 = {"openvino dense fp32": (model, "openvino", "fp32")}
            bfloat16 = {"openvino dense bf16": (model, "openvino", "bf16")}
            if arguments.real:
                everything = {"torch": (model, "torch", "fp32"), **float32, **bfloat16, **engines}
                found = measure(model, everything, open_dataset(arguments.real, "val"), arguments.threads)
                write_result(arguments.out, "real", model, f"{found[0].frames} real frames (KITTI)", found)
            if arguments.simulated:
                narrow = {**float32, **bfloat16, **{name: engines[name] for name in LESS_THAN_FLOAT32}}
                dataset = open_dataset(arguments.simulated, None)
                found = measure(model, narrow, dataset, arguments.threads, arguments.frames)
                write_result(arguments.out, "simulated", model, f"{found[0].frames} simulated frames", found)
    write_tables(arguments.out)


if __name__ == "__main__":
    main()
