"""The parts of a cache (`data.parts`), shared among the processes of a group."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wordregion.data.parts import part_path, start_cache
from wordregion.distributed import comm
from wordregion.evaluate.common import progress_bars


def make_missing(
    folder: Path, version: dict[str, Any], size: int, make: Callable[[int], object], progress: bool
) -> None:
    """Makes the files that are not there, this process its share of them; returns when all are done.

    Args:
        folder: of the cache; made if need be.
        version: of `data.parts.start_cache`; its ``records`` are how many the data set has.
        size: records of a file.
        make: makes the file of this number.
        progress: show a bar (main process only).

    Raises:
        UsageError: if the folder holds another version.
    """
    comm.init_from_env()
    if comm.main_process():
        start_cache(folder, version)
    comm.barrier()
    missing = [chunk for chunk in range(-(-version["records"] // size)) if not part_path(folder, chunk).is_file()]
    comm.barrier()  # nobody writes before all have looked
    own = missing[comm.rank() :: comm.world_size()]
    with progress_bars(progress and comm.main_process()) as bar, bar("records", size * len(own)) as advance:
        for chunk in own:
            make(chunk)
            advance(size)
    comm.barrier()
