"""Bags in and out, without ROS: rosbag2 (mcap, sqlite3; compressed or not) and ROS 1 files, as streams.

Whatever a bag's kind, its messages come as CDR, ROS 2's serialization, of types named as in ROS 2.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from pd_edge.errors import DataError, MissingExtraError

try:
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.interfaces import (
        Connection,
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore
    from rosbags.typesys.store import Typestore
except ModuleNotFoundError as error:
    raise MissingExtraError("rosbags", "bags") from error

from pd_edge.bag_stream import McapStream, Row, ends_whole

METADATA = "metadata.yaml"
SUFFIXES = (".mcap", ".db3", ".bag")
"""Bag files; a folder of some with their metadata is a rosbag2."""
VERSION: Literal[9] = 9
LATCHED = frozenset({"/tf_static"})
"""Topics whose last messages a player gives to those that subscribe late."""
Compression = Literal["none", "zstd"]


_UNLIMITED = QosTime(2**63 // 10**9, 2**63 % 10**9 - 1)
_KEPT_FOR_LATE_SUBSCRIBERS = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    _UNLIMITED,
    _UNLIMITED,
    QosLiveliness.AUTOMATIC,
    _UNLIMITED,
    avoid_ros_namespace_conventions=False,
)


class Record(NamedTuple):
    """A message of a bag, not yet deserialized.

    Attributes:
        topic: Its topic.
        kind: Its type, such as ``sensor_msgs/msg/PointCloud2``.
        time_ns: When it was recorded, nanoseconds since 1970.
        data: The message as CDR.
    """

    topic: str
    kind: str
    time_ns: int
    data: bytes | memoryview


class BagReader:
    """Reads a bag; a context manager.

    Args:
        path: A .mcap, .db3 or .bag file, or the folder of a rosbag2.

    Raises:
        DataError: There is no bag, or nothing of it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = _bag_file(path)
        stream = self.path.suffix == ".mcap" and not ends_whole(self.path)
        self._source: McapStream | _Indexed = McapStream(self.path) if stream else _Indexed(self.path)

    def __enter__(self) -> "BagReader":  # noqa: PYI034 - Self is newer than Python 3.10
        self._source.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.__exit__(kind, error, trace)

    @property
    def types(self) -> Typestore:
        """The bag's message types."""
        return self._source.types

    @property
    def topics(self) -> dict[str, str]:
        """The type of each topic; of a file whose end is missing, of those that were met so far."""
        return self._source.topics

    def count(self, topic: str) -> int:
        """How many messages a topic has; 0 where the bag's index, which tells, is missing."""
        return self._source.count(topic)

    def reliability(self, topic: str) -> str:
        """``best_effort`` or ``reliable``, as a topic's publishers offered; empty where the bag does not say."""
        return self._source.reliability(topic)

    def records(self, topics: Collection[str] | None = None) -> Iterator[Record]:
        """The messages in the order of their time; all topics where none are named.

        Raises:
            DataError: The bag is damaged or its end is missing; what could be read was given before.
        """
        count, rows = 0, self._source.rows(topics)
        while True:
            try:
                record = Record(*next(rows))
            except StopIteration:
                return
            except Exception as error:  # the libraries raise whatever the misread bytes lead to
                raise DataError(
                    f"{self.path}: cannot be read beyond message {count} ({error or type(error).__name__}): cut off "
                    "or damaged; all before it was read"
                ) from error
            count += 1
            yield record

    def message(self, record: Record) -> Any:
        """A message as an object with ROS's attributes.

        Raises:
            DataError: Its bytes are not of its type.
        """
        try:
            return self.types.deserialize_cdr(record.data, record.kind)
        except Exception as error:  # the library raises whatever the misread bytes lead to
            raise DataError(
                f"{self.path}: the message of {record.topic} at {record.time_ns} ns is no {record.kind} "
                f"({error or type(error).__name__})"
            ) from error


class _Indexed:
    """A complete bag, by its index."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.types = get_typestore(Stores.EMPTY)
        try:
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        except (AnyReaderError, OSError) as error:
            raise DataError(f"{path}: cannot be read as a bag ({error})") from error

    def __enter__(self) -> "_Indexed":  # noqa: PYI034 - Self is newer than Python 3.10
        try:
            self._reader.open()
        except Exception as error:  # the library raises whatever the misread bytes lead to
            raise DataError(f"{self._path}: cannot be read as a bag ({error or type(error).__name__})") from error
        self.types = self._reader.typestore if self._reader.is2 else _as_ros2(self._reader.typestore)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def topics(self) -> dict[str, str]:
        return {each.topic: each.msgtype for each in self._reader.connections}

    def count(self, topic: str) -> int:
        return sum(each.msgcount for each in self._reader.connections if each.topic == topic)

    def reliability(self, topic: str) -> str:
        extras = [each.ext for each in self._reader.connections if each.topic == topic]
        offered = [qos.reliability for ext in extras for qos in getattr(ext, "offered_qos_profiles", ())]
        if not offered:
            return ""
        return "reliable" if set(offered) == {QosReliability.RELIABLE} else "best_effort"

    def rows(self, topics: Collection[str] | None) -> Iterator[Row]:
        wanted = [each for each in self._reader.connections if topics is None or each.topic in topics]
        for connection, time_ns, data in self._reader.messages(wanted) if wanted else ():
            cdr = data if self._reader.is2 else bytes(self.types.ros1_to_cdr(data, connection.msgtype))
            yield connection.topic, connection.msgtype, time_ns, cdr


class BagWriter:
    """Writes a rosbag2; a context manager. Nothing is at ``path`` before it is complete, and nothing after an error.

    Args:
        path: The bag: one .mcap file, or, with any other name, the folder of a rosbag2 with sqlite3.
        types: The types of what is written; those of ROS 2 when left out.
        compression: Of the messages of an .mcap file in their chunks.

    Raises:
        DataError: There is something already.
    """

    def __init__(self, path: Path, types: Typestore | None = None, compression: Compression = "none") -> None:
        if path.exists():
            raise DataError(f"{path}: exists already; remove it or name another")
        self.path = path
        self.types = types or get_typestore(Stores.LATEST)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        self._mcap = path.suffix == ".mcap"
        plugin = StoragePlugin.MCAP if self._mcap else StoragePlugin.SQLITE3
        self._writer = Writer(self._folder / path.stem, version=VERSION, storage_plugin=plugin)
        if compression == "zstd":
            mode = CompressionMode.STORAGE if self._mcap else CompressionMode.MESSAGE
            self._writer.set_compression(mode, CompressionFormat.ZSTD)
        self._writer.open()
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> "BagWriter":  # noqa: PYI034 - Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
            else:
                self._writer.abort()
        finally:
            shutil.rmtree(self._folder)

    def write(self, topic: str, message: Any, time_ns: int) -> None:
        """Appends a message: an object of :attr:`types`, which knows its type."""
        kind = message.__msgtype__
        self.copy(Record(topic, kind, time_ns, self.types.serialize_cdr(message, kind)), self.types)

    def copy(self, record: Record, types: Typestore) -> None:
        """Appends a message as it stands, of a bag with these types.

        Raises:
            DataError: The topic has had another type before.
        """
        connection = self._connections.get(record.topic)
        if connection is None:
            qos = [_KEPT_FOR_LATE_SUBSCRIBERS] if record.topic in LATCHED else []
            connection = self._writer.add_connection(
                record.topic, record.kind, typestore=types, offered_qos_profiles=qos
            )
            self._connections[record.topic] = connection
        if connection.msgtype != record.kind:
            raise DataError(f"{self.path}: topic {record.topic} holds {connection.msgtype}, not {record.kind}")
        self._writer.write(connection, record.time_ns, record.data)

    def _finish(self) -> None:
        self._writer.close()
        made = self._folder / self.path.stem
        (next(made.glob("*.mcap")) if self._mcap else made).replace(self.path)


def _as_ros2(types: Typestore) -> Typestore:
    """The types of a ROS 1 bag with the header of ROS 2, which has no sequence number."""
    header = "std_msgs/msg/Header"
    found = get_typestore(Stores.EMPTY)
    found.register({**types.fielddefs, header: get_typestore(Stores.LATEST).fielddefs[header]})
    return found


def _bag_file(path: Path) -> Path:
    """What is to be opened: a file, or a folder with metadata; the one file of a folder whose recorder was killed."""
    if path.is_file() and path.suffix in SUFFIXES:
        return path
    if path.is_file():
        raise DataError(f"{path}: unknown kind of bag {path.suffix!r}; expected {', '.join(SUFFIXES)} or a folder")
    if not path.is_dir():
        raise DataError(f"{path}: there is no such bag")
    if (path / METADATA).is_file():
        return path
    files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES)
    if len(files) != 1:
        raise DataError(f"{path}: no {METADATA}, and {len(files)} bag files; name one of them, or rebuild the metadata")
    return files[0]
