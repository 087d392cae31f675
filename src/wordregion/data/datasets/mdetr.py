"""MDETR's annotation files, from which GLIP's grounding data (GoldG: Flickr30k, GQA, Visual Genome, RefCOCO) come.

COCO's layout, where each entry of ``images`` has a ``caption`` and each annotation ``tokens_positive``: the (begin,
end) characters of the caption that its box belongs to. A picture with five captions has five entries.
"""

from pathlib import Path
from typing import Any

from wordregion.data.datasets.coco import LAYOUT_REMEDY, images_near, records_by_image, whole_record, xywh_box
from wordregion.data.datasets.odvg import checked_spans
from wordregion.data.fields import image_size, required, text_value
from wordregion.data.files import check_index, load_json
from wordregion.data.images import ImageStore
from wordregion.schema import Box, Grounding, Sample


class MdetrGrounding:
    """A caption with phrases and their boxes (`Dataset`).

    Args:
        path: such as ``final_mixed_train.json`` or ``final_flickr_separateGT_train.json``.
        images: folder or tar of the photos; default: near the JSON file.
        content: the parsed file, if the caller has it already.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is not JSON in COCO's layout, or has no images.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None, content: Any = None) -> None:
        self.path, self.name = Path(path), str(path)
        content = load_json(self.path, "MDETR's annotations") if content is None else content
        self._records = records_by_image(self.path, content, ("bbox", "tokens_positive"), ("caption",))
        self._images = ImageStore(images_near(self.path) if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and entry of `images`, or of `annotations` if that belongs to no image; counted from 1."""
        return self._records[index]["where"]

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record = whole_record(self._records[index])
        where = record["where"]
        caption = required(record, "caption", where, LAYOUT_REMEDY)
        text_value(caption, where, "caption")
        size = image_size(record, where)
        boxes: dict[tuple[int, int], list[Box]] = {}
        for note in record["annotations"]:
            spot = note["where"]
            values = required(note, "tokens_positive", spot, "Give [[begin, end], ...] characters of the caption.")
            box = xywh_box(note, size)
            for span in checked_spans(values, caption, spot, "tokens_positive"):
                boxes.setdefault(span, []).append(box)
        image = self._images.open(record["file_name"], where, "file_name", upright=False)
        phrases = (Grounding(text=0, span=span, boxes=tuple(found)) for span, found in boxes.items())
        return Sample(record["id"], (image,), (caption,), (Grounding(text=0), *phrases))
