"""PCD and PLY files as bytes, to and from (N, 4) float32 clouds.

Sizes in a header are compared with the bytes that are there before anything is allocated.

Source: the PCD v0.7 format of the Point Cloud Library; Greg Turk's PLY format; liblzf's stream, which
``binary_compressed`` uses.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.errors import DataError
from pd_edge.files import parse_numbers

Cloud = npt.NDArray[np.float32]

COORDINATES = ("x", "y", "z")
INTENSITY_NAMES = ("intensity", "i", "reflectivity", "reflectance")
"""What the fourth field may be called, in either case."""
_PCD_KINDS = {"F": "f", "I": "i", "U": "u"}
_PCD_SIZES = {"F": ("4", "8"), "I": ("1", "2", "4", "8"), "U": ("1", "2", "4", "8")}
_PLY_KINDS = (
    {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
    | {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
    | {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
)
_PLY_END = re.compile(rb"(?<=\n)end_header\r?\n")
# The best a byte of an LZF stream can stand for: three bytes repeat up to 264.
_LZF_RATIO = 88


class Field(NamedTuple):
    """One field of a point record."""

    name: str
    kind: str
    """numpy type without byte order, such as f4."""
    values: int = 1
    """Numbers in the field."""

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.kind[1:]) * self.values


class Wanted(NamedTuple):
    """Names of the fields to take, capitals aside.

    Attributes:
        intensity: Of the intensity; the first of :data:`INTENSITY_NAMES` that is there where None.
        coordinates: Of x, y and z.
    """

    intensity: str | None = None
    coordinates: tuple[str, str, str] = COORDINATES


USUAL = Wanted()


def parse_pcd(data: bytes, source: str, wanted: Wanted = USUAL) -> Cloud:
    """Parses a PCD file: ``ascii``, ``binary`` or ``binary_compressed``.

    Args:
        data: The whole file.
        source: Its name, for errors.
        wanted: The fields to take.

    Returns:
        (N, 4) float32 x y z [m] and the intensity as the file has it.

    Raises:
        DataError: The header or the data is malformed or truncated, or there is no intensity field.
    """
    header, body_start = _pcd_header(data, source)
    fields = _usually_named(_pcd_fields(header, source), wanted, source)
    count = _point_count(header["POINTS"][:1], f"{source}: POINTS")
    body, encoding = memoryview(data)[body_start:], " ".join(header["DATA"])
    if encoding == "ascii":
        return _from_text(_text_lines(body, source), fields, count, source)
    if encoding == "binary":
        _check_rest(len(body), fields, count, source)
        return _from_records(body, fields, count, "<", source)
    if encoding == "binary_compressed":
        return _from_columns(_pcd_decompress(body, fields, count, source), fields, count, source)
    raise DataError(f"{source}: DATA {encoding[:40]!r}; expected ascii, binary or binary_compressed")


def format_pcd(points: Cloud) -> bytes:
    """A binary PCD file from (N, 4) float32."""
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\n"
        f"TYPE F F F F\nCOUNT 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(points)}\nDATA binary\n"
    )
    return header.encode() + points.astype("<f4").tobytes()


def parse_ply(data: bytes, source: str, wanted: Wanted = USUAL) -> Cloud:
    """Parses the vertices of a PLY file: ``ascii``, ``binary_little_endian`` or ``binary_big_endian``.

    Args:
        data: The whole file.
        source: Its name, for errors.
        wanted: The fields to take.

    Returns:
        (N, 4) float32 x y z [m] and the intensity as the file has it.

    Raises:
        DataError: The header or the data is malformed or truncated, or there is no intensity property.
    """
    header, body_start = _ply_header(data, source)
    header = header._replace(fields=_usually_named(header.fields, wanted, source))
    body = memoryview(data)[body_start:]
    if header.encoding == "ascii":
        return _from_text(_text_lines(body, source), header.fields, header.points, source, trailing=True)
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(header.encoding)
    if order is None:
        raise DataError(
            f"{source}: format {header.encoding[:40]!r}; expected ascii, binary_little_endian or binary_big_endian"
        )
    return _from_records(body, header.fields, header.points, order, source)


def format_ply(points: Cloud) -> bytes:
    """A little-endian binary PLY file from (N, 4) float32."""
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    return header.encode() + points.astype("<f4").tobytes()


def decompress_lzf(data: memoryview, size: int, source: str) -> bytes:
    """Decompresses an LZF stream that is to give ``size`` bytes.

    Raises:
        DataError: The stream is malformed or gives another number of bytes.
    """
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end and len(out) <= size:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            distance = ((control & 31) << 8 | data[at]) + 1
            at += 1
            _repeat(out, distance, length + 2, source)
    except IndexError as error:
        raise DataError(f"{source}: compressed data ends in the middle; the file is truncated") from error
    if len(out) != size or at != end:
        raise DataError(f"{source}: compressed data does not give the {size} bytes promised; the file is damaged")
    return bytes(out)


def _repeat(out: bytearray, distance: int, length: int, source: str) -> None:
    """Appends ``length`` bytes found ``distance`` back; they may overlap what is appended."""
    start = len(out) - distance
    if start < 0:
        raise DataError(f"{source}: compressed data refers to before its start; the file is damaged")
    piece = out[start : start + length]
    out += (piece * (length // len(piece) + 1))[:length]


def _pcd_header(data: bytes, source: str) -> tuple[dict[str, list[str]], int]:
    """Entries of the header, and where the data starts."""
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at)
        if end < 0:
            raise DataError(f"{source}: no DATA line; not a PCD file, or truncated in its header")
        key, *words = data[at:end].decode("ascii", "replace").split() or ["#"]
        if not key.startswith("#"):
            header[key] = words
        at = end + 1
    missing = [key for key in ("FIELDS", "SIZE", "TYPE", "POINTS") if not header.get(key)]
    if missing:
        raise DataError(f"{source}: the PCD header has no {' '.join(missing)}")
    return header, at


def _pcd_fields(header: dict[str, list[str]], source: str) -> list[Field]:
    names, sizes, kinds = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise DataError(f"{source}: FIELDS, SIZE, TYPE and COUNT differ in length; expected one entry a field")
    fields = []
    for name, size, kind, count in zip(names, sizes, kinds, counts, strict=True):
        if size not in _PCD_SIZES.get(kind, ()):
            raise DataError(
                f"{source}: field {name[:40]!r} of TYPE {kind[:40]!r}, SIZE {size[:40]!r}; "
                "expected F (4, 8), I or U (1, 2, 4, 8)"
            )
        fields.append(Field(name, _PCD_KINDS[kind] + size, _whole([count], f"{source}: COUNT")))
    return fields


def _pcd_decompress(body: memoryview, fields: Sequence[Field], count: int, source: str) -> bytes:
    compressed, size = (int.from_bytes(body[at : at + 4], "little") for at in (0, 4))
    wanted = count * sum(field.size for field in fields)
    if size != wanted:
        raise DataError(f"{source}: {size} bytes once decompressed; {count} points need {wanted}")
    if compressed > len(body) - 8 or size > compressed * _LZF_RATIO:
        raise DataError(f"{source}: {len(body)} bytes of compressed data, too few for {count} points; truncated?")
    return decompress_lzf(body[8 : 8 + compressed], size, source)


class _PlyHeader(NamedTuple):
    encoding: str
    fields: list[Field]
    points: int


def _ply_header(data: bytes, source: str) -> tuple[_PlyHeader, int]:
    """The header, and where the data starts."""
    if not data.startswith((b"ply\n", b"ply\r\n")):
        raise DataError(f"{source}: does not start with 'ply'; not a PLY file")
    end = _PLY_END.search(data)
    if end is None:
        raise DataError(f"{source}: no end_header; not a PLY file, or truncated in its header")
    lines = [line.split() for line in data[: end.start()].decode("ascii", "replace").split("\n")]
    elements = [at for at, words in enumerate(lines) if words[:1] == ["element"]]
    if not elements or lines[elements[0]][1:2] != ["vertex"]:
        raise DataError(f"{source}: 'element vertex N' is not the first element of the PLY header; write it first")
    first, following = elements[0], (*elements[1:], len(lines))[0]
    encoding = next((words[1] for words in lines[:first] if words[:1] == ["format"] and len(words) > 1), "none")
    fields = [_ply_property(words, source) for words in lines[first:following] if words[:1] == ["property"]]
    return _PlyHeader(encoding, fields, _point_count(lines[first][2:], f"{source}: element vertex")), end.end()


def _ply_property(words: list[str], source: str) -> Field:
    if len(words) != 3 or words[1] not in _PLY_KINDS:
        raise DataError(f"{source}: vertex {' '.join(words)[:60]!r}; expected 'property TYPE NAME' with a number type")
    return Field(words[2], _PLY_KINDS[words[1]])


def _usually_named(fields: list[Field], wanted: Wanted, source: str) -> list[Field]:
    """The fields that are wanted under their usual names, and nothing else under these."""
    if wanted == USUAL:
        return fields
    chosen = dict(zip(wanted.coordinates, COORDINATES, strict=True))
    if wanted.intensity is not None:
        chosen[wanted.intensity] = INTENSITY_NAMES[0]
    chosen = {name.lower(): usual for name, usual in chosen.items()}
    names = [field.name.lower() for field in fields]
    missing = [name for name in chosen if name not in names]
    if missing:
        raise DataError(f"{source}: no field {', '.join(missing)}, which the sensor profile names; it has {names}")
    taken = {*COORDINATES, *(INTENSITY_NAMES if wanted.intensity is not None else ())}
    renamed = [chosen.get(name, f"other {name}" if name in taken else name) for name in names]
    return [field._replace(name=name) for field, name in zip(fields, renamed, strict=True)]


def _wanted(fields: Sequence[Field], source: str) -> list[int]:
    """Indices of x, y, z and the intensity among the fields."""
    names = [field.name.lower() for field in fields]
    intensity = next((name for name in INTENSITY_NAMES if name in names), None)
    missing = [name for name in ("x", "y", "z") if name not in names]
    if missing or intensity is None:
        wanted = ", ".join([*missing, *([] if intensity else [" or ".join(INTENSITY_NAMES)])])
        raise DataError(
            f"{source}: no field {wanted}; it has {' '.join(names)[:200] or 'none'}. "
            "Where the sensor gives no intensity, write zeros"
        )
    found = [names.index(name) for name in ("x", "y", "z", intensity)]
    if any(fields[index].values != 1 for index in found):
        raise DataError(f"{source}: x, y, z and {intensity} must each be a single number (COUNT 1)")
    return found


def _from_records(body: memoryview, fields: Sequence[Field], count: int, order: str, source: str) -> Cloud:
    """Points stored one after another."""
    wanted = _wanted(fields, source)
    record = sum(field.size for field in fields)
    if len(body) < record * count:
        raise DataError(
            f"{source}: {len(body)} bytes of points; {count} points of {record} bytes need {record * count}: truncated?"
        )
    raw = np.frombuffer(body, np.uint8, count=record * count).reshape(count, record)
    starts = [sum(field.size for field in fields[:index]) for index in wanted]
    return _stack(
        [
            raw[:, start : start + fields[i].size].copy().view(order + fields[i].kind)
            for i, start in zip(wanted, starts, strict=True)
        ]
    )


def _from_columns(body: bytes, fields: Sequence[Field], count: int, source: str) -> Cloud:
    """Points stored field by field, little-endian."""
    columns = []
    for index in _wanted(fields, source):
        start = count * sum(field.size for field in fields[:index])
        columns.append(np.frombuffer(body, "<" + fields[index].kind, count, start)[:, None])
    return _stack(columns)


def _from_text(lines: Sequence[str], fields: Sequence[Field], count: int, source: str, trailing: bool = False) -> Cloud:
    """Points stored a line each; ``trailing``: other elements may follow."""
    wanted = _wanted(fields, source)
    starts = [sum(field.values for field in fields[:index]) for index in wanted]
    numbers = sum(field.values for field in fields)
    if len(lines) < count or (len(lines) > count and not trailing):
        raise DataError(f"{source}: {len(lines)} lines of points; the header says {count}: truncated?")
    rows = []
    for number, line in enumerate(lines[:count], 1):
        words = line.split()
        if len(words) != numbers:
            raise DataError(f"{source}, point {number}: {len(words)} numbers; expected {numbers}")
        rows.append(parse_numbers([words[start] for start in starts], f"{source}, point {number}", "x y z intensity"))
    return _stack([np.array(rows, np.float64).reshape(-1, 4)])


def _text_lines(body: memoryview, source: str) -> list[str]:
    try:
        text = bytes(body).decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: points are not text, but the header says ascii") from error
    return [line for line in text.split("\n") if line.strip()]


def _check_rest(size: int, fields: Sequence[Field], count: int, source: str) -> None:
    """Whole points beyond the header's number would be lost silently."""
    record = sum(field.size for field in fields)
    if size - record * count >= record:
        raise DataError(f"{source}: {size} bytes of points; the header's {count} points need only {record * count}")


def _stack(columns: Sequence[npt.NDArray[np.generic]]) -> Cloud:
    with np.errstate(over="ignore"):
        return np.hstack([column.astype(np.float32) for column in columns])


def _point_count(words: Sequence[str], what: str) -> int:
    count = _whole(words, what)
    if not count:
        raise DataError(f"{what} 0; expected at least one point")
    return count


def _whole(words: Sequence[str], what: str) -> int:
    word = words[0] if words else ""
    if not (word.isascii() and word.isdigit() and len(word) <= 18):
        raise DataError(f"{what} {word[:40]!r}; expected a whole number")
    return int(word)
