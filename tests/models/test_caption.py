"""A fusion model run from left to right."""

import pytest
import torch
from transformers import AutoConfig

from wordregion.errors import UsageError
from wordregion.models.caption import CaptionWriter, caption_states, word_head
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_tiny, for_captioning, for_retrieval, for_two_images
from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.heads import MaskHead
from wordregion.nn.text import TextEncoder
from wordregion.nn.vision import TimmVision


def small():
    return albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=2, fusion_layers=2, embed=16)


def roberta():
    config = AutoConfig.for_model(
        "roberta", vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=1, intermediate_size=64,
        max_position_embeddings=30,
    )  # fmt: skip
    text = TextEncoder(config)
    vision = TimmVision(
        "vit_tiny_patch16_224", 32, settings={"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 1}
    )
    return FusionModel(vision, text, FusionEncoder(32, 32, 2, 1), {"mask": MaskHead(text.word_embeddings)})


@pytest.fixture(params=[small, roberta])
def model(request):
    torch.manual_seed(0)
    model = for_captioning(request.param()).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(captions=4, images=2):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (captions, 6), generator=generator)
    return ids, torch.randn(images, 17, 32, generator=generator)


def test_a_token_sees_what_stands_before_it_and_nothing_that_follows(model):
    ids, image = inputs()
    before = caption_states(model, ids, image)
    changed = ids.clone()
    changed[:, 3] = 7
    after = caption_states(model, changed, image)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:], atol=1e-3).all(2).any()


def test_captions_linked_to_their_images_equal_captions_alone(model):
    ids, image = inputs()
    together = caption_states(model, ids, image, torch.tensor([1, 0, 0, 1]))
    for row, own in enumerate([1, 0, 0, 1]):
        alone = caption_states(model, ids[row : row + 1], image[own : own + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_with_a_cache_only_new_tokens_are_computed_and_the_result_is_the_same(model):
    ids, image = inputs()
    writer = CaptionWriter(model, image)
    with torch.no_grad():
        whole = word_head(model)(caption_states(model, ids, image))
        for begin, end in ((0, 3), (3, 4), (4, 6)):
            torch.testing.assert_close(writer(ids[:, begin:end]), whole[:, end - 1], rtol=1e-4, atol=1e-4)
    assert writer.cache.length == 6


def test_rows_that_are_kept_go_on_as_if_they_had_always_been_there(model):
    ids, image = inputs()
    rows = torch.tensor([1, 1, 3, 2])  # each within the captions of its own image
    writer = CaptionWriter(model, image)
    with torch.no_grad():
        writer(ids[:, :4])
        writer.keep(rows)
        found = writer(ids[:, 4:5])
        expected = word_head(model)(caption_states(model, torch.cat([ids[rows, :4], ids[:, 4:5]], 1), image))[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit", [for_retrieval, lambda model: for_two_images(model, "nlvr")])
def test_a_model_without_word_head_or_of_two_images_is_refused(fit):
    with pytest.raises(UsageError, match="masked-word head"):
        CaptionWriter(fit(small()), torch.zeros(1, 17, 32))
