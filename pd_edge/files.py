"""Reading and writing small files whole, with errors that name the file and the way out."""

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pd_edge.errors import DataError


def read_bytes(path: Path, what: str) -> bytes:
    """Reads a whole file.

    Args:
        path: The file.
        what: What it should be, for the error ("a label file").

    Raises:
        DataError: The file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read ({reason}); expected {what}") from error


def read_text(path: Path, what: str) -> str:
    """Reads a whole UTF-8 file; ``what`` says what it should be, for the error.

    Raises:
        DataError: The file is missing, cannot be read, or is not text.
    """
    data = read_bytes(path, what)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not text; expected {what} in UTF-8"
        ) from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON file of named values; ``what`` says what it should be, for the error.

    Raises:
        DataError: The file is missing, cannot be read, or holds no JSON object.
    """
    text = read_text(path, what)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); expected {what}") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: holds {data!r:.80}, expected {what}, a JSON object of named values")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all (a killed run leaves no half file), creating its folder.

    Raises:
        DataError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(f"{path}: cannot be written ({error.strerror}); give a folder you may write to") from error


def parse_floats(words: Sequence[str], where: str, expected: str) -> list[float]:
    """Finite numbers from words; ``where`` names file and line, ``expected`` what should stand there.

    Raises:
        DataError: A word is not a number, or not a finite one.
    """
    values = parse_numbers(words, where, expected)
    if not all(map(math.isfinite, values)):
        bad = next(word for word, value in zip(words, values, strict=True) if not math.isfinite(value))
        raise DataError(f"{where}: {bad[:40]!r} is not a finite number; expected {expected}")
    return values


def parse_numbers(words: Sequence[str], where: str, expected: str) -> list[float]:
    """As :func:`parse_floats`, but NaN and infinity are let through."""
    try:
        return [float(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not _is_number(word))
    raise DataError(f"{where}: {bad[:40]!r} is not a number; expected {expected}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
