"""NLVR: statements about drawings of three boxes, true or false."""

import re
from pathlib import Path

from PIL import Image

from wordregion.data.datasets.nlvr2 import truth
from wordregion.data.fields import required, shown, text_value
from wordregion.data.files import check_index
from wordregion.data.images import ImageStore
from wordregion.data.sources import Jsonl
from wordregion.errors import DataError
from wordregion.schema import Sample

_REMEDY = 'Expected lines of {"identifier": "1572-0", "sentence": "...", "label": "true"}.'
_LEAST_WIDTH = 8  # a pixel for a gap, two for a box
_DRAWING = re.compile(r"(?:.*/)?[^/]+-(\d+-\d+)-(\d+)\.png")


class Nlvr:
    """A drawing and a sentence (`Dataset`): target {"label": 1 true | 0 false, "sentence": id}.

    A line of the file is drawn several times, with its three boxes in different orders (``DIR/SPLIT-ID-K.png``); every
    drawing that is there becomes a sample, those of a line one after the other. A line without any is a broken record.

    The published drawing is a strip of 400 x 100. The models here take squares, into which a strip would be squashed to
    a quarter of its width, so the boxes are laid out on a square as they are: two above, one below (`on_square`).

    Args:
        path: such as ``dev.json``: JSON lines.
        images: folder or tar of the drawings; default: ``images_dev.tar`` or ``images`` beside the file.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file has no records.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None) -> None:
        self.path, self.name = Path(path), str(path)
        self._records = Jsonl(path)
        self._images = ImageStore(_images_near(self.path) if images is None else images)
        drawings: dict[str, list[tuple[int, str]]] = {}
        for name in self._images.names():
            if found := _DRAWING.fullmatch(name):
                drawings.setdefault(found[1], []).append((int(found[2]), name))
        self._samples: list[tuple[int, str]] = []
        for row in range(len(self._records)):
            try:
                identity = self._records[row].get("identifier")
            except DataError:  # a broken line stays a record, which says so when it is read
                identity = None
            self._samples += [(row, name) for _, name in sorted(drawings.get(str(identity), []))] or [(row, "")]

    def __len__(self) -> int:
        return len(self._samples)

    def where(self, index: int) -> str:
        """File, line and drawing."""
        row, name = self._samples[index]
        return self._records.where(row) + (f" ({name})" if name else "")

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        (row, name), where = self._samples[index], self.where(index)
        record = self._records[row]
        sentence = text_value(required(record, "sentence", where, _REMEDY), where, "sentence")
        identity = text_value(required(record, "identifier", where, _REMEDY), where, "identifier")
        label = truth(required(record, "label", where, _REMEDY), where)
        if not name:
            problem = f"no drawing of {shown(identity)} in {self._images.root}"
            raise DataError(where, "identifier", problem, "Add SPLIT-ID-K.png, or point 'images' at the drawings.")
        strip = self._images.open(name, where, "identifier")
        if strip.width < _LEAST_WIDTH:
            problem = f"the drawing is {strip.width} x {strip.height} pixels, too narrow for three boxes"
            raise DataError(where, "identifier", problem, "Give the published drawing, 400 x 100.")
        picture = on_square(strip)
        unique = identity.rpartition("-")[0] or identity
        return Sample(Path(name).stem, (picture,), (sentence,), target={"label": label, "sentence": unique})


def on_square(strip: Image.Image) -> Image.Image:
    """Three boxes beside each other as two above and one below, in the middle, on the ground between them.

    Args:
        strip: boxes of a quarter of its width with gaps of an eighth, as published (400 x 100).
    """
    box, gap = strip.width / 4, strip.width / 8
    side, apart = round(box), round(box / 4)
    ground = strip.getpixel((round(box + gap / 2), 0))
    square = Image.new("RGB", (2 * side + apart,) * 2, ground)
    places = ((0, 0), (side + apart, 0), ((side + apart) // 2, side + apart))
    for number, place in enumerate(places):
        left = round(number * (box + gap))
        square.paste(strip.crop((left, 0, left + side, strip.height)).resize((side, side)), place)
    return square


def _images_near(path: Path) -> Path:
    for name in (f"images_{path.stem}.tar", f"images_{path.stem}", "images"):
        if (path.parent / name).exists():
            return path.parent / name
    return path.parent
