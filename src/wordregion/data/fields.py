"""Checks of single values in records; each raises a DataError that names the field and the remedy."""

import math
from collections.abc import Mapping
from typing import Any

from wordregion.errors import DataError
from wordregion.schema import Box

_SLACK = 1.0  # pixels by which annotations may stick out, from rounding


def shown(value: Any) -> str:
    """A value for a message, cut to one short line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def required(record: Mapping[str, Any], field: str, where: str, remedy: str) -> Any:
    """The value of a field. Raises DataError if it is missing or null."""
    value = record.get(field)
    if value is None:
        has = ", ".join([str(key) for key in record if key != "where"][:12]) or "none"  # "where" is our own note
        raise DataError(where, field, f"missing (fields: {has})", remedy)
    return value


def text_value(value: Any, where: str, field: str) -> str:
    """A text without blanks at its ends. Raises DataError unless it is a non-empty, encodable string."""
    if not isinstance(value, str):
        raise DataError(where, field, f"is {type(value).__name__} {shown(value)}", "Give a text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        problem = f"has half a character at position {error.start}"
        raise DataError(where, field, problem, "Write the text as valid Unicode.") from error
    if not value.strip():
        wanted = "caption" if "caption" in field else "text"
        raise DataError(where, field, "is empty", f"Give a {wanted}, or remove the record.")
    return value.strip()


def caption_texts(value: Any, where: str, field: str) -> tuple[str, ...]:
    """One caption or a list of captions as texts. Raises DataError if there is none or one is not a text."""
    if isinstance(value, str):
        return (text_value(value, where, field),)
    if not isinstance(value, list | tuple):
        problem = f"is {type(value).__name__} {shown(value)}"
        raise DataError(where, field, problem, "Give a text or a list of texts.")
    if not value:
        raise DataError(where, field, "is an empty list", "Give a caption, or remove the record.")
    return tuple(text_value(text, where, f"{field}[{i}]") for i, text in enumerate(value))


def number(value: Any, where: str, field: str) -> float:
    """A finite number. Raises DataError for anything else."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number that is too large for a float
        pass
    raise DataError(where, field, f"is {shown(value)}", "Give a finite number.")


def whole_number(value: Any, where: str, field: str) -> int:
    """A number without a fraction, such as an id. Raises DataError for anything else."""
    if not number(value, where, field).is_integer():
        raise DataError(where, field, f"is {shown(value)}", "Give a whole number.")
    return int(value)


def image_size(record: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Width and height in pixels. Raises DataError unless both are above zero."""
    remedy = "Give the image's size in pixels."
    width, height = (number(required(record, key, where, remedy), where, key) for key in ("width", "height"))
    for key, value in (("width", width), ("height", height)):
        if value <= 0:
            raise DataError(where, key, f"is {shown(value)}", remedy)
    return width, height


def unit_box(x0: float, y0: float, x1: float, y1: float, size: tuple[float, float], where: str, field: str) -> Box:
    """A box from pixels to [0, 1].

    Args:
        x0, y0, x1, y1: edges in pixels, 0 = the left or upper edge of the image.
        size: width and height in pixels of the image that the box refers to.
        where: the record, for messages.
        field: the field, for messages.

    Raises:
        DataError: if it is empty, or more than a pixel outside of the image (less is cut off).
    """
    width, height = size
    pixels = f"({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if not (x0 < x1 and y0 < y1):
        raise DataError(where, field, f"box {pixels} is empty", "Give it a width and height above 0, or remove it.")
    if min(x0, y0) < -_SLACK or x1 > width + _SLACK or y1 > height + _SLACK:
        problem = f"box {pixels} is outside of the {width:g} x {height:g} image"
        raise DataError(where, field, problem, "Give pixels of the original image, or remove the box.")
    box = (max(x0 / width, 0.0), max(y0 / height, 0.0), min(x1 / width, 1.0), min(y1 / height, 1.0))
    if not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(where, field, f"box {pixels} lies outside of the image", "Correct or remove it.")
    return box
