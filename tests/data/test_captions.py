import numpy as np
import pytest
import torch

from wordregion.data.captions import CaptionCollator
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample


def sample(*texts, name="1"):
    return Sample(name, (torch.zeros(3, 4, 4),), texts, tuple(Grounding(text=i) for i in range(len(texts))))


def collated(*samples, seed=0):
    items = [(10 + i, s, np.random.default_rng([seed, i])) for i, s in enumerate(samples)]
    return CaptionCollator(Tokenizer("scenes"))(items)


def test_the_prompt_is_given_and_the_caption_and_its_end_are_predicted():
    tokenizer = Tokenizer("scenes")
    batch = collated(sample("the red circle"), sample("a blue square left of the red circle", name="b"))
    assert tokenizer.decode(batch.token_ids[0].tolist()) == "a picture of the red circle"
    assert batch.token_ids[0, 0] == tokenizer.cls_id
    assert (batch.labels[:, :4] == -100).all()
    own = batch.labels[0][batch.labels[0] != -100].tolist()
    assert tokenizer.decode(own[:-1]) == "the red circle"
    assert own[-1] == tokenizer.sep_id
    assert (batch.labels[~batch.token_mask] == -100).all()
    assert batch.text_image.tolist() == [0, 1]
    assert batch.image_key.tolist() == [10, 11]
    assert batch.target["id"] == ["1", "b"]


def test_one_caption_is_drawn_and_all_different_ones_are_references():
    texts = ("the red circle", "a blue square", "the red circle", "a green star")
    drawn = {Tokenizer("scenes").decode(collated(sample(*texts), seed=s).token_ids[0].tolist()) for s in range(30)}
    assert drawn == {f"a picture of {text}" for text in texts}
    assert collated(sample(*texts)).target["references"] == [(texts[0], texts[1], texts[3])]


def test_a_long_caption_is_cut_and_still_ends():
    batch = CaptionCollator(Tokenizer("scenes", max_tokens=8))(
        [(0, sample("the red circle left of the blue square"), np.random.default_rng(0))]
    )
    assert batch.token_ids.shape == (1, 8)
    assert batch.labels[0, -1] == batch.token_ids[0, -1] == Tokenizer("scenes").sep_id


def test_what_cannot_work_is_refused():
    with pytest.raises(UsageError, match="sep=True"):
        CaptionCollator(Tokenizer("scenes", sep=False))
    with pytest.raises(UsageError, match="no room behind the prompt"):
        CaptionCollator(Tokenizer("scenes", max_tokens=5))
    region = Sample("x", (torch.zeros(3, 4, 4),), ("a star",), (Grounding(text=0, boxes=((0, 0, 0.5, 0.5),)),))
    with pytest.raises(DataError, match="no caption"):
        CaptionCollator(Tokenizer("scenes")).check(region, "file, line 1")
