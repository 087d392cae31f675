import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.collate import Collator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.evaluate.boxes import evaluate_boxes
from wordregion.models.zoo import albef_tiny, xvlm_tiny
from wordregion.schema import Grounding, Sample

LEFT, MIDDLE, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.25, 0.25, 0.75, 0.75), (0.5, 0.0, 1.0, 1.0)


class Pictures:
    name = "pictures"

    def __init__(self, *groundings, splits=None):
        self.groundings, self.splits = groundings, splits

    def __len__(self):
        return 2

    def where(self, index):
        return f"picture {index}"

    def __getitem__(self, index):
        image = Image.fromarray(np.full((40, 60, 3), 40 * index, dtype=np.uint8))
        target = {} if self.splits is None else {"splits": self.splits}
        return Sample(str(index), (image,), ("a red circle", "a blue square"), self.groundings, target)


class Answer(torch.nn.Module):
    """A box head that always says the same."""

    def __init__(self, *box):
        super().__init__()
        self.box = torch.tensor([box])

    def forward(self, cls):
        return self.box.expand(len(cls), -1)


def measured(dataset, box=(0.25, 0.5, 0.5, 1.0)):
    model = xvlm_tiny((tokenizer := Tokenizer("scenes")).vocab_size, image_size=32, width=64, fusion_layers=1)
    model.heads["box"] = Answer(*box)
    return evaluate_boxes(model, dataset, Collator(tokenizer), EvalTransform(32), batch=1, progress=False)


def test_accuracy_beside_both_baselines():
    found = measured(Pictures(Grounding(0, (LEFT,)), Grounding(1, (MIDDLE,)), Grounding(0)))
    assert found.metrics == {
        "raw/box/acc@0.5": 50.0,
        "raw/whole_image/acc@0.5": 50.0,  # the left half has an IoU of just 0.5, the middle of 0.25
        "raw/centre_box/acc@0.5": 50.0,
        "raw/box/pointing": 100.0,  # its middle (0.25, 0.5) is in the left half, and on the edge of the middle box
        "raw/whole_image/pointing": 50.0,  # (0.5, 0.5) is just outside the left half
        "raw/centre_box/pointing": 50.0,
    }
    assert found.items == "4 phrases in 2 images"
    assert found.found[0].box == pytest.approx(LEFT)
    assert found.found[1].phrase == "a blue square"


def test_several_boxes_count_each_and_merged():
    found = measured(Pictures(Grounding(0, (LEFT, RIGHT)), Grounding(1, (LEFT,))), box=(0.5, 0.5, 1.0, 1.0))
    assert found.metrics["raw/box/acc@0.5"] == 100.0
    assert found.metrics["raw/box/merged_acc@0.5"] == 100.0
    assert found.metrics["raw/centre_box/merged_acc@0.5"] == 0.0


def test_splits_and_spans_are_named_and_read_alone():
    dataset = Pictures(Grounding(0, (LEFT,), span=(2, 5)), Grounding(1, (RIGHT,)), splits=("val", "testA"))
    found = measured(dataset)
    assert found.metrics["raw/box/val_acc@0.5"] == 100.0
    assert found.metrics["raw/box/testA_acc@0.5"] == 0.0
    assert found.found[0].phrase == "red"


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UsageError, match="boxes are not finite"):
        measured(Pictures(Grounding(0, (LEFT,))), box=(float("nan"), 0.5, 0.5, 1.0))
    with pytest.raises(UsageError, match="no phrase has a box"):
        measured(Pictures(Grounding(0)))
    model = albef_tiny((tokenizer := Tokenizer("scenes")).vocab_size, 32, width=32, vision_layers=1)
    with pytest.raises(UsageError, match="no box head"):
        evaluate_boxes(model, Pictures(Grounding(0, (LEFT,))), Collator(tokenizer), EvalTransform(32))
