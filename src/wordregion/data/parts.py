"""A folder of Parquet files, each made from a fixed range of a data set's records.

Work on a data set can so be stopped, go on, and be shared by processes, with the same result. ``version.json`` says
what the files depend on; each file notes the records of its range that are broken.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wordregion.data.check import verify
from wordregion.data.files import load_json
from wordregion.drafts import draft_of
from wordregion.errors import DataError, UsageError
from wordregion.schema import Dataset, Sample

VERSION = "version.json"


def start_cache(folder: Path, version: dict[str, Any]) -> None:
    """Makes the folder, or checks that it holds the same version, so that the work can go on there.

    Raises:
        UsageError: if it holds another version, or something else.
    """
    path = folder / VERSION
    if path.is_file():
        before = load_json(path, "the version of a cache")
        differs = [name for name in version if before.get(name) != version[name]]
        if differs:
            name = differs[0]
            raise UsageError(
                f"{folder}: was made with {name} = {before.get(name)!r}, not {version[name]!r}. Give another --out."
            )
        return
    if folder.exists() and any(part.suffix == ".parquet" for part in folder.iterdir()):
        raise UsageError(f"{folder}: holds Parquet files but no {VERSION}. Give another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        draft.write_bytes((json.dumps(version, indent=1) + "\n").encode())


def part_path(folder: Path, chunk: int) -> Path:
    """File of a chunk of records."""
    return folder / f"part-{chunk:06d}.parquet"


def version_id(version: dict[str, Any]) -> str:
    """A short name of a version: 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(version, sort_keys=True).encode()).hexdigest()[:12]


def sound_records(dataset: Dataset, chunk: int, size: int) -> tuple[list[tuple[int, Sample]], list[str]]:
    """The records of a chunk with their indices, and one line for each broken one."""
    records: list[tuple[int, Sample]] = []
    broken: list[str] = []
    for index in range(chunk * size, min((chunk + 1) * size, len(dataset))):
        try:
            sample = dataset[index]
            verify(sample, dataset.where(index))
            records.append((index, sample))
        except DataError as error:
            broken.append(str(error))
    return records, broken


def write_part(path: Path, rows: Sequence[Any], fields: Sequence[tuple[str, Any]], broken: Sequence[str]) -> None:
    """Writes one file, whole or not at all.

    Args:
        path: of the file.
        rows: dataclasses.
        fields: name and Arrow type of each of their fields.
        broken: lines about broken records.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(list(fields), metadata={"broken": json.dumps(broken)})
    with draft_of(path) as draft:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), draft)


def read_version(folder: Path, what: str, command: str) -> dict[str, Any]:
    """What a cache was made with.

    Args:
        folder: of the cache.
        what: it holds, for the error.
        command: that makes it, for the error.

    Raises:
        UsageError: if the folder is no cache.
    """
    if not (folder / VERSION).is_file():
        raise UsageError(f"{folder}: no cache of {what}. Make it: wordregion {command} SOURCE --out {folder}")
    return load_json(folder / VERSION, "the version of a cache")


def read_records(folder: Path, what: str, command: str) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows of a cache in the order of the records, and one line for each broken record.

    Args:
        folder: of the cache.
        what: it holds, for the errors.
        command: that makes it, for the errors.

    Raises:
        UsageError: if there is no such cache, or files are missing.
        DataError: if a file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    version = read_version(folder, what, command)
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    chunks = -(-version["records"] // version["chunk"])
    for chunk in range(chunks):
        path = part_path(folder, chunk)
        if not path.is_file():
            raise UsageError(f"{folder}: {path.name} of {chunks} files is missing. Finish: wordregion {command}")
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(str(path), "", f"damaged ({reason})", f"Delete it, and run {command} again.") from error
        broken += json.loads((table.schema.metadata or {}).get(b"broken", b"[]"))
        rows += table.to_pylist()
    return rows, broken
