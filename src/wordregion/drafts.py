"""Files that are there whole or not at all, whatever stops their writing and whoever else writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` when the block ends without an error."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        yield draft
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
