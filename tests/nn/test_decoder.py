import pytest
import torch

from wordregion.models.zoo import albef_tiny, for_questions
from wordregion.nn.decoder import AnswerDecoder


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    model = for_questions(
        albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=2, embed=16)
    )
    found = model.heads["answer"].eval()
    assert isinstance(found, AnswerDecoder)
    for parameter in found.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return found


def questions(count=3):
    mask = torch.arange(5) < torch.tensor([5, 2, 4, 1])[:count, None]
    return torch.randn(count, 5, 32, generator=torch.Generator().manual_seed(1)), mask


def answers(count=4, length=6):
    ids = torch.randint(5, 40, (count, length), generator=torch.Generator().manual_seed(2))
    return ids, torch.ones(count, length, dtype=torch.bool)


def test_a_token_does_not_see_what_follows(decoder):
    ids, mask = answers()
    question, question_mask = questions()
    owner = torch.tensor([0, 0, 1, 2])
    before = decoder(ids, mask, question, question_mask, owner)
    changed = ids.clone()
    changed[:, 4:] = 7
    after = decoder(changed, mask, question, question_mask, owner)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_linked_answers_equal_answers_decoded_one_by_one(decoder):
    ids, mask = answers()
    mask[1, 3:] = False
    question, question_mask = questions()
    owner = torch.tensor([2, 0, 0, 1])
    together = decoder(ids, mask, question, question_mask, owner)
    for row in range(4):
        q = owner[row]
        own, real = slice(row, row + 1), mask[row]
        alone = decoder(ids[own][:, real], mask[own][:, real], question[q][None], question_mask[q][None])
        torch.testing.assert_close(together[row][real], alone[0], rtol=1e-4, atol=1e-5)


def test_equally_many_answers_in_order_need_no_index(decoder):
    ids, mask = answers(6)
    question, question_mask = questions()
    linked = decoder(ids, mask, question, question_mask, torch.arange(3).repeat_interleave(2))
    torch.testing.assert_close(decoder(ids, mask, question, question_mask), linked, rtol=1e-4, atol=1e-5)


def test_padding_of_a_question_is_not_looked_at(decoder):
    ids, mask = answers(3)
    question, question_mask = questions()
    before = decoder(ids, mask, question, question_mask)
    question[~question_mask] = 9.0
    torch.testing.assert_close(decoder(ids, mask, question, question_mask), before)


def test_with_a_cache_only_new_tokens_are_computed_and_the_result_is_the_same(decoder):
    ids, mask = answers(3)
    question, question_mask = questions()
    whole = decoder(ids, mask, question, question_mask)
    cache = decoder.new_cache()
    parts = [
        decoder(ids[:, s], mask[:, s], question, question_mask, cache=cache)
        for s in (slice(0, 1), slice(1, 3), slice(3, 6))
    ]
    assert cache.length == 6
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_the_decoder_starts_with_the_fusion_blocks_and_shares_nothing():
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=3, embed=16)
    words = model.heads["mask"]
    model = for_questions(model, layers=2)
    decoder = model.heads["answer"]
    for ours, theirs in zip(decoder.layers, list(model.fusion.layers)[1:], strict=True):
        for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert name == other
            assert torch.equal(a, b)
            assert a is not b
    assert torch.equal(decoder.head.dense.weight, words.dense.weight)
    assert torch.equal(decoder.embeddings.word_embeddings.weight, model.text.word_embeddings.weight)
    assert decoder.embeddings.word_embeddings.weight is not model.text.word_embeddings.weight
    assert decoder.head.decoder.weight is decoder.embeddings.word_embeddings.weight
    assert set(decoder.layers) < set(model.blocks())
