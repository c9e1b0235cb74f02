"""Reads what an exported ONNX file says of itself, without the package onnx: a vehicle that builds engines has none.

An ONNX file is a protocol buffer message: a row of fields, each a tag (number * 8 + wire type) and a value. Only two
fields of the outermost message are looked at; all others are skipped by their length.

Exported: onnx.proto (``ModelProto.graph`` = 7, ``ModelProto.metadata_props`` = 14, ``StringStringEntryProto`` key 1 and
value 2); the protocol buffers' encoding.
"""

from collections.abc import Iterator

_GRAPH, _METADATA, _KEY, _VALUE = 7, 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def read_metadata(data: bytes) -> dict[str, str]:
    """The ``metadata_props`` of an ONNX file.

    Args:
        data: The whole file.

    Returns:
        Values by name; empty where the file has none.

    Raises:
        ValueError: The bytes are no ONNX file, or are cut short.
    """
    graphs = 0
    found: dict[str, str] = {}
    for number, value in _fields(memoryview(data)):
        graphs += number == _GRAPH
        if number == _METADATA:
            entry = {key: bytes(text).decode("utf-8") for key, text in _fields(value)}
            found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    if graphs != 1:
        raise ValueError(f"{graphs} graphs in it, expected 1")
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a message; numbers of fixed and variable size have an empty content."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _size(data, at, tag & 7)
        if at + size > len(data):
            raise ValueError(f"cut short: a field needs {at + size} bytes, there are {len(data)}")
        yield tag >> 3, data[at : at + size] if tag & 7 == _BYTES else data[:0]
        at += size


def _size(data: memoryview, at: int, wire_type: int) -> tuple[int, int]:
    """Bytes of the value that begins at ``at``, and where they begin."""
    if wire_type == _BYTES:
        return _varint(data, at)
    if wire_type == _VARINT:
        return 0, _varint(data, at)[1]
    if wire_type in (_FIXED64, _FIXED32):
        return (8 if wire_type == _FIXED64 else 4), at
    raise ValueError(f"byte {at}: wire type {wire_type} is none of ONNX")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable size, seven bits a byte, the lowest first, and the place after it."""
    value = 0
    for i in range(_LONGEST_VARINT):
        if at + i >= len(data):
            raise ValueError("cut short within a number")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise ValueError(f"byte {at}: a number of more than {_LONGEST_VARINT} bytes")
