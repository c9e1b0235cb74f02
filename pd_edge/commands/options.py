"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "pointpillars-4x"

Model = Annotated[str, typer.Option(help="A shipped model (see `pd-edge models`), a model folder or an engine folder.")]
Runtime = Annotated[
    str | None,
    typer.Option(help="openvino, onnxruntime or torch; openvino, or what an engine folder is for, if left out."),
]
Precision = Annotated[
    str | None,
    typer.Option(help="Arithmetic of the network: fp32, the default, or bf16 (openvino, CPUs that have it)."),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads of network and encoder; the runtime's choice, and two, if left out."),
]
Split = Annotated[
    str | None,
    typer.Option(help="Frames of own data or a KITTI folder: train, val, or a list file ending in .txt."),
]
Coverage = Annotated[
    str, typer.Option(help="front: the model's grid; full: all around the sensor, the model on four sectors.")
]
WithinGrid = Annotated[
    bool, typer.Option("--within-grid", help="Objects beyond the model's grid count neither way; else they are missed.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON; - prints only that.")]
RunFolder = Annotated[Path, typer.Option(help="Run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, from its newest checkpoint.")]
StopAfter = Annotated[int | None, typer.Option(min=1, help="Stop, with a checkpoint, once so many samples were seen.")]
BankCache = Annotated[
    Path | None, typer.Option(help="Folder for the bank of objects, shared by runs; beside OUT if left out.")
]
Score = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least score of a detection; the model's own if left out.")
]
Sensor = Annotated[
    str,
    typer.Option(
        help="Sensor profile: a shipped one's name, or a YAML file; mounted and scaled as in KITTI if left out."
    ),
]
CalibrationData = Annotated[
    Path | None,
    typer.Option(help="Frames to calibrate INT8 on: anything `detect` takes; training frames if left out."),
]
CalibrationFrames = Annotated[int, typer.Option(min=1, help="Frames to calibrate on, spread over DATA.")]
Percentile = Annotated[
    float, typer.Option(min=99, max=100, help="Percentile of a map's values that INT8 has to hold; 100: the maximum.")
]
DEFAULT_CALIBRATION_FRAMES, DEFAULT_PERCENTILE = 32, 100.0
