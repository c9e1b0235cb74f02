"""``pd-edge study``: methods x seeds x students, compared in pairs."""

from pathlib import Path
from typing import Annotated

import typer


def study(
    config: Annotated[Path, typer.Argument(help="Study configuration, YAML.")],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    processes: Annotated[int, typer.Option(min=1, help="Cells to run at a time.")] = 1,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; report on the cells that are done.")
    ] = False,
) -> None:
    """Compare distillation methods over seeds.

    Every cell (a student, a method, a seed) is one training run, measured at its end. A cell that is done is not run
    again, and one that was stopped goes on. At the end OUT holds study.md (mean, standard deviation, difference to the
    baseline in pairs of the same seed with its interval), study.png, study.csv and study.json. Needs the extras train
    and viz.

    \b
    Examples:
      pd-edge study training/configs/study-4x.yaml --out runs/study-4x
      pd-edge study training/configs/study-4x.yaml --out runs/study-4x --report-only
    """
    from pd_edge.config import load_config
    from pd_edge.errors import PdEdgeError, TrainingError
    from pd_edge.terminal import counting, say, show
    from pd_edge.training.study import StudyConfig, finished, run_study
    from pd_edge.training.study_report import columns, table, write_report

    settings = load_config(config, StudyConfig)
    failures: list[PdEdgeError] = []
    if not report_only:
        with counting("runs") as advance:
            cells = run_study(settings, out, processes=processes, advance=advance)
            failures = [each for each in cells if isinstance(each, PdEdgeError)]
    results = finished(settings, out)
    for path in write_report(settings, results, out):
        say(f"written: {path}")
    show(table(settings, results, columns(settings)[0]))
    if failures:
        raise TrainingError(f"{len(failures)} runs failed; the first: {failures[0]}; start the study again to go on")
