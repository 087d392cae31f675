"""Images with captions from any source of records: JSON lines, Parquet, Hugging Face data sets, tar shards."""

from pathlib import Path

from PIL.Image import Image

from wordregion.data.fields import caption_texts, required, shown
from wordregion.data.images import ImageStore, decode, to_rgb
from wordregion.data.sources import Record, Source
from wordregion.errors import DataError
from wordregion.schema import Grounding, Sample

IMAGE_FIELDS = ("image", "jpg", "jpeg", "png", "webp", "file_name", "image_path")
CAPTION_FIELDS = ("caption", "captions", "txt", "text", "sentences")


class ImageText:
    """Whole-image captions (`Dataset`).

    An image is a path, the bytes of a picture file, or Hugging Face's ``{"bytes": ..., "path": ...}``. A caption is a
    text or a list of texts. The sample's id is the field `id`, else the tar key, else file and line.

    Args:
        source: where the records come from.
        images: folder or tar where image paths begin; default: the folder of the source.
        image: name of the image field; default: the first that a record has of `IMAGE_FIELDS`.
        caption: name of the caption field; default: the first that a record has of `CAPTION_FIELDS`.

    Raises:
        UsageError: if `images` does not exist.
        DataError: if the source's columns hold no such field.
    """

    def __init__(
        self,
        source: Source,
        images: Path | str | None = None,
        image: str | None = None,
        caption: str | None = None,
    ) -> None:
        self.source, self.name = source, source.name
        self._image = (image,) if image else IMAGE_FIELDS
        self._caption = (caption,) if caption else CAPTION_FIELDS
        self._images = ImageStore(source.folder if images is None else images)
        if source.columns is not None:
            for names, argument in ((self._image, "image"), (self._caption, "caption")):
                if not set(names) & set(source.columns):
                    problem = f"no such column (columns: {', '.join(source.columns)})"
                    raise DataError(self.name, names[0], problem, f"Name the right one with {argument}=COLUMN.")

    def __len__(self) -> int:
        return len(self.source)

    def where(self, index: int) -> str:
        """File and line, row or key."""
        return self.source.where(index)

    def __getitem__(self, index: int) -> Sample:
        record, where = self.source[index], self.where(index)
        field = _first(record, self._caption)
        texts = caption_texts(required(record, field, where, "Give the caption of the image."), where, field)
        image = self._picture(record, where)
        name = record.get("id", record.get("__key__"))
        groundings = tuple(Grounding(text=i) for i in range(len(texts)))
        return Sample(str(where if name is None else name), (image,), texts, groundings)

    def _picture(self, record: Record, where: str) -> Image:
        field = _first(record, self._image)
        value = required(record, field, where, "Give a path or the bytes of a picture file.")
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return decode(value, where, field)
        if isinstance(value, str) and value:
            return self._images.open(value, where, field)
        if isinstance(value, Image):
            return to_rgb(value)
        problem = f"is {type(value).__name__} {shown(value)}"
        raise DataError(where, field, problem, "Give a path or the bytes of a picture file.")


def _first(record: Record, names: tuple[str, ...]) -> str:
    return next((name for name in names if record.get(name) is not None), names[0])
