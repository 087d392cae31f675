"""`wordregion data pseudo-label`, by what sees colours: on one process and on two, and its report."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed as dist

from tests.evaluate.painted import TOKENIZER, Captions, Seeing
from tests.evaluate.test_detection import to_tensor
from tests.processes import in_two_processes
from wordregion.data import pseudo_boxes
from wordregion.data.pseudo_boxes import PseudoSettings, WithBoxes, read_parts
from wordregion.pseudo_label import BoxTeacher, run_pseudo_label
from wordregion.schema import Sample


class Photos(Captions):
    """The painted captions with pictures instead of tensors, and no boxes."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        pixels = (sample.images[0] * 255).byte().permute(1, 2, 0).numpy()
        groundings = tuple(g for g in sample.groundings if not g.boxes)
        return Sample(sample.id, (Image.fromarray(np.ascontiguousarray(pixels)),), sample.texts, groundings)


def tagger(texts):
    tags = {"red": "ADJ", "green": "ADJ", "blue": "ADJ", "circle": "NOUN", "square": "NOUN", "star": "NOUN"}
    return [[(m.start(), m.end(), tags.get(m[0], "ADP")) for m in re.finditer(r"\S+", text)] for text in texts]


def work(out: Path):
    pseudo_boxes.CHUNK = 4
    sys.modules["wordregion.pseudo_label"].CHUNK = 4
    teacher = BoxTeacher(Seeing(), TOKENIZER, to_tensor, 2, torch.device("cpu"))
    settings = PseudoSettings(least=0.5)
    return run_pseudo_label(Photos(), out, settings, tagger, "tags", TOKENIZER, teacher, "weights", progress=False)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pseudo_boxes, "CHUNK", 4)
    monkeypatch.setattr("wordregion.pseudo_label.CHUNK", 4)


def test_the_teachers_boxes_are_what_is_shown(tmp_path: Path, small_chunks) -> None:
    summary = work(tmp_path)
    labelled = WithBoxes(Photos(), tmp_path)
    for index in range(9):
        true, found = Captions()[index], labelled[index]
        assert [(g.text, g.span) for g in found.groundings] == [(g.text, g.span) for g in true.groundings]
        for own, theirs in zip(found.groundings, true.groundings, strict=True):
            assert np.array(own.boxes) == pytest.approx(np.array(theirs.boxes), abs=0.03)  # whole pixels
    assert summary is not None
    assert (summary.captions, summary.phrases, summary.grounded, summary.boxes) == (9, 15, 12, 12)
    assert (sum(summary.histogram), summary.broken) == (12, 0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["summary"]["boxes"] == summary.boxes
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == len({row.index for row in read_parts(tmp_path)[0] if row.boxes})


def _process(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    work(Path(folder) / "two")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_make_what_one_makes(tmp_path: Path, small_chunks) -> None:
    work(tmp_path / "one")
    in_two_processes(_process, 2, str(tmp_path))
    assert read_parts(tmp_path / "one") == read_parts(tmp_path / "two")
    assert len(list((tmp_path / "two").glob("part-*.parquet"))) == 3
