"""Cloud files in and out, and the check of a cloud."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.cloud_formats import INTENSITY_NAMES, decompress_lzf
from pd_edge.clouds import SUFFIXES, check_points, read_cloud, write_cloud
from pd_edge.errors import DataError

Cloud = npt.NDArray[np.float32]


@pytest.fixture
def points() -> Cloud:
    rng = np.random.default_rng(3)
    return np.column_stack([rng.normal(0, 30, (500, 3)), rng.uniform(0, 1, 500)]).astype(np.float32)


def compress_lzf(data: bytes) -> bytes:
    """A plain LZF compressor: the last place where the next three bytes stood, else literals."""
    out, literals, places, at = bytearray(), bytearray(), dict[bytes, int](), 0

    def flush() -> None:
        while literals:
            out.append(min(len(literals), 32) - 1)
            out.extend(literals[:32])
            del literals[:32]

    while at < len(data):
        key = data[at : at + 3]
        before = places.get(key, -1) if len(key) == 3 else -1
        places[key] = at
        distance = at - before - 1
        if before < 0 or distance >= 1 << 13:
            literals.append(data[at])
            at += 1
            continue
        length = 3
        while length < 264 and at + length < len(data) and data[before + length] == data[at + length]:
            length += 1
        flush()
        short = min(length - 2, 7)
        out.append(short << 5 | distance >> 8)
        if short == 7:
            out.append(length - 2 - 7)
        out.append(distance & 255)
        at += length
    flush()
    return bytes(out)


def pcd_header(
    data: str, count: int, fields: str = "x y z intensity", size: str = "4 4 4 4", kind: str = "F F F F"
) -> bytes:
    ones = " ".join("1" for _ in fields.split())
    return (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {ones}\nWIDTH {count}\nHEIGHT 1\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {data}\n"
    ).encode()


def ply_header(encoding: str, count: int, intensity: str = "intensity", extra: str = "") -> bytes:
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", intensity))
    return (
        f"ply\nformat {encoding} 1.0\ncomment a scan\nelement vertex {count}\n{properties}{extra}end_header\n".encode()
    )


def as_text(points: Cloud) -> bytes:
    return "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in points.tolist()).encode()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_clouds_come_back_bit_for_bit(tmp_path: Path, points: Cloud, suffix: str) -> None:
    file = tmp_path / "new folder" / f"cloud{suffix}"
    write_cloud(file, points)
    read = read_cloud(file)
    assert read.dtype == np.float32
    assert read.flags.writeable
    np.testing.assert_array_equal(read, points)


@pytest.mark.parametrize("suffix", [".pcd", ".ply"])
def test_open3d_reads_what_is_written_and_is_read(tmp_path: Path, points: Cloud, suffix: str) -> None:
    o3d = pytest.importorskip("open3d")
    ours = tmp_path / f"ours{suffix}"
    write_cloud(ours, points)
    cloud = o3d.t.io.read_point_cloud(str(ours))
    np.testing.assert_array_equal(cloud.point.positions.numpy(), points[:, :3])
    np.testing.assert_array_equal(cloud.point.intensity.numpy()[:, 0], points[:, 3])
    for ascii_, compressed in ((True, False), (False, True), (False, False)):
        theirs = tmp_path / f"theirs{ascii_}{compressed}{suffix}"
        assert o3d.t.io.write_point_cloud(str(theirs), cloud, write_ascii=ascii_, compressed=compressed)
        np.testing.assert_allclose(read_cloud(theirs), points, atol=1e-4 if ascii_ else 0)


def test_pcd_in_text(tmp_path: Path, points: Cloud) -> None:
    file = tmp_path / "cloud.pcd"
    file.write_bytes(pcd_header("ascii", len(points)) + as_text(points))
    np.testing.assert_array_equal(read_cloud(file), points)


def test_pcd_compressed(tmp_path: Path, points: Cloud) -> None:
    points[:, 2] = -1.5
    packed = compress_lzf(points.T.tobytes())
    assert len(packed) < points.nbytes
    sizes = np.array([len(packed), points.nbytes], "<u4").tobytes()
    file = tmp_path / "cloud.pcd"
    file.write_bytes(pcd_header("binary_compressed", len(points)) + sizes + packed)
    np.testing.assert_array_equal(read_cloud(file), points)
    file.write_bytes(pcd_header("binary_compressed", len(points)) + sizes + packed[:-9])
    with pytest.raises(DataError, match="truncated"):
        read_cloud(file)


def test_pcd_with_other_fields_and_types(tmp_path: Path) -> None:
    record = np.dtype([("ring", "<u2"), ("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("Intensity", "u1")])
    rows = np.array([(7, 1.5, 2.5, -3.5, 200), (8, -1.25, 0, 4, 3)], record)
    file = tmp_path / "cloud.pcd"
    file.write_bytes(pcd_header("binary", 2, "ring x y z Intensity", "2 8 8 8 1", "U F F F U") + rows.tobytes())
    np.testing.assert_array_equal(read_cloud(file), [[1.5, 2.5, -3.5, 200], [-1.25, 0, 4, 3]])


@pytest.mark.parametrize("name", [*INTENSITY_NAMES, "Intensity"])
@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_encodings_and_intensity_names(tmp_path: Path, points: Cloud, encoding: str, name: str) -> None:
    body = {
        "ascii": as_text(points),
        "binary_little_endian": points.astype("<f4").tobytes(),
        "binary_big_endian": points.astype(">f4").tobytes(),
    }
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    file = tmp_path / "cloud.ply"
    file.write_bytes(ply_header(encoding, len(points), name, faces) + body[encoding] + b"3 0 1 2\n")
    np.testing.assert_array_equal(read_cloud(file), points)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_npy_dtypes_and_orders(tmp_path: Path, points: Cloud, dtype: str, order: str) -> None:
    stored = points.astype(dtype, order="F" if order == "F" else "C")
    np.save(tmp_path / "cloud.npy", stored)
    np.testing.assert_array_equal(read_cloud(tmp_path / "cloud.npy"), points)


@given(st.binary(max_size=2000) | st.binary(min_size=1, max_size=20).map(lambda piece: piece * 90))
def test_lzf_gives_back_what_was_compressed(data: bytes) -> None:
    assert decompress_lzf(memoryview(compress_lzf(data)), len(data), "test") == data


def test_check_leaves_good_points_alone(points: Cloud) -> None:
    checked = check_points(points, "scan")
    assert checked.points is points
    assert checked.notes == ()
    assert (checked.removed, checked.intensity_scale) == (0, 1)


def test_check_removes_and_counts_points_that_are_not_finite(points: Cloud) -> None:
    points[3, 0], points[5, 2], points[9, 3] = np.nan, np.inf, -np.inf
    checked = check_points(points, "scan")
    np.testing.assert_array_equal(checked.points, np.delete(points, [3, 5, 9], axis=0))
    assert checked.removed == 3
    assert checked.notes == ("3 points with NaN or infinity left out",)


def test_check_takes_doubles_and_drops_those_beyond_float32(points: Cloud) -> None:
    doubles = points.astype(np.float64)
    doubles[0, 0] = 1e300
    checked = check_points(doubles, "scan")
    assert checked.points.dtype == np.float32
    assert checked.removed == 1


@pytest.mark.parametrize("top", [255, 65535])
def test_check_recognises_byte_and_word_intensities(points: Cloud, top: int) -> None:
    stored = points.copy()
    stored[:, 3] = np.round(points[:, 3] * top)
    stored[0, 3] = top
    before = stored.copy()
    checked = check_points(stored, "scan")
    assert checked.points[0, 3] == 1
    np.testing.assert_allclose(checked.points[1:, 3], points[1:, 3], atol=0.6 / top)
    np.testing.assert_array_equal(checked.points[:, :3], points[:, :3])
    np.testing.assert_array_equal(stored, before)
    assert checked.notes == (f"intensity 0..{top} scaled to 0..1",)


def test_check_takes_the_intensity_scale_it_is_told(points: Cloud) -> None:
    checked = check_points(points, "scan", intensity_max=100.0)
    np.testing.assert_allclose(checked.points[:, 3], points[:, 3] / 100, rtol=1e-6)
    with pytest.raises(DataError, match=r"intensities .* expected 0\.\.0\.5"):
        check_points(points, "scan", intensity_max=0.5)
    with pytest.raises(DataError, match="intensity_max nan"):
        check_points(points, "scan", intensity_max=float("nan"))


@pytest.mark.parametrize(("value", "said"), [(-0.5, "-0.5"), (1e6, "1e\\+06"), (1.3, "1.3")])
def test_check_refuses_intensities_of_no_known_range(points: Cloud, value: float, said: str) -> None:
    points[0, 3] = value
    with pytest.raises(DataError, match=said):
        check_points(points, "scan")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((5, 3), np.float32), r"shape \(5, 3\)"),
        (np.zeros(4, np.float32), r"shape \(4,\)"),
        (np.zeros((0, 4), np.float32), "no points"),
        (np.zeros((5, 4), np.int32), "dtype int32"),
        (np.zeros((5, 4), np.float16), "dtype float16"),
        (np.full((5, 4), np.nan, np.float32), "none of 5 points"),
        ([[1.0, 2.0, 3.0, 4.0]], "list"),
    ],
)
def test_check_refuses_what_is_no_cloud(bad: Cloud, said: str) -> None:
    with pytest.raises(DataError, match=f"scan: .*{said}"):
        check_points(bad, "scan")


XYZ = pcd_header("ascii", 1, "x y z", "4 4 4", "F F F")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("cloud.bin", b"", "empty"),
        ("cloud.bin", b"\0" * 17, "17 bytes"),
        ("cloud.las", b"LASF", "'.las'"),
        ("cloud.npy", b"PK\x03\x04", "np.save"),
        ("cloud.pcd", XYZ + b"1 2 3\n", "no field intensity"),
        ("cloud.pcd", pcd_header("ascii", 2) + b"1 2 3 4\n", "header says 2"),
        ("cloud.pcd", pcd_header("ascii", 1) + b"1 2 here 4\n", "point 1: 'here' is not a number"),
        ("cloud.pcd", pcd_header("ascii", 1) + b"1 2 3\n", "point 1: 3 numbers; expected 4"),
        ("cloud.pcd", pcd_header("binary", 1) + b"\0" * 15, "truncated"),
        ("cloud.pcd", pcd_header("binary", 1) + b"\0" * 32, "need only 16"),
        ("cloud.pcd", pcd_header("binary", 10**15) + b"\0" * 32, "truncated"),
        ("cloud.pcd", pcd_header("binary_compressed", 10**9) + b"\0\0\0\1\0\0\0\0", "need 16000000000"),
        ("cloud.pcd", pcd_header("zip", 1), "'zip'"),
        ("cloud.pcd", pcd_header("binary", 0), "at least one point"),
        ("cloud.pcd", b"VERSION 0.7\n", "no DATA line"),
        ("cloud.ply", b"solid x\n", "'ply'"),
        ("cloud.ply", ply_header("ascii", 3) + b"1 2 3 4\n", "header says 3"),
        ("cloud.ply", ply_header("binary_big_endian", 10**17) + b"\0" * 16, "truncated"),
        ("cloud.ply", ply_header("morse", 1), "'morse'"),
        ("cloud.ply", ply_header("ascii", 1, "red"), "intensity or i or"),
        ("cloud.ply", ply_header("ascii", 1, extra="property list uchar int k\n"), "list uchar int k"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(DataError, match=said) as error:
        read_cloud(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 5), np.float32), r"shape \(3, 5\)"),
        (np.zeros((3, 4), np.int16), "dtype <i2"),
        (np.zeros((0, 4), np.float32), "no points"),
    ],
)
def test_npy_of_something_else(tmp_path: Path, array: npt.NDArray[np.generic], said: str) -> None:
    np.save(tmp_path / "cloud.npy", array)
    with pytest.raises(DataError, match=said):
        read_cloud(tmp_path / "cloud.npy")


def test_npy_cut_short(tmp_path: Path, points: Cloud) -> None:
    file = tmp_path / "cloud.npy"
    np.save(file, points)
    file.write_bytes(file.read_bytes()[:-16])
    with pytest.raises(DataError, match="truncated"):
        read_cloud(file)


def test_missing_file_and_unwritable_folder(tmp_path: Path, points: Cloud) -> None:
    with pytest.raises(DataError, match=r"gone\.bin: cannot be read"):
        read_cloud(tmp_path / "gone.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written"):
        write_cloud(tmp_path / "file" / "cloud.bin", points)
    with pytest.raises(DataError, match="unknown kind"):
        write_cloud(tmp_path / "cloud.xyz", points)


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, points: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cloud.bin"
    write_cloud(file, points)

    def full_disk(path: Path, data: bytes) -> int:
        with path.open("wb") as out:
            out.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_cloud(file, points[:9])
    np.testing.assert_array_equal(read_cloud(file), points)
    assert list(tmp_path.iterdir()) == [file]
