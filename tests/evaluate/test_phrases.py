"""Recall of phrases, by what sees colours; over two processes too."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from tests.evaluate.painted import TOKENIZER, Captions, Seeing, plain
from tests.processes import in_two_processes
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.tokens import Tokenizer
from wordregion.detector import Found
from wordregion.errors import UsageError
from wordregion.evaluate.phrases import measure_phrases


def measure(ask=None, dataset=None, tokenizer=TOKENIZER, **settings):
    settings = {"batch": 2, "device": torch.device("cpu"), "progress": False, **settings}
    return measure_phrases(ask or Seeing(), dataset or Captions(), GroundCollator(tokenizer), plain, **settings)


def test_every_phrase_is_found_in_its_caption() -> None:
    seeing = Seeing()
    result = measure(seeing)
    assert result.metrics["raw/any_box/R@1"] == result.metrics["raw/merged_box/R@10"] == pytest.approx(100)
    assert {f"raw/any_box_{colour}/R@1" for colour in ("red", "green", "blue")} <= set(result.metrics)
    assert result.metrics["raw/whole_image_any_box/R@1"] == 0  # no box fills half of a picture
    assert result.items == "12 phrases in 9 images"
    assert seeing.pictures == 9


def test_the_order_of_the_boxes_decides() -> None:
    class Reversed(Seeing):
        def answer(self, batch, place, prompt):
            found = super().answer(batch, place, prompt)
            return Found.joined([Found(found.box, 1 - found.score, found.label)])

    metrics = measure(Reversed()).metrics
    assert metrics["raw/any_box/R@1"] == 0
    assert metrics["raw/any_box/R@5"] == pytest.approx(100)


def test_a_long_caption_is_read_in_pieces_without_loss() -> None:
    seeing = Seeing()
    result = measure(seeing, tokenizer=Tokenizer("scenes", max_tokens=5, clean=False))
    assert result.metrics["raw/any_box/R@1"] == pytest.approx(100)
    assert max(len(text.split()) for text in seeing.prompts) == 3
    assert result.items == "12 phrases in 9 images"


def test_nothing_to_find_is_refused() -> None:
    @dataclass(frozen=True)
    class Empty(Captions):
        size: int = 1

    with pytest.raises(UsageError, match="no phrase has a box"):
        measure(dataset=Empty())


def _process(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    (Path(folder) / f"{rank}.json").write_text(measure().to_json())
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path: Path) -> None:
    in_two_processes(_process, 2, str(tmp_path))
    one = measure().to_json()
    assert [(tmp_path / f"{rank}.json").read_text() for rank in (0, 1)] == [one, one]
