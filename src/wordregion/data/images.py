"""Pictures by name from a folder or a plain tar, decoded to RGB."""

import errno
import io
import warnings
from bisect import bisect_left
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wordregion.data.files import TarIndex, index_tar
from wordregion.errors import DataError, UsageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 90_000_000


def decode(data: bytes, where: str, field: str = "image", name: str = "image", upright: bool = True) -> Image.Image:
    """Decodes a picture file to RGB at its own size.

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB; what is transparent becomes white.

    Args:
        data: the bytes of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        where: the record, for messages.
        field: the field of the record that names the picture, for messages.
        name: what to call the picture in messages.
        upright: turn it as its EXIF orientation says. False keeps pixels where boxes expect them.

    Raises:
        DataError: if it is empty, no picture, cut short, damaged, or above 90 million pixels.
    """
    remedy = "Replace the file, or remove the record."
    if not data:
        raise DataError(where, field, f"{name} is an empty file", remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) if upright else image)
    except UnidentifiedImageError as error:
        problem = f"{name} is no picture (begins with {data[:8]!r})"
        raise DataError(where, field, problem, f"Give one of {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        problem = f"{name} has more than {MAX_PIXELS:,} pixels"
        raise DataError(where, field, problem, "Make it smaller, or remove the record.") from error
    except Exception as error:  # Pillow's decoders raise almost any type for damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(where, field, f"{name} is damaged ({detail})", remedy) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode of Pillow. Raises ValueError for 32-bit float pixels."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("float pixels have no fixed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        deep = image.mode.startswith("I;16") or pixels.max() > 255
        image = Image.fromarray((pixels >> 8 if deep else pixels).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class ImageStore:
    """Pictures by name from a folder or a plain tar; holds nothing open, so any worker process can use it.

    Args:
        root: folder, or .tar. A name may leave out the one top folder that a tar's names share.

    Raises:
        UsageError: if there is no such folder or file.
        DataError: if it is not a plain tar.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise UsageError(
                f"{self.root}: no such image folder or tar. Give the folder or .tar that holds the images."
            )
        self._tar: TarIndex | None = None
        if not self.root.is_dir():
            self._tar = index_tar(self.root)
            self._order = np.argsort(self._tar.names, kind="stable")
            self._sorted = self._tar.names[self._order]
            self._top = _shared_top(self._sorted)

    def open(self, name: str, where: str, field: str = "image", upright: bool = True) -> Image.Image:
        """The picture `name` as RGB; see `decode`.

        Raises:
            DataError: if it is missing or cannot be decoded; names the record and the field.
        """
        return decode(self._read(name, where, field), where, field, f"'{name}' in {self.root}", upright)

    def names(self) -> list[str]:
        """Names of all files in the folder or tar, sorted; what `open` takes."""
        if self._tar is not None:
            return [bytes(name).decode("utf-8", "surrogatepass") for name in self._sorted]
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def has(self, name: str) -> bool:
        """Whether `open` would find that file."""
        return (self.root / name).is_file() if self._tar is None else self._row(name) is not None

    def _row(self, name: str) -> int | None:
        """Where the tar lists a file, by its name, or by its name below the shared top folder."""
        wanted = name.removeprefix("./").encode("utf-8", "surrogatepass")
        for key in (wanted, b"./" + wanted, self._top + wanted):
            at = bisect_left(self._sorted, key)
            if at < len(self._sorted) and bytes(self._sorted[at]) == key:
                return int(self._order[at])
        return None

    def _read(self, name: str, where: str, field: str) -> bytes:
        remedy = "Add the image, remove the record, or point 'images' at the folder or tar that holds it."
        if self._tar is None:
            path = self.root / name
            try:
                if not path.is_file() and path.exists() and not path.is_dir():
                    raise OSError(errno.EINVAL, "is no regular file")  # a pipe would never end
                return path.read_bytes()
            except FileNotFoundError as error:
                raise DataError(where, field, f"no image '{name}' in {self.root}", remedy) from error
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise DataError(where, field, f"cannot read image {name!r} ({reason})", remedy) from error
        if (row := self._row(name)) is not None:
            return self._tar.read(row)
        damage = f" ({self._tar.damage})" if self._tar.damage else ""
        raise DataError(where, field, f"no image '{name}' in {self.root}{damage}", remedy)


def _shared_top(names: np.ndarray) -> bytes:
    """The folder, with its slash, that all sorted names begin with; empty if there is none."""
    if not len(names):
        return b""
    first, last = bytes(names[0]), bytes(names[-1])
    top = first[: first.rfind(b"/") + 1]
    while top and not last.startswith(top):
        top = top[: top[:-1].rfind(b"/") + 1]
    return top
