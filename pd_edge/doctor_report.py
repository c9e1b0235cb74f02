"""``pd-edge doctor`` as a function: examines a source with a model, and tells what was found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pd_edge.boxes import SHOWN_SCORE
from pd_edge.config import GridConfig
from pd_edge.detector import Detector, load
from pd_edge.doctor import diagnose
from pd_edge.doctor_evidence import Finding, Sample
from pd_edge.doctor_mount import check_model
from pd_edge.doctor_reference import reference
from pd_edge.doctor_sources import sample_of
from pd_edge.doctor_trial import LEAST, Trial, check_scores, histogram_line, try_profile
from pd_edge.errors import ConfigError, DataError, EngineError, MissingExtraError
from pd_edge.own_data import profile_of
from pd_edge.sensors import SensorProfile


class DetectorWanted(NamedTuple):
    """What :func:`pd_edge.detector.load` takes, and the score from which boxes count; 0.3 where None."""

    model: str
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    score: float | None = None


class Report(NamedTuple):
    """What was found.

    Attributes:
        source: What was examined.
        clouds: How many clouds of it.
        findings: In the order of the checks.
        profile: The profile that was in use, with all changes proposed.
        changed: Whether it differs from the one in use.
        before: What the detector found with the profile in use; None where it could not be loaded.
        after: The same with the proposed one.
        enough: Score from which boxes count.
    """

    source: str
    clouds: int
    findings: list[Finding]
    profile: SensorProfile
    changed: bool
    before: Trial | None
    after: Trial | None
    enough: float = SHOWN_SCORE


def examine(
    source: str, profile: SensorProfile, wanted: DetectorWanted, most: int = 5, topic: str | None = None
) -> Report:
    """Examines clouds.

    Args:
        source: Path of a cloud, a folder or a bag; or the name of a live topic, where ROS is.
        profile: The sensor profile in use; of own data that name one, that.
        wanted: The detector to try.
        most: Clouds to look at.
        topic: Of the clouds in a bag.

    Raises:
        MissingExtraError: The source is a bag, and ``rosbags`` is not installed.
    """
    detector, broken = _detector(wanted)
    model = None if detector is None else check_model(detector.config.model, detector.name)
    findings = [each for each in (broken, model) if each is not None]
    try:
        profile = profile_of(Path(source), profile)
        sample = _sample(source, profile, most, topic)
    except DataError as error:
        return Report(source, 0, [*findings, _unreadable(str(error))], profile, changed=False, before=None, after=None)
    grid = GridConfig() if detector is None else detector.config.model.grid
    found, proposed = diagnose(sample, profile, grid, reference())
    if proposed != profile:
        proposed = proposed.model_copy(update={"name": f"measured on {Path(source).name}"})
    before = after = None
    enough = SHOWN_SCORE if wanted.score is None else wanted.score
    if detector is not None:
        before = after = try_profile(detector, sample, profile, enough)
        if proposed != profile:
            after = try_profile(detector, sample, proposed, enough)
        few = check_scores(after, enough)
        found += [few] if few is not None else []
    findings += found
    return Report(source, len(sample.clouds), findings, proposed, proposed != profile, before, after, enough)


def lines(report: Report) -> Iterator[str]:
    """The report as lines of text."""
    for each in report.findings:
        yield from finding_lines(each)
    if not report.findings:
        yield f"nothing keeps boxes away in {report.clouds} clouds of {report.source}"
    if report.before is not None and report.after is not None:
        yield f"boxes in {report.clouds} clouds (scores {report.enough:g} or more): {_boxes(report.before)}"
        if report.changed:
            yield f"with the proposed profile: {_boxes(report.before)} -> {_boxes(report.after)}"
        if report.after.boxes < report.before.boxes:
            yield "fewer than before: do not take the profile over unseen; give more clouds, or measure on the vehicle"
        yield f"scores {histogram_line(report.after.histogram)}"


def finding_lines(finding: Finding) -> Iterator[str]:
    """A finding as lines of text."""
    yield f"{'BLOCKS' if finding.blocks else 'note  '} {finding.name}: {finding.measured}"
    yield f"       expected: {finding.expected}"
    yield f"       so:       {finding.meaning}"
    yield f"       change:   {finding.remedy}"


def report_json(report: Report) -> dict[str, Any]:
    """The report as plain data; see ``pd-edge doctor --help``."""
    return {
        "source": report.source,
        "clouds": report.clouds,
        "findings": [each._asdict() for each in report.findings],
        "profile": report.profile.model_dump(mode="json"),
        "before": None if report.before is None else report.before._asdict(),
        "after": None if report.after is None else report.after._asdict(),
    }


def _boxes(trial: Trial) -> str:
    return f"{trial.boxes} boxes" + (f" ({trial.refused})" if trial.refused else "")


def _sample(source: str, profile: SensorProfile, most: int, topic: str | None) -> Sample:
    """The clouds of a path, or of a live topic where there is no such path."""
    if source.startswith("/") and not Path(source).exists():
        from pd_edge.doctor_topic import listen  # noqa: PLC0415 - needs ROS

        return listen(source, profile, most)
    return sample_of(Path(source), profile, most, topic)


def _detector(wanted: DetectorWanted) -> tuple[Detector | None, Finding | None]:
    """The detector; or what is wrong with the model, the engine or its manifest."""
    try:
        detector = load(wanted.model, wanted.runtime, wanted.precision, wanted.threads)
        detector.set_score_threshold(LEAST if wanted.score is None else min(LEAST, wanted.score))
    except (EngineError, ConfigError, MissingExtraError) as error:
        return None, Finding(
            "engine",
            str(error),
            "a model or engine that loads here",
            "nothing is detected; clouds were compared with the shipped models' grid",
            "command: --model, --runtime and --precision; or build the engine anew with `pd-edge build`",
            blocks=True,
            change={},
        )
    return detector, None


def _unreadable(why: str) -> Finding:
    return Finding(
        "reading",
        why,
        "clouds with x, y, z and an intensity",
        "there is nothing to detect in",
        "sensor profile: coordinate_fields and intensity_field; or what the message says",
        blocks=True,
        change={},
    )
