"""An .mcap file read from its start, record by record: one whose recorder was killed has neither index nor end."""

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pd_edge.errors import DataError, MissingExtraError

try:
    from mcap.records import Channel, Message, Schema
    from mcap.stream_reader import StreamReader
    from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "mcap", "bags") from error

MAGIC = b"\x89MCAP0\r\n"
"""First and last bytes of an .mcap file."""
Row = tuple[str, str, int, bytes]
"""Topic, type, time [ns] and CDR of a message."""


def ends_whole(path: Path) -> bool:
    """Whether an .mcap file ends as a complete one does."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - len(MAGIC), 0))
        return size > len(MAGIC) and file.read() == MAGIC


class McapStream:
    """The messages of an .mcap file in the order in which they were written, up to where it breaks off.

    Args:
        path: The file.

    Attributes:
        types: The message types that were met so far.
        topics: The type of each topic that was met so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.types = get_typestore(Stores.EMPTY)
        self.topics: dict[str, str] = {}

    def __enter__(self) -> "McapStream":  # noqa: PYI034 - Self is newer than Python 3.10
        self._file = self._path.open("rb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def count(self, topic: str) -> int:  # noqa: ARG002 - as a complete bag's
        """0: only an index knows."""
        return 0

    def reliability(self, topic: str) -> str:  # noqa: ARG002 - as a complete bag's
        """Unknown: only an index knows."""
        return ""

    def rows(self, topics: Collection[str] | None = None) -> Iterator[Row]:
        """The messages, of all topics where none are named.

        Raises:
            Exception: Whatever the reader makes of the place where the file breaks off.
        """
        if self._file is None:
            raise DataError(f"{self._path}: not open; use it as a context manager")
        self._file.seek(0)
        schemas: dict[int, Schema] = {}
        channels: dict[int, tuple[str, str]] = {}
        for record in StreamReader(self._file).records:
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                schema = schemas[record.schema_id]
                self._register(schema)
                channels[record.id] = record.topic, schema.name
                self.topics[record.topic] = schema.name
            elif isinstance(record, Message):
                topic, kind = channels[record.channel_id]
                if topics is None or topic in topics:
                    yield topic, kind, record.log_time, record.data

    def _register(self, schema: Schema) -> None:
        read = get_types_from_idl if schema.encoding == "ros2idl" else None
        text = schema.data.decode()
        try:
            found = read(text) if read else get_types_from_msg(text, schema.name)
        except TypesysError as error:
            raise DataError(f"{self._path}: the definition of {schema.name} cannot be read ({error})") from error
        self.types.register({name: fields for name, fields in found.items() if name not in self.types.fielddefs})
