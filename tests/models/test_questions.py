import torch

from wordregion.models.questions import encode_questions
from wordregion.models.store import load_model, save_model
from wordregion.models.zoo import albef_tiny, for_questions
from wordregion.schema import Batch


def small():
    torch.manual_seed(0)
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=2, embed=16)
    return for_questions(model, layers=1).eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
    return Batch(
        image=torch.randn(2, 3, 32, 32, generator=generator),
        image_key=torch.arange(2),
        token_ids=torch.randint(5, 40, (3, 5), generator=generator) * mask,
        token_mask=mask,
        text_image=torch.tensor([1, 0, 1]),
    )


@torch.no_grad()
def test_each_question_is_fused_with_its_own_image():
    model, data = small(), batch()
    image = model.encode_image(data.image)
    states = encode_questions(model, data, image)
    for row in range(3):
        own = slice(row, row + 1)
        text = model.encode_text(data.token_ids[own], data.token_mask[own])
        alone = model.fuse(text, data.token_mask[own], image[data.text_image[own]]).hidden
        real = data.token_mask[row]
        torch.testing.assert_close(states[row][real], alone[0][real], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_model_with_decoder_is_saved_and_loaded(tmp_path):
    model, data = small(), batch()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert set(again.state_dict()) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    decoder = again.heads["answer"]
    assert decoder.head.decoder.weight is decoder.embeddings.word_embeddings.weight
    ids, question = (
        torch.tensor([[2, 7], [2, 8], [2, 9]]),
        encode_questions(model, data, model.encode_image(data.image)),
    )
    both = [m.heads["answer"](ids, ids > 0, question, data.token_mask) for m in (model, again)]
    assert torch.equal(*both)
