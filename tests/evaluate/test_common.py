"""What all evaluations share: a function over a data set, on one process and on two."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.schema import Sample


@dataclass(frozen=True)
class Numbered:
    """Pictures of one colour, the record's number."""

    size: int
    broken: int | None = None
    name: str = "numbered"

    def __len__(self):
        return self.size

    def where(self, index):
        return f"numbered.json, record {index}"

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError(self.where(index), "image", "cannot be read", "Remove it")
        return Sample(f"n{index}", (torch.full((3, 4, 4), float(index)),), ("a red circle",))


def unchanged(sample, rng):
    return sample


def rows(size, batch=3, **more):
    def predict(found):
        return [(int(key), float(image.mean())) for key, image in zip(found.image_key, found.image, strict=True)]

    return over_batches(
        predict,
        Numbered(size, **{k: more.pop(k) for k in ("broken",) if k in more}),
        unchanged,
        SentenceCollator(Tokenizer("scenes")),
        batch=batch,
        device=torch.device("cpu"),
        progress=False,
        **more,
    )


def test_rows_are_in_order_and_complete():
    assert rows(7) == [(i, float(i)) for i in range(7)]
    assert rows(7, workers=2) == rows(7)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_record_is_named(workers):
    with pytest.raises(DataError, match=r"numbered\.json, record 5, field 'image': cannot be read"):
        rows(7, broken=5, workers=workers)


def test_requests_are_checked():
    check_request("finetuned_on_snli-ve", Numbered(1), 1)
    for arguments, words in (
        (("zero-shot", Numbered(1), 1), "finetuned_on_X"),
        (("raw", Numbered(1), 0), "batch = 0"),
        (("raw", Numbered(0), 1), "no samples"),
    ):
        with pytest.raises(UsageError, match=words):
            check_request(*arguments)


def test_the_mode_of_the_model_is_restored():
    model = torch.nn.Linear(2, 2).train()
    with evaluating(model) as device:
        assert not model.training
        assert device == torch.device("cpu")
    assert model.training


def _process(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    Path(folder, f"{rank}.json").write_text(json.dumps([rows(size) for size in (1, 6, 7, 9, 10)]))
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_drop_and_double_nothing(tmp_path):
    in_two_processes(_process, 2, str(tmp_path))
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == [[[i, i] for i in range(size)] for size in (1, 6, 7, 9, 10)]
