"""Bytes of files by offset: nothing stays open, so every reader works in forked and spawned workers alike."""

import hashlib
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordregion.errors import DataError, UsageError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_SLOW_SECONDS = 0.5
_SCAN = 2  # goes up when a scan finds other damage: an index that was kept before is not used then
_BLOCK, _EMPTY = 512, 10_240  # bytes of a tar's block; of a tar without files, as tar and Python write it
_CHUNK = 1 << 20


def existing_file(path: Path, what: str) -> Path:
    """`path` if it is a readable file.

    Raises:
        UsageError: if it is missing, a directory, or not readable.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory, expected {what}. Name the file itself.")
    if not path.exists():
        raise UsageError(f"{path}: no such file, expected {what}. Check the path.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path}: no permission to read. Change its mode or owner.")
    return path


def read_at(path: Path, offset: int, size: int, where: str) -> bytes:
    """`size` bytes from `offset` on.

    Raises:
        DataError: if the file ends before, or is gone.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise DataError(where, "", f"cannot read {path} ({error.strerror})", "Put the file back.") from error
    if len(data) != size:
        raise DataError(where, "", f"{path} became shorter while in use", "Open the data set again.")
    return data


def load_json(path: Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: if there is no such file.
        DataError: if it is not JSON; names the line.
    """
    existing_file(path, what)
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}"
        raise DataError(where, "", f"not JSON ({error.msg}, column {error.colno})", f"Expected {what}.") from error
    except UnicodeDecodeError as error:
        raise DataError(str(path), "", f"not UTF-8 (byte {error.start})", "Save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), "", f"unusable JSON ({error})", f"Expected {what}.") from error


def first_object(path: Path) -> tuple[dict[str, Any], bool] | None:
    """The first object of a file of JSON lines or of one JSON list, and whether it is a list.

    None for another file, and for one that can't be read: whoever opens it says so.
    """
    if not (path.is_file() and os.access(path, os.R_OK)):
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.read(1 << 16).lstrip()
    try:
        record, _ = json.JSONDecoder().raw_decode(head.removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        return None
    return (record, head.startswith("[")) if isinstance(record, dict) else None


def check_index(index: int, size: int, name: str) -> None:
    """Raises IndexError for an index outside of 0..size-1."""
    if not 0 <= index < size:
        raise IndexError(f"{name}: record {index} is out of range, there are {size}")


class Packed:
    """Many small JSON values in one block of bytes: no reference counts for forked workers to copy."""

    def __init__(self, values: Iterable[Any]) -> None:
        pieces = [json.dumps(value, separators=(",", ":")).encode() for value in values]
        self._ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        self._data = b"".join(pieces)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        begin = int(self._ends[index - 1]) if index else 0
        return json.loads(self._data[begin : int(self._ends[index])])


@dataclass(frozen=True, slots=True)
class TarIndex:
    """Where each file of a plain tar lies.

    Attributes:
        path: the tar.
        names: (N,) UTF-8 names in the tar's order.
        offsets: (N,) first byte of each file's data.
        sizes: (N,) bytes of each file.
        damage: what is wrong behind the last whole file; empty for a sound tar.
    """

    path: Path
    names: np.ndarray
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    damage: str = ""

    def name(self, row: int) -> str:
        """Name of a file in the tar."""
        return bytes(self.names[row]).decode("utf-8", "replace")

    def read(self, row: int) -> bytes:
        """The bytes of a file in the tar. Raises DataError if the tar changed since it was indexed."""
        return read_at(self.path, int(self.offsets[row]), int(self.sizes[row]), f"{self.path}, {self.name(row)}")


def index_tar(path: Path) -> TarIndex:
    """Finds the files of a plain tar by reading its headers only.

    An index that took long is kept in the user's cache directory (`XDG_CACHE_HOME`, default `~/.cache`) and used
    until the tar's size or time changes.

    Raises:
        UsageError: if there is no such file.
        DataError: if it is compressed, or not a tar at all. A tar that breaks off later is indexed up to there.
    """
    existing_file(path, "a tar file")
    stat = path.stat()
    key = hashlib.sha256(f"{_SCAN} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wordregion" / "tar" / f"{key}.npz"
    if (index := _load_index(path, cached)) is not None:
        return index
    began = time.monotonic()
    index = _scan_tar(path, stat.st_size)
    if time.monotonic() - began > _SLOW_SECONDS:
        _save_index(index, cached)
    return index


def _scan_tar(path: Path, file_size: int) -> TarIndex:
    with path.open("rb") as file:
        magic = file.read(2)
    if magic in _COMPRESSED:
        problem = f"is compressed ({_COMPRESSED[magic]}), which allows no random access"
        raise DataError(str(path), "", problem, "Unpack it to a plain .tar or to a folder.")
    names: list[bytes] = []
    spots: list[tuple[int, int]] = []
    damage, end, last = "", 0, ""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                if member.size < 0:  # tarfile would read the same header for ever
                    damage = f"the tar gives '{member.name}' a size of {member.size}"
                    break
                if member.offset_data + member.size > file_size:
                    damage = f"the tar breaks off inside '{member.name}'"
                    break
                end, last = tar.offset, member.name  # where the next header is
                if member.isfile():
                    names.append(member.name.encode("utf-8", "surrogatepass"))
                    spots.append((member.offset_data, member.size))
    except (tarfile.TarError, OSError, ValueError) as error:
        if not names:
            raise DataError(str(path), "", f"not a tar file ({error})", "Copy or make the tar again.") from error
        damage = f"the tar breaks off after '{names[-1].decode('utf-8', 'replace')}'"
    damage = damage or _damaged_end(path, file_size, end, last)
    table = np.array(spots, dtype=np.int64).reshape(-1, 2)
    return TarIndex(path, np.array(names, dtype=np.bytes_), table[:, 0].copy(), table[:, 1].copy(), damage)


def _damaged_end(path: Path, file_size: int, end: int, last: str) -> str:
    """What is wrong behind a tar's last file, where zeros belong and nothing else; empty for a sound end."""
    if end and file_size < end + _BLOCK:
        return f"the tar breaks off after '{last}': its end is missing"
    with path.open("rb") as file:
        file.seek(end)
        if any(file.read(_BLOCK)):
            return f"the tar is damaged after '{last}'"
        while chunk := file.read(_CHUNK):
            if chunk.strip(b"\0"):
                return f"the tar has more data behind its end, after '{last}' (joined tars?)"
    return f"the tar is {file_size:,} zero bytes" if not end and file_size > _EMPTY else ""


def _load_index(path: Path, cached: Path) -> TarIndex | None:
    if not cached.is_file():
        return None
    try:
        with np.load(cached, allow_pickle=False) as saved:
            return TarIndex(path, saved["names"], saved["offsets"], saved["sizes"], str(saved["damage"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # a broken cache file only costs a new scan
        return None


def _save_index(index: TarIndex, cached: Path) -> None:
    part = cached.with_name(f"{cached.name}.{os.getpid()}.part")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, names=index.names, offsets=index.offsets, sizes=index.sizes, damage=np.array(index.damage))
        part.replace(cached)
    except OSError:  # no room or no permission for a cache: the next start scans again
        part.unlink(missing_ok=True)
