"""`wordregion data pseudo-label`: a teacher's boxes for the noun phrases of captions, and a report on them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tyro.conf import Positional

from wordregion.data.ground_collate import PictureCollator
from wordregion.data.loader import Transform
from wordregion.data.parts import version_id
from wordregion.data.prompts import Prompt, chunks
from wordregion.data.pseudo_boxes import (
    CHUNK,
    Labelled,
    Located,
    PseudoSettings,
    make_part,
    read_parts,
    version_of,
)
from wordregion.data.tagging import Tagger
from wordregion.data.tokens import Tokenizer
from wordregion.detector import Ask, Found
from wordregion.distributed import comm
from wordregion.draw import data_uri
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.detection import rows_of
from wordregion.part_work import make_missing
from wordregion.predict_boxes import UNUSED, Answer, draw_boxes
from wordregion.schema import Dataset, Sample

PICTURES, BARS, SIDE = 24, 20, 320


@dataclass(frozen=True)
class PseudoLabelFlags:
    """Puts a teacher's boxes on the noun phrases of captions: self-training's first half. Writes Parquet files with
    boxes and scores, and a report with pictures, to --out; a student reads them beside true boxes.

    A stopped command goes on where it was; several processes share the work:
    torchrun --nproc-per-node 2 -m wordregion.cli data pseudo-label ...

    Examples: `wordregion data pseudo-label captions.jsonl --images photos/ --teacher runs/glip --out pseudo/web`,
    `wordregion data pseudo-label flickr30k#train --teacher models/glip_tiny --least 0.4 --out pseudo/flickr`
    """

    source: Positional[str]
    """data set with captions, as in `wordregion data check`"""
    teacher: Path
    """folder of a run, or of a model that `wordregion convert` wrote"""
    out: Path
    """folder of the boxes"""
    images: Path | None = None
    """folder or tar of the images, if they are not beside the source"""
    tagger: str = "en_core_web_sm"
    """spaCy pipeline that finds the nouns: a name, or a folder"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model as --teacher, which has no recipe to name it"""
    least: float = 0.5
    """smallest score of a box, 0 to 1"""
    most: int = 20
    """boxes of a phrase, at most"""
    overlap: float = 0.6
    """of two boxes of a phrase with a larger IoU, the one with the lower score goes"""
    batch: int = 4
    """pictures that go through the teacher together"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


class BoxTeacher:
    """`data.pseudo_boxes.Teacher` by whatever answers questions.

    Args:
        ask: a `Detector`, or any other.
        tokenizer: of the captions.
        transform: makes a picture a normalised tensor.
        batch: pictures at once.
        device: of the model.
    """

    def __init__(self, ask: Ask, tokenizer: Tokenizer, transform: Transform, batch: int, device: torch.device) -> None:
        self.ask, self.collate, self.transform = ask, PictureCollator(tokenizer), transform
        self.batch, self.device = batch, device

    def __call__(self, samples: Sequence[Sample], prompts: Sequence[Sequence[Prompt]]) -> list[list[list[Located]]]:
        """The boxes for each prompt of each sample's first picture."""
        answers: list[list[list[Located]]] = []
        for part in chunks(list(zip(samples, prompts, strict=True)), self.batch):
            items = [(i, self.transform(sample, UNUSED), UNUSED) for i, (sample, _) in enumerate(part)]
            questions = [(i, prompt) for i, (_, own) in enumerate(part) for prompt in own]
            found = iter(self.ask(self.collate(items).to(self.device), questions))
            answers += [[list(rows_of(next(found))) for _ in own] for _, own in part]
        return answers


@dataclass(frozen=True)
class Summary:
    """What is in a finished folder.

    Attributes:
        version: short name of what it was made with.
        images: pictures with captions.
        captions: different captions of pictures.
        phrases: noun phrases in them.
        grounded: phrases with a box.
        boxes: all boxes.
        broken: records that could not be read.
        histogram: boxes by score, in `BARS` equal steps from 0 to 1.
    """

    version: str
    images: int
    captions: int
    phrases: int
    grounded: int
    boxes: int
    broken: int
    histogram: tuple[int, ...]

    def line(self) -> str:
        """For people."""
        return (
            f"{self.images:,} images, {self.captions:,} captions, {self.phrases:,} phrases, {self.grounded:,} of them "
            f"with boxes ({100 * self.grounded / max(1, self.phrases):.1f} %), {self.boxes:,} boxes, "
            f"{self.broken:,} broken records"
        )


def run_pseudo_label(
    dataset: Dataset,
    out: Path,
    settings: PseudoSettings,
    tagger: Tagger,
    tagger_name: str,
    tokenizer: Tokenizer,
    teacher: BoxTeacher,
    teacher_name: str,
    progress: bool = True,
) -> Summary | None:
    """Makes what is missing, this process its share of the files; the main process then reports.

    Returns:
        the summary, on the main process.

    Raises:
        UsageError: if `out` holds another version, or the data set has no captions.
    """
    version = version_of(dataset, settings, tagger_name, teacher_name)
    make_missing(
        out,
        version,
        CHUNK,
        lambda chunk: make_part(out, chunk, dataset, tagger, tokenizer, teacher, settings),
        progress,
    )
    if not comm.main_process():
        return None
    rows, broken = read_parts(out)
    if not rows:
        raise UsageError(f"{dataset.name}: no captions of whole images, so there is nothing to ask for.")
    summary = summarise(rows, len(broken), version_id(version))
    write_report(out, summary, version, drawn(dataset, rows))
    return summary


def summarise(rows: Sequence[Labelled], broken: int, version: str) -> Summary:
    """Counts of a finished folder."""
    scores = np.array([score for row in rows for score in row.scores])
    return Summary(
        version=version,
        images=len({row.index for row in rows}),
        captions=len(rows),
        phrases=sum(row.phrases for row in rows),
        grounded=sum(len(set(row.spans)) for row in rows),
        boxes=len(scores),
        broken=broken,
        histogram=tuple(np.histogram(scores, bins=BARS, range=(0, 1))[0].tolist()),
    )


def drawn(dataset: Dataset, rows: Sequence[Labelled]) -> list[tuple[Image.Image, str]]:
    """Some captions with boxes, spread evenly over the records: the picture with them, and the caption."""
    with_boxes = [row for row in rows if row.boxes]
    picked = [with_boxes[i * len(with_boxes) // PICTURES] for i in range(PICTURES)] if with_boxes else []
    tiles = []
    for row in dict.fromkeys(picked):
        try:
            picture = dataset[row.index].images[0]
        except DataError:  # it was sound when it was labelled; the report goes without it
            continue
        assert isinstance(picture, Image.Image)
        spans = list(dict.fromkeys(row.spans))
        found = Found(
            torch.tensor(row.boxes, dtype=torch.float32),
            torch.tensor(row.scores, dtype=torch.float32),
            torch.tensor([spans.index(span) for span in row.spans]),
        )
        phrases = [row.text[begin:end] for begin, end in spans]
        large = picture.resize((max(1, SIDE * picture.width // picture.height), SIDE))
        tiles.append((draw_boxes(large, Answer(row.id, large.size, phrases, found)), row.text))
    return tiles


def write_report(
    out: Path, summary: Summary, version: dict[str, object], tiles: Sequence[tuple[Image.Image, str]]
) -> None:
    """Writes ``report.json`` and ``report.html``: counts, the scores' histogram, pictures with their boxes."""
    content = {"summary": asdict(summary), "version": version}
    (out / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    most = max(1, *summary.histogram)
    bars = "".join(
        f"<tr><td>{i / BARS:.2f}</td><td><i style='width:{300 * count / most:.0f}px'></i></td><td>{count:,}</td></tr>"
        for i, count in enumerate(summary.histogram)
    )
    shown = "".join(
        f"<figure><img src='{data_uri(picture)}'><figcaption>{escape(text)}</figcaption></figure>"
        for picture, text in tiles
    )
    facts = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in version.items())
    (out / "report.html").write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Pseudo-boxes</title><style>body{font:15px "
        "sans-serif;max-width:1100px;margin:2em auto}td{padding:2px 10px}i{display:block;height:12px;"
        "background:#2f6fde}figure{display:inline-block;margin:8px;max-width:520px;vertical-align:top}"
        "img{max-width:100%}</style>"
        f"<h1>Pseudo-boxes</h1><p>{escape(summary.line())}; version {summary.version}</p>"
        f"<h2>Boxes by score</h2><table>{bars}</table><h2>{len(tiles)} captions, evenly spread</h2>{shown}"
        f"<h2>Made with</h2><table>{facts}</table></html>\n",
        encoding="utf-8",
    )
