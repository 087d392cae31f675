import pytest
import torch

from tests.models.grounders import WIDTH, small_grounder
from wordregion.models.grounder import PromptOffset

IDS = torch.tensor([[2, 11, 9, 12, 13, 9, 14, 3]])
MASK = torch.ones(1, 8, dtype=torch.bool)


def outputs(model, image, ids=IDS, mask=MASK, image_t=None):
    with torch.no_grad():
        return model.eval()(image, ids, mask, image_t)


def test_images_of_any_size_have_one_output_a_place():
    found = outputs(small_grounder(), torch.randn(1, 3, 50, 100))
    assert found.sizes == ((8, 16), (4, 8), (2, 4), (1, 2), (1, 1))
    assert found.logits.shape == (1, 171, 8)
    assert found.delta.shape == (1, 171, 4)
    assert found.centre.shape == (1, 171)


@pytest.mark.parametrize("fused", [True, False])
def test_padding_of_a_text_changes_nothing_at_its_real_tokens(fused):
    model, image = small_grounder(2, fused), torch.randn(1, 3, 64, 64)
    short = outputs(model, image)
    longer = outputs(model, image, torch.cat([IDS, torch.zeros(1, 4, dtype=torch.long)], 1), torch.arange(12)[None] < 8)
    torch.testing.assert_close(longer.logits[..., :8], short.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(longer.delta, short.delta, atol=1e-5, rtol=1e-5)


def test_many_texts_share_one_encoding_of_their_image():
    model, images = small_grounder().eval(), torch.randn(2, 3, 64, 64)
    calls = []
    model.vision.register_forward_hook(lambda *given: calls.append(1))
    ids = torch.cat([IDS, IDS.flip(1), IDS])
    together = outputs(model, images, ids, MASK.expand(3, 8), torch.tensor([1, 0, 0]))
    assert len(calls) == 1
    for row, image in enumerate((1, 0, 0)):
        alone = outputs(model, images[image : image + 1], ids[row : row + 1])
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-5, rtol=1e-4)


def test_fusion_lets_the_text_change_the_boxes_and_without_it_it_does_not():
    image, other = torch.randn(1, 3, 64, 64), IDS.roll(2, 1)
    for fused in (True, False):
        model = small_grounder(2, fused)
        same = torch.equal(outputs(model, image).delta, outputs(model, image, other).delta)
        assert same is not fused


def test_phrases_do_not_see_each_other_with_a_separator():
    changed = IDS.clone()
    changed[0, 6] = 40  # the last phrase
    for separator, blind in ((9, True), (None, False)):
        model = small_grounder(separator=separator).eval()
        with torch.no_grad():
            before, after = model.encode_text(IDS, MASK), model.encode_text(changed, MASK)
        assert torch.equal(before[0, :6], after[0, :6]) is blind
        assert not torch.equal(before[0, 6:], after[0, 6:])


def test_an_offset_of_zero_is_no_offset():
    model, image = small_grounder(), torch.randn(1, 3, 64, 64)
    before = outputs(model, image)
    model.offset = PromptOffset(WIDTH)
    assert torch.equal(outputs(model, image).logits, before.logits)
    torch.nn.init.normal_(model.offset.weight)
    assert not torch.equal(outputs(model, image).logits, before.logits)


def test_an_untrained_detector_believes_in_little():
    found = outputs(small_grounder(), torch.randn(1, 3, 64, 64))
    assert 0.001 < found.logits.sigmoid().mean() < 0.1


def test_in_bfloat16_the_outputs_are_nearly_the_same_and_gradients_are_finite():
    model, image = small_grounder(2), torch.randn(1, 3, 64, 96)
    exact = outputs(model, image)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(image, IDS, MASK)
    loss = found.logits.float().mean() + found.delta.float().square().mean() + found.centre.float().mean()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        rough = outputs(model, image)
    torch.testing.assert_close(rough.logits.float(), exact.logits, atol=0.1, rtol=0.05)
    torch.testing.assert_close(rough.centre.float(), exact.centre, atol=0.02, rtol=0.1)
