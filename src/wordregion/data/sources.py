"""Records from JSON lines, Parquet, Hugging Face data sets and tar shards, by number and in any worker process."""

import glob
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wordregion.data.files import check_index, existing_file, index_tar, read_at
from wordregion.errors import DataError, UsageError

Record = dict[str, Any]
_CHUNK = 1 << 24


@runtime_checkable
class Source(Protocol):
    """Numbered records of a file. Indexing raises `DataError` for a broken record.

    Attributes:
        name: what to call it in reports.
        folder: where relative image paths begin.
    """

    name: str
    folder: Path

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Fields that every record has; None if records differ."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def where(self, index: int) -> str:
        """File and line, row or member of a record."""
        ...


class Jsonl:
    """JSON lines, indexed by byte offset: 8 bytes of memory a line, however long the lines are.

    Empty lines are passed over. A broken line is a record that raises `DataError` when it is read.

    Raises:
        UsageError: if there is no such file.
        DataError: if it has no line, or none of its first 20 lines is a JSON object.
    """

    columns = None

    def __init__(self, path: Path | str) -> None:
        self.path = existing_file(Path(path), "a file of JSON lines")
        self.name, self.folder = str(self.path), self.path.parent
        self._starts = _line_starts(self.path)
        lengths = np.diff(self._starts)
        filled = lengths > 2
        for row in np.flatnonzero(~filled):
            filled[row] = bool(self._line(int(row)).strip())
        self._filled: NDArray[np.int64] | None = None if filled.all() else np.flatnonzero(filled)
        if not len(self):
            raise DataError(str(self.path), "", "has no records", "Write one JSON object a line.")
        self._check_head()

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._filled is None else len(self._filled)

    def where(self, index: int) -> str:
        """File and line, counted from 1."""
        return f"{self.path}, line {self._row(index) + 1}"

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self), self.name)
        return parse_object(self._line(self._row(index)), self.where(index))

    def _row(self, index: int) -> int:
        return index if self._filled is None else int(self._filled[index])

    def _line(self, row: int) -> bytes:
        begin, end = int(self._starts[row]), int(self._starts[row + 1])
        return read_at(self.path, begin, end - begin, f"{self.path}, line {row + 1}")

    def _check_head(self) -> None:
        first: DataError | None = None
        for index in range(min(20, len(self))):
            try:
                self[index]
                return
            except DataError as error:
                first = first or error
        assert first is not None
        raise DataError(
            first.where, "", f"{first.problem}; no line before it or in the next 19 is better", first.remedy
        )


def _line_starts(path: Path) -> NDArray[np.int64]:
    """(lines + 1,) offset of each line, and the end of the file."""
    found, base = [np.zeros(1, dtype=np.int64)], 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10) + 1 + base)
            base += len(chunk)
    starts = np.concatenate(found)
    return starts if starts[-1] == base else np.append(starts, base)


def parse_object(data: bytes, where: str) -> Record:
    """One JSON object from UTF-8 bytes. Raises DataError for anything else."""
    try:
        value = json.loads(data.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        raise DataError(where, "", f"not UTF-8 (byte {error.start})", "Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg}, column {error.colno})"
        raise DataError(where, "", problem, "Write one JSON object a line.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(where, "", f"unusable JSON ({error})", "Write one JSON object a line.") from error
    if not isinstance(value, dict):
        raise DataError(where, "", f"is {type(value).__name__}, not an object", "Write one JSON object a line.")
    return value


class Parquet:
    """Rows of one or several Parquet files. The two row groups used last are kept in memory.

    Reading rows in random order decodes a whole row group for almost every row: for training on large files prefer
    tar shards, or write row groups of at most some hundred rows.

    Args:
        path: file, or a pattern such as ``"data/train-*.parquet"``.

    Raises:
        UsageError: if no file matches.
        DataError: if a file is not Parquet, the files differ in columns, or there are no rows.
    """

    def __init__(self, path: Path | str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.name = str(path)
        self.paths = _matches(path, "a Parquet file")
        self.folder = self.paths[0].parent
        self.columns: tuple[str, ...] = ()
        counts: list[int] = []
        groups: list[tuple[int, int]] = []
        for number, file in enumerate(self.paths):
            try:
                meta = pq.read_metadata(file)
                columns = tuple(meta.schema.to_arrow_schema().names)
            except (pa.ArrowException, OSError) as error:
                problem = f"not a Parquet file ({_reason(error)})"
                raise DataError(str(file), "", problem, "Copy or write it again.") from error
            if number and columns != self.columns:
                problem = f"has columns {', '.join(columns)}, but {self.paths[0].name} has {', '.join(self.columns)}"
                raise DataError(str(file), "columns", problem, "Read them as separate data sets.")
            self.columns = columns
            counts += [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
            groups += [(number, g) for g in range(meta.num_row_groups)]
        self._groups = groups
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._cache: dict[int, Any] = {}
        if not len(self):
            raise DataError(self.name, "", "has no rows", "Write at least one row.")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def where(self, index: int) -> str:
        """File and row in that file, counted from 1."""
        group = self._group(index)
        file = self._groups[group][0]
        first = next(g for g, (number, _) in enumerate(self._groups) if number == file)
        return f"{self.paths[file]}, row {index - self._begin(first) + 1}"

    def __getitem__(self, index: int) -> Record:
        import pyarrow as pa

        check_index(index, len(self), self.name)
        group = self._group(index)
        try:
            table = self._cache.pop(group, None)
            table = self._read(group) if table is None else table
            row = table.slice(index - self._begin(group), 1).to_pylist()[0]
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            problem = f"row group {self._groups[group][1]} is damaged ({_reason(error)})"
            raise DataError(self.where(index), "", problem, "Copy or write the file again.") from error
        self._cache[group] = table
        while len(self._cache) > 2:
            del self._cache[next(iter(self._cache))]
        return row

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _begin(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def _read(self, group: int) -> Any:
        import pyarrow.parquet as pq

        number, in_file = self._groups[group]
        with pq.ParquetFile(self.paths[number]) as file:
            return file.read_row_group(in_file, use_threads=False)  # Arrow's threads do not survive a fork


class HFDataset:
    """Rows of a Hugging Face data set; pictures are left undecoded, so that a broken one is a broken record.

    Args:
        dataset: what `datasets.load_dataset` returned (one split), or a folder that `save_to_disk` wrote.
        split: which split of the folder, if it has several.

    Raises:
        UsageError: if the folder is no such data set, has several splits and none was named, or has not the one named.
        DataError: if it has no rows.
    """

    def __init__(self, dataset: Any, split: str | None = None) -> None:
        import datasets

        self.folder = Path()
        self.name = type(dataset).__name__
        if isinstance(dataset, str | Path):
            self.folder, self.name = Path(dataset), f"{dataset}#{split}" if split else str(dataset)
            try:
                dataset = datasets.load_from_disk(str(dataset))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"not a saved Hugging Face data set ({_reason(error)})"
                raise UsageError(f"{self.name}: {problem}. Give a folder written by save_to_disk.") from error
        if isinstance(dataset, datasets.DatasetDict):
            splits = ", ".join(dataset)
            if split not in dataset:
                raise UsageError(
                    f"{self.name}: split is {split!r}. Name one of {splits}, as in PATH#{next(iter(dataset))}."
                )
            dataset = dataset[split]
        elif split is not None and split != str(dataset.split):
            raise UsageError(f"{self.name}: '#{split}' names a split, but this data set has none. Leave it out.")
        for column, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self._dataset = dataset
        self.columns: tuple[str, ...] = tuple(dataset.column_names)
        if not len(self):
            raise DataError(self.name, "", "has no rows", "Write at least one row.")

    def __len__(self) -> int:
        return len(self._dataset)

    def where(self, index: int) -> str:
        """Data set and row, counted from 1."""
        return f"{self.name}, row {index + 1}"

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self), self.name)
        try:
            return self._dataset[index]
        except (OSError, ValueError, OverflowError) as error:
            problem = f"cannot be read ({_reason(error)})"
            raise DataError(self.where(index), "", problem, "Write the data set again.") from error


class Tar:
    """WebDataset shards: files that share a name up to the first dot, one behind the other, are one record.

    A record holds the fields of `KEY.json`, `__key__`, and each file under its extension (`jpg` as bytes, `txt` as
    text). Shards are indexed by offset, so reading is random access. The missing rest of a shard that breaks off
    counts as one broken record.

    Args:
        path: plain .tar, or a pattern such as ``"cc3m/*.tar"``.

    Raises:
        UsageError: if no file matches.
        DataError: if a shard is compressed or not a tar, or there are no records at all.
    """

    columns = None

    def __init__(self, path: Path | str) -> None:
        self.name = str(path)
        self.paths = _matches(path, "a tar file")
        self.folder = self.paths[0].parent
        self._shards = [index_tar(file) for file in self.paths]
        self._starts: list[NDArray[np.int64]] = []
        counts = []
        for shard in self._shards:
            keys = np.array([_key(bytes(name))[0] for name in shard.names], dtype=np.bytes_)
            new = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, dtype=np.int64)
            self._starts.append(np.append(new, len(keys)))
            counts.append(len(new) + bool(shard.damage))
        self._ends = np.cumsum(counts, dtype=np.int64)
        if not len(self):
            raise DataError(self.name, "", "has no records", "Write KEY.jpg and KEY.txt (or KEY.json) for each pair.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def where(self, index: int) -> str:
        """Shard and key."""
        shard, row = self._find(index)
        if row == len(self._starts[shard]) - 1:
            return f"{self.paths[shard]}, record {row + 1}"
        name = bytes(self._shards[shard].names[int(self._starts[shard][row])])
        return f"{self.paths[shard]}, key {_key(name)[0].decode('utf-8', 'replace')}"

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self), self.name)
        number, row = self._find(index)
        shard, starts, where = self._shards[number], self._starts[number], self.where(index)
        if row == len(starts) - 1:
            raise DataError(where, "", shard.damage, "Copy or make the tar again.")
        record: Record = {}
        files: Record = {}
        seen: set[str] = set()
        for member in range(int(starts[row]), int(starts[row + 1])):
            key, extension = (part.decode("utf-8", "replace") for part in _key(bytes(shard.names[member])))
            data = shard.read(member)
            if extension in seen:
                problem = f"there are two files '{key}.{extension}'"
                raise DataError(where, extension, problem, "Rename or remove one of them.")
            seen.add(extension)
            files["__key__"] = key
            if extension == "json":
                record = parse_object(data, f"{where}.json")
            elif extension == "txt":
                try:
                    files[extension] = data.decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 (byte {error.start})"
                    raise DataError(where, "txt", problem, "Save the text as UTF-8.") from error
            else:
                files[extension] = data
        return {**record, **files}

    def _find(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _key(name: bytes) -> tuple[bytes, bytes]:
    """Name up to the first dot of its last part, and the extension in lower case."""
    folder, slash, last = name.rpartition(b"/")
    key, _, extension = last.partition(b".")
    return folder + slash + key, extension.lower()


def _matches(path: Path | str, what: str) -> list[Path]:
    """The file itself, or the sorted files that match a pattern. Raises UsageError if there is none."""
    if Path(path).exists():
        return [existing_file(Path(path), what)]
    found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    if not found:
        raise UsageError(f"{path}: no such file, expected {what} or a pattern that matches some. Check the path.")
    return [existing_file(file, what) for file in found]
