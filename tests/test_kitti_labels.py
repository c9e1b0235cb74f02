"""KITTI label files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.errors import DataError
from pd_edge.kitti import (
    Label,
    read_labels,
    write_labels,
)
from pd_edge.kitti_labels import format_label, parse_label


def test_label_line() -> None:
    line = "Cyclist 0.25 2 -1.57 1.5 2.00 300.25 90.00 1.70 0.60 1.80 -2.50 1.60 15.00 3.90 0.875"
    label = parse_label(line, "here")
    assert label == Label(
        "Cyclist", 0.25, 2, -1.57, (1.5, 2, 300.25, 90), 1.7, 0.6, 1.8, (-2.5, 1.6, 15), 3.9, score=0.875
    )
    assert format_label(label) == line.replace(" 1.5 ", " 1.50 ")


def test_dont_care_is_written_as_kitti_does(dont_care: Label) -> None:
    assert format_label(dont_care) == "DontCare -1 -1 -10 5.00 6.00 7.00 8.00 -1 -1 -1 -1000 -1000 -1000 -10"


numbers = st.floats(-1000, 1000).map(lambda value: round(value, 6) + 0.0)
sizes = st.floats(0, 30).map(lambda value: round(value, 6))
labels_anywhere = st.builds(
    Label,
    name=st.sampled_from(["Car", "Van", "Person_sitting"]),
    truncation=st.floats(0, 1).map(lambda value: round(value, 6)),
    occlusion=st.integers(-1, 3),
    alpha=numbers,
    bbox=st.tuples(numbers, numbers, numbers, numbers),
    height=sizes,
    width=sizes,
    length=sizes,
    location=st.tuples(numbers, numbers, numbers),
    rotation_y=numbers,
    score=st.none() | numbers,
)


@given(labels_anywhere)
def test_labels_come_back_as_written(label: Label) -> None:
    assert parse_label(format_label(label), "here") == label


def test_label_file_and_an_empty_one(tmp_path: Path, car: Label, dont_care: Label) -> None:
    write_labels(tmp_path / "a.txt", [car, dont_care])
    assert read_labels(tmp_path / "a.txt") == [car, dont_care]
    write_labels(tmp_path / "b.txt", [])
    assert read_labels(tmp_path / "b.txt") == []


def test_real_labels_come_back_byte_for_byte(kitti_root: Path, tmp_path: Path) -> None:
    files = sorted((kitti_root / "object/training/label_2").glob("*.txt"))
    assert len(files) == 132
    for file in files:
        write_labels(tmp_path / file.name, read_labels(file))
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Car 0 0 0 1 2 3 4 1 1 1 0 0 10", "14 fields; expected 15 or 16"),
        ("Car 0 0 0 1 2 3 4 1 1 1 0 0 10 0 1 2", "17 fields"),
        ("Car 0 0 0 1 2 three 4 1 1 1 0 0 10 0", "'three' is not a number"),
        ("Car 0 0 0 1 2 nan 4 1 1 1 0 0 10 0", "'nan' is not a finite number"),
        ("Car 0 7 0 1 2 3 4 1 1 1 0 0 10 0", "occlusion 7"),
        ("Car 0 0.5 0 1 2 3 4 1 1 1 0 0 10 0", "occlusion 0.5"),
        ("Car 0 0 0 1 2 3 4 1 -1.6 1 0 0 10 0", "1 -1.6 1 m"),
    ],
)
def test_bad_label_lines_are_named(tmp_path: Path, line: str, said: str, car: Label) -> None:
    file = tmp_path / "000001.txt"
    file.write_text(f"{format_label(car)}\n{line}\n")
    with pytest.raises(DataError, match=f"000001.txt, line 2: .*{said}"):
        read_labels(file)
