import pytest
import torch

from wordregion.errors import UsageError
from wordregion.models.zoo import albef_tiny, for_boxes, xvlm_tiny
from wordregion.objectives import Box, Contrast, MaskedWords, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align

LEFT, RIGHT, WHOLE = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), None
EVERYTHING = (Contrast(same_image_positives=True), Match(), MaskedWords(), Box())


def task(objectives=EVERYTHING, model=None, **settings):
    torch.manual_seed(0)
    model = model or xvlm_tiny(40, image_size=32, width=64, fusion_layers=1)
    return Align(objectives, **{"momentum": None, "queue_size": 0, "distill": 0.0, **settings}).build(model)


def vit():
    return for_boxes(albef_tiny(40, 32, width=32, vision_layers=2, text_layers=1, fusion_layers=1, embed=16))


def batch(*texts):
    """Texts as (image, box or None for the whole image, seed of the words)."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, 40, (50, 6), generator=generator)
    ids = torch.stack([words[seed] for _, _, seed in texts])
    labels, masked = torch.full_like(ids, -100), ids.clone()
    labels[:, 3], masked[:, 3] = ids[:, 3], 4
    images = max(image for image, _, _ in texts) + 1
    regions = [row for row, (_, box, _) in enumerate(texts) if box]
    return Batch(
        image=torch.randn(images, 3, 32, 32, generator=generator),
        image_key=torch.arange(images),
        token_ids=ids,
        token_mask=torch.ones_like(ids, dtype=torch.bool),
        text_image=torch.tensor([image for image, _, _ in texts]),
        masked_ids=masked,
        labels=labels,
        grounding_text=torch.tensor(regions, dtype=torch.long),
        grounding_tokens=torch.ones(len(regions), 6, dtype=torch.bool),
        box=torch.tensor([texts[row][1] for row in regions]).view(-1, 4),
        box_grounding=torch.arange(len(regions)),
    )


def run(trained, data):
    output = trained(data, trained.counts(data))
    output.loss.backward()
    trained.after_step()
    return output


MIXED = ((0, WHOLE, 0), (0, LEFT, 1), (0, RIGHT, 2), (1, WHOLE, 3), (1, LEFT, 4))


@pytest.mark.parametrize("model", [None, vit])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_texts_of_images_and_regions_train_everything(model, momentum):
    trained = task(model=model and model(), momentum=momentum)
    output = run(trained, batch(*MIXED))
    assert torch.isfinite(output.loss)
    assert {"contrast", "match", "masked_words", "box_l1", "box_giou"} < set(output.metrics)
    without = [name for name, p in trained.model.named_parameters() if p.grad is None]
    assert [name for name in without if not name.startswith("vision.body.head.")] == []  # ConvNeXt's classifier


def test_the_images_are_encoded_once_for_all_their_regions(monkeypatch):
    trained = task()
    calls = []
    encode = trained.model.encode_image
    monkeypatch.setattr(trained.model, "encode_image", lambda image: calls.append(len(image)) or encode(image))
    run(trained, batch(*MIXED))
    assert calls == [2]


@pytest.mark.parametrize(
    "texts",
    [
        ((0, WHOLE, 0), (1, WHOLE, 1)),  # no region at all
        ((0, LEFT, 0), (0, LEFT, 1)),  # nothing that is no positive
        ((0, LEFT, 0), (0, RIGHT, 0), (0, WHOLE, 0)),  # one text
        ((0, LEFT, 0),),
        ((0, (0.5, 0.5, 0.5001, 0.5001), 0), (1, (0.0, 0.0, 1.0, 1e-6), 1)),  # of a pixel, and less
    ],
)
@pytest.mark.parametrize("objectives", [EVERYTHING, (Box(),)])
def test_degenerate_batches_train_without_nan(texts, objectives):
    trained = task(objectives).eval()
    output = run(trained, batch(*texts))
    assert torch.isfinite(output.loss)
    gradients = [p.grad for p in trained.model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_only_texts_of_regions_have_a_box_loss_over_their_number():
    trained = task((Box(),)).eval()
    alone = trained(data := batch((0, LEFT, 1), (1, RIGHT, 2)), trained.counts(data)).metrics
    more = batch((0, LEFT, 1), (1, RIGHT, 2), (0, WHOLE, 3), (1, WHOLE, 4))
    more.image = data.image
    among = trained(more, trained.counts(more)).metrics
    for name in ("box_l1", "box_giou", "box_accuracy"):
        torch.testing.assert_close(alone[name], among[name])


def scene_of(data):
    trained = task()
    return trained._scene(data, trained.counts(data))


def test_the_same_words_or_the_same_box_are_no_negatives():
    same = scene_of(batch((0, LEFT, 1), (0, RIGHT, 1), (0, LEFT, 2), (0, RIGHT, 3), (1, LEFT, 1))).same
    expected = torch.eye(5, dtype=torch.bool)
    for a, b in ((0, 1), (0, 2), (1, 3)):  # words; box; box. The other image has the same words and box
        expected[a, b] = expected[b, a] = True
    assert torch.equal(same, expected)


def test_padding_does_not_change_the_identity_of_words():
    data = batch((0, LEFT, 1), (0, RIGHT, 1))
    data.token_ids[:, 4:] = torch.tensor([[0, 0], [7, 9]])
    data.token_mask[:, 4:] = False
    assert scene_of(data).same.all()


def test_a_negative_region_brings_its_own_mask(monkeypatch):
    trained = task((Match(draw=lambda weights: weights.argmax(1)),)).eval()
    seen = {}
    fuse = trained.model.fuse
    monkeypatch.setattr(
        trained.model,
        "fuse",
        lambda text, mask, tokens, index, image_mask_IN=None, shared=None: (
            seen.update(index=index, mask=image_mask_IN) or fuse(text, mask, tokens, index, None, image_mask_IN, shared)
        ),
    )
    data = batch((0, LEFT, 1), (0, RIGHT, 2))
    trained(data, trained.counts(data))
    assert seen["index"].tolist() == [1, 2, 2, 1, 1, 2]  # own, other image, other text; row 0 is the whole image
    assert torch.equal(seen["mask"][1, 1:], ~seen["mask"][2, 1:])
    assert seen["mask"][0].all()


def test_without_a_teacher_the_keys_learn_too():
    trained = task((Contrast(),)).eval()
    data = batch((0, WHOLE, 0), (1, WHOLE, 1))
    loss = trained(data, trained.counts(data)).loss
    image = trained.model.project_image(trained.model.encode_image(data.image))
    text = trained.model.project_text(trained.model.encode_text(data.token_ids, data.token_mask), data.token_mask)
    logits = image @ text.T / trained.model.temperature
    own = torch.arange(2)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss, trained.model.text_proj.weight)
    (wanted,) = torch.autograd.grad(expected, trained.model.text_proj.weight)
    torch.testing.assert_close(found, wanted)


def test_regions_that_are_apart_are_compared_with_each_other_only():
    trained = task((Contrast(same_image_positives=True, region_weight=0.25),)).eval()
    data = batch(*MIXED, (1, RIGHT, 0))  # a region of another image with the words of a caption
    together = trained(data, trained.counts(data)).loss
    plain = task((Contrast(same_image_positives=True),), trained.model).eval()
    apart = []
    for rows in ([0, 3], [1, 2, 4, 5]):
        part = batch(*((*MIXED, (1, RIGHT, 0))[row] for row in rows))
        part.image = data.image
        apart.append(plain(part, plain.counts(part)).loss)
    torch.testing.assert_close(together, (2 * apart[0] + 0.25 * 4 * apart[1]) / (2 + 0.25 * 4))


def test_a_caption_is_no_positive_of_a_region_that_is_apart():
    trained = task((Contrast(same_image_positives=True, region_weight=1.0),)).eval()
    data = batch((0, WHOLE, 0), (0, LEFT, 0), (1, WHOLE, 1), (1, LEFT, 2))  # the caption's words, of a region
    assert trained(data, trained.counts(data)).loss < 100


@pytest.mark.parametrize("texts", [((0, WHOLE, 0), (1, WHOLE, 1)), ((0, LEFT, 0), (0, RIGHT, 1)), ((0, LEFT, 0),)])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_regions_that_are_apart_may_be_missing_or_alone(texts, weight):
    trained = task((Contrast(region_weight=weight),)).eval()
    assert torch.isfinite(run(trained, batch(*texts)).loss)


def test_negatives_of_a_region_that_is_apart_are_regions_and_of_an_image_images():
    allowed = []
    trained = task((Match(region_weight=1.0, draw=lambda weights: allowed.append(weights > 0) or weights.argmax(1)),))
    data = batch(*MIXED)
    pairs = trained.settings.objectives[0].pairs(scene_of(data))
    region = torch.tensor([box is not None for _, box, _ in MIXED])
    same_kind = region[:, None] == region[None, :]
    expected = same_kind & ~torch.eye(len(MIXED), dtype=torch.bool)
    assert len(allowed) == 2
    assert all(torch.equal(found, expected) for found in allowed)
    own, bad_image, own_again = pairs.image.chunk(3)
    assert torch.equal(bad_image >= 2, region)  # two images, then their regions
    assert torch.equal(region[pairs.row.chunk(3)[2]], region)
    assert torch.equal(own, own_again)


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_matching_of_regions_that_are_apart_weighs_less(weight):
    match = Match(region_weight=weight, draw=lambda weights: weights.argmax(1))
    trained = task((match,)).eval()
    data = batch(*MIXED, (1, RIGHT, 0))
    scene = trained._scene(data, trained.counts(data))
    pairs = match.pairs(scene)
    fused = trained.model.fuse(
        scene.text[pairs.row], scene.text_mask[pairs.row], scene.image, pairs.image, None, scene.image_mask
    )
    labels = torch.zeros(18, dtype=torch.long)
    labels[:6] = 1
    losses = torch.nn.functional.cross_entropy(trained.model.heads["match"](fused.cls), labels, reduction="none")
    per_text = losses.view(3, 6).sum(0)
    captions, regions = per_text[[0, 3]].sum(), per_text[[1, 2, 4, 5]].sum()
    loss = trained(data, trained.counts(data)).loss
    torch.testing.assert_close(loss, (captions + weight * regions) / (3 * (2 + weight * 4)))


@pytest.mark.parametrize(
    "texts",
    [
        ((0, WHOLE, 0), (1, WHOLE, 1)),
        ((0, LEFT, 0), (0, RIGHT, 1)),
        ((0, LEFT, 0),),
        ((0, WHOLE, 0), (0, LEFT, 1)),  # one of each kind: no negative
    ],
)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_matching_of_regions_that_are_apart_may_be_without_negatives(texts, weight):
    trained = task((Match(region_weight=weight),)).eval()
    assert torch.isfinite(run(trained, batch(*texts)).loss)


def test_bad_settings_say_what_to_change():
    with pytest.raises(UsageError, match="the queue doesn't know its regions"):
        Align((Contrast(region_weight=1.0),), queue_size=8)
    with pytest.raises(UsageError, match="region_weight=-1 is below 0"):
        Contrast(region_weight=-1)
    with pytest.raises(UsageError, match="Match: region_weight=-1 is below 0"):
        Match(region_weight=-1)
    with pytest.raises(UsageError, match="no teacher to distil"):
        Align(momentum=None)
    trained = task((Box(),), albef_tiny(40, 32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16))
    with pytest.raises(UsageError, match="no head 'box'"):
        run(trained, batch(*MIXED))
    frozen = vit()
    frozen.vision.requires_grad_(False)
    with pytest.raises(UsageError, match="a ViT needs its last layers"):
        run(task(model=frozen, keep_image_tokens=True), batch(*MIXED))


def test_kept_tokens_of_a_cnn_give_the_same_regions():
    results = []
    for keep in (False, True):
        trained = task(keep_image_tokens=keep).eval()
        trained.model.vision.requires_grad_(False)
        torch.manual_seed(0)
        results.append(run(trained, batch(*MIXED)).loss)
    torch.testing.assert_close(*results)


def test_the_box_of_a_text_with_several_boxes_holds_them_all_and_phrases_are_no_regions():
    data = batch((0, LEFT, 0), (1, WHOLE, 1))
    data.box = torch.tensor([(0.1, 0.2, 0.3, 0.4), (0.5, 0.1, 0.6, 0.3), (0.0, 0.0, 0.1, 0.1)])
    data.box_grounding = torch.tensor([0, 0, 1])
    data.grounding_text = torch.tensor([0, 1])
    data.grounding_tokens = torch.tensor([[True] * 6, [False, True, True, False, False, False]])
    regions = data.regions()
    assert regions.text.tolist() == [0]
    assert regions.image.tolist() == [0]
    torch.testing.assert_close(regions.box, torch.tensor([(0.1, 0.1, 0.6, 0.4)]))
