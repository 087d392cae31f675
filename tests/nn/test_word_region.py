"""Words against places, beside loops over words and places."""

import pytest
import torch
import torch.nn.functional as F

from wordregion.nn import word_region
from wordregion.nn.word_region import SCALE, SHARPNESS, WordRegionHead, attended_cosine


def head(dropout=0.0):
    torch.manual_seed(0)
    return WordRegionHead(width=6, image_width=10, embed=8, dropout=dropout)


def inputs(texts=3, length=5, images=4, places=9):
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(texts, length, 6, generator=generator)
    mask = torch.arange(length).repeat(texts, 1) < torch.tensor([[5], [2], [1]])[:texts]
    return text, mask, torch.randn(images, 1 + places, 10, generator=generator)


def test_a_score_is_the_weighted_mean_of_what_each_word_sees():
    part = head().eval()
    text, mask, image = inputs()
    got = part(text, mask, part.places(image))
    for t in range(3):
        real = int(mask[t].sum())
        weight = part.importance(text[t, :real]).flatten().softmax(0)
        for i in range(4):
            total = 0.0
            for w in range(real):
                word = F.normalize(part.word_proj(text[t, w]), dim=0)
                cosine = torch.stack([word @ F.normalize(part.place_proj(image[i, 1 + n]), dim=0) for n in range(9)])
                total += weight[w] * ((SHARPNESS * cosine).softmax(0) @ cosine)
            assert got[t, i].item() == pytest.approx(SCALE * total.item(), abs=1e-5)


def test_padding_and_the_summary_of_an_image_change_nothing():
    part = head().eval()
    text, mask, image = inputs()
    plain = part(text, mask, part.places(image))
    text[~mask] = torch.nan
    image[:, 0] = torch.nan
    torch.testing.assert_close(part(text, mask, part.places(image)), plain)
    longer = F.pad(text, (0, 0, 0, 3)), F.pad(mask, (0, 3))
    torch.testing.assert_close(part(*longer, part.places(image)), plain)


def test_how_many_cosines_are_computed_at_once_changes_nothing(monkeypatch):
    results = []
    for at_once in (word_region.AT_ONCE, 1):
        monkeypatch.setattr(word_region, "AT_ONCE", at_once)
        part = head()
        text, mask, image = inputs()
        scores = part(text, mask, part.places(image))
        (scores**2).sum().backward()
        results.append((scores.detach(), *(parameter.grad for parameter in part.parameters())))
    for some, everything in zip(*results, strict=True):
        torch.testing.assert_close(some, everything, atol=1e-4, rtol=1e-4)


def test_sharpness_goes_from_the_mean_to_the_best_place():
    cosine = torch.rand(3, 2, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(attended_cosine(cosine, 0.0), cosine.mean(-1))
    torch.testing.assert_close(attended_cosine(cosine, 1e4), cosine.amax(-1))


def test_a_phrase_is_the_mean_of_its_words_cosines_with_its_own_image():
    part = head().eval()
    text, _, image = inputs(texts=2, images=4)
    row = torch.tensor([[False, True, True, False, False], [True] * 5, [False, False, False, False, True]])
    tokens, of_text, of_image = row[[0, 1, 2, 0]], torch.tensor([0, 1, 1, 1]), torch.tensor([2, 0, 2, 3])
    got = part.phrases(text, of_text, tokens, part.places(image), of_image)
    for g in range(4):
        cosines = part.words(text[of_text[g], tokens[g]]) @ part.places(image)[of_image[g]].T
        torch.testing.assert_close(got[g], cosines.mean(0))
    assert part.phrases(text, of_text[:0], tokens[:0], part.places(image), of_image[:0]).shape == (0, 9)


def test_channels_of_places_are_dropped_in_training_alone():
    part = head(dropout=0.5)
    _, _, image = inputs()
    assert not torch.equal(part.places(image), part.places(image))
    part.eval()
    assert torch.equal(part.places(image), part.places(image))


def test_gradients_reach_words_places_and_importance_and_not_the_padding():
    part = head()
    text, mask, image = inputs()
    text.requires_grad_()
    (part(text, mask, part.places(image)) ** 2).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    assert (text.grad[mask].abs().sum(-1) > 0).all()
    assert not text.grad[~mask].any()
