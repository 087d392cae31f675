"""Errors that a user can act on: one line that says where, what and how to mend it."""

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class WordregionError(Exception):
    """Base of every error that the command line prints as one line (exit status 2), without a traceback."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(WordregionError):
    """A bad argument, recipe or combination of settings."""


class CheckpointError(WordregionError):
    """A checkpoint or weight file that is missing, damaged or does not fit."""


class DataError(WordregionError):
    """One broken record of a data source. Training skips and counts these (see `Run.max_bad_share`).

    Args:
        where: the file, with the line, record or member in it, for example ``"train.jsonl, line 12"``.
        field: the field that is wrong, for example ``"bbox"``; empty when the whole record is unreadable.
        problem: what is wrong with it, with the offending value.
        remedy: what the user can do about it.
    """

    def __init__(self, where: str, field: str, problem: str, remedy: str) -> None:
        self.where, self.field, self.problem, self.remedy = where, field, problem, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        field = f", field '{self.field}'" if self.field else ""
        return one_line(f"{self.where}{field}: {self.problem}. {self.remedy}")

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, str, str, str]]:
        """Keeps its four fields on the way out of a loader process."""
        return DataError, (self.where, self.field, self.problem, self.remedy)


def one_line(text: str) -> str:
    """A text whose line ends, control characters and halves of characters are written as escapes, to print it safely.

    They come from names in records and files: a line end would break the one line, an ESC would steer the terminal.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
