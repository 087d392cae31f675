"""Word-region alignment: what it compares, what boxes teach it, and that it adds up over micro-batches."""

from dataclasses import replace

import pytest
import torch

from wordregion.engine.optim import freeze
from wordregion.errors import UsageError
from wordregion.losses.word_region import place_loss
from wordregion.models.zoo import albef_tiny, albef_tiny_conv, for_word_regions
from wordregion.objectives import Contrast, WordRegion
from wordregion.recipes.recipe import AdamW
from wordregion.schema import Batch
from wordregion.tasks.align import Align

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def model(made=albef_tiny_conv):
    torch.manual_seed(0)
    size = {"width": 32} if made is albef_tiny_conv else {"width": 32, "vision_layers": 1, "text_layers": 1}
    return for_word_regions(made(40, image_size=32, embed=16, **size), embed=24)


def task(objective=WordRegion(), own=None):  # noqa: B008
    return Align(objectives=(objective,), momentum=None, queue_size=0, distill=0.0).build(own or model()).eval()


def batch(texts=6, images=3, keys=None, phrases=((0, (1, 2), (LEFT,)), (3, (4, 5), (LEFT, RIGHT))), whole=()):
    """Texts of 6 tokens, dealt out to the images in turn; phrases as (text, tokens, boxes); `whole` ones have a box."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (texts, 6), generator=generator)
    phrases = [*phrases, *((text, range(6), (LEFT,)) for text in whole)]
    tokens = torch.zeros(len(phrases), 6, dtype=torch.bool)
    for row, (_, at, _) in zip(tokens, phrases, strict=True):
        row[list(at)] = True
    return Batch(
        image=torch.randn(images, 3, 32, 32, generator=generator),
        image_key=torch.arange(images) if keys is None else torch.tensor(keys),
        token_ids=ids,
        token_mask=torch.ones_like(ids, dtype=torch.bool),
        text_image=torch.arange(texts) % images,
        grounding_text=torch.tensor([text for text, _, _ in phrases], dtype=torch.long),
        grounding_tokens=tokens,
        box=torch.tensor([box for _, _, boxes in phrases for box in boxes]).view(-1, 4),
        box_grounding=torch.tensor([g for g, (_, _, boxes) in enumerate(phrases) for _ in boxes], dtype=torch.long),
    )


def run(trained, data, totals=None):
    return trained(data, trained.counts(data) if totals is None else totals)


def scores(own, data):
    head = own.heads["word_region"]
    text = own.encode_text(data.token_ids, data.token_mask)
    return head(text, data.token_mask, head.places(own.encode_image(data.image)))


@pytest.mark.parametrize("made", [albef_tiny_conv, albef_tiny])
def test_texts_and_images_choose_each_other(made):
    own, data = model(made).eval(), batch()
    got = run(task(own=own), data).metrics
    with torch.no_grad():
        score = scores(own, data)
    to_image = -score.log_softmax(1)[range(6), data.text_image].mean()  # each of an image's two texts has half of it
    to_text = -score.log_softmax(0)[range(6), data.text_image].mean()
    assert got["word_region"].item() == pytest.approx((to_image + to_text).item() / 2 + torch.tensor(2.0).log() / 2)
    hits = (score.argmax(1) == data.text_image).float().mean()
    assert got["word_region_accuracy"].item() == pytest.approx(hits.item())


def test_every_text_of_the_same_picture_is_a_positive():
    own, data = model().eval(), batch(keys=(7, 8, 7), phrases=())
    got = run(task(own=own), data).metrics["word_region"]
    with torch.no_grad():
        score = scores(own, data)[:, data.text_image]
    same = torch.tensor([7, 8, 7])[data.text_image]
    positive = (same[:, None] == same).float()
    positive /= positive.sum(1, keepdim=True)
    expected = sum(-(side.log_softmax(1) * positive).sum(1).mean() for side in (score, score.T)) / 2
    assert got.item() == pytest.approx(expected.item())


def test_the_loss_of_a_phrase_is_what_falls_beside_its_boxes():
    cosine = torch.tensor([[0.5, -0.5, 0.1, 0.2]])
    share = (3 * cosine).softmax(1)[0]
    for inside in ([True, False, False, False], [True, False, True, True], [True] * 4):
        got = place_loss(cosine, torch.tensor([inside]), 3.0)
        assert got.item() == pytest.approx(-share[torch.tensor(inside)].sum().log().item(), abs=1e-6)


def test_boxes_teach_words_where_to_look():
    own = model()
    freeze(own, AdamW(freeze=("vision.", "text.", "fusion.", "image_proj.", "text_proj.", "temperature")))
    trained, data = task(WordRegion(weight=0.0), own).train(), batch(phrases=[(t, (1, 2), (LEFT,)) for t in range(6)])
    optimiser = torch.optim.AdamW(own.heads.parameters(), lr=1e-2)
    found = []
    for _ in range(30):
        output = run(trained, data)
        found.append((output.metrics["word_region_box"].item(), output.metrics["word_region_box_accuracy"].item()))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    assert found[-1][0] < 0.3 * found[0][0]
    assert found[-1][1] == 1


def test_several_boxes_of_a_phrase_count_as_one_place():
    everywhere = run(task(), batch(phrases=((0, (1, 2), (LEFT, RIGHT)),))).metrics
    assert everywhere["word_region_box"].item() == pytest.approx(0, abs=1e-6)
    assert everywhere["word_region_box_accuracy"] == 1
    assert run(task(), batch(phrases=((0, (1, 2), (LEFT,)),))).metrics["word_region_box"] > 0.01


def test_texts_of_regions_are_phrases_and_no_captions():
    trained = task()
    both = run(trained, batch(whole=(2, 5), phrases=())).metrics
    captions = batch(phrases=())
    keep = torch.tensor([0, 1, 3, 4])
    captions = replace(
        captions,
        token_ids=captions.token_ids[keep],
        token_mask=captions.token_mask[keep],
        text_image=captions.text_image[keep],
        grounding_tokens=torch.zeros(0, 6, dtype=torch.bool),
    )
    alone = run(trained, captions).metrics
    assert both["word_region"].item() == pytest.approx(alone["word_region"].item())
    assert both["word_region_box"] > 0
    assert alone["word_region_box"] == 0
    nothing_else = run(trained, batch(whole=range(6), phrases=())).metrics
    assert nothing_else["word_region"] == 0
    assert all(value.isfinite() for value in nothing_else.values())


@pytest.mark.parametrize("phrases", [(), ((0, (1, 2), (LEFT,)),)])
def test_a_step_has_gradients_for_the_whole_head_with_phrases_or_without(phrases):
    trained = task().train()
    run(trained, batch(phrases=phrases)).loss.backward()
    for name, parameter in trained.model.heads["word_region"].named_parameters():
        assert parameter.grad is not None, name


def test_losses_add_up_over_micro_batches():
    trained = task()
    first, second = batch(), batch(texts=3, phrases=((1, (1,), (RIGHT,)),))
    totals = trained.counts(first) + trained.counts(second)
    got = sum(run(trained, data, totals).loss for data in (first, second))
    own = [run(trained, data).metrics for data in (first, second)]
    texts, phrases = (6, 3), (2, 1)
    expected = sum(part["word_region"] * n for part, n in zip(own, texts, strict=True)) / 9
    expected += sum(part["word_region_box"] * n for part, n in zip(own, phrases, strict=True)) / 3
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_are_factors_and_boxes_can_be_left_out():
    plain, data = run(task(), batch()).metrics, batch()
    heavy = run(task(WordRegion(weight=3.0, box_weight=2.0)), data).metrics
    assert heavy["word_region"].item() == pytest.approx(3 * plain["word_region"].item())
    assert heavy["word_region_box"].item() == pytest.approx(4 * plain["word_region_box"].item())
    assert set(run(task(WordRegion(box_weight=0.0)), data).metrics) == {"word_region", "word_region_accuracy"}


def test_what_is_missing_or_wrong_is_named():
    with pytest.raises(UsageError, match=r"no head 'word_region'.*for_word_regions"):
        run(task(own=albef_tiny_conv(40, image_size=32, width=32, embed=16)), batch())
    blind = albef_tiny_conv(40, image_size=32, width=32, embed=16)
    blind.vision.grid = 0
    with pytest.raises(UsageError, match="tokens without places"):
        for_word_regions(blind)
    for name in ("weight", "box_weight"):
        with pytest.raises(UsageError, match=f"WordRegion: {name}=-1"):
            WordRegion(**{name: -1})
    with pytest.raises(UsageError, match="first=0 is below 1"):
        Align(objectives=(Contrast(),), first=0)
