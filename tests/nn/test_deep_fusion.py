import torch

from wordregion.nn.deep_fusion import DeepFusion


def straightforward(fusion, image, text, mask):
    """As GLIP's code does it: every place is projected."""
    H, T = fusion.heads, len(image)

    def split(x):
        return x.view(T, x.shape[1], H, -1).transpose(1, 2)

    query, key = split(fusion.image_query(image)), split(fusion.text_key(text))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    to_text = scores.masked_fill(~mask[:, None, None], -9e15).softmax(-1)
    to_image = scores.transpose(-1, -2).softmax(-1)
    image_seen = (to_text @ split(fusion.text_value(text))).transpose(1, 2).flatten(2)
    text_seen = (to_image @ split(fusion.image_value(image))).transpose(1, 2).flatten(2)
    return fusion.image_out(image_seen), fusion.text_out(text_seen)


def test_projecting_the_text_alone_gives_the_same_numbers_and_gradients():
    torch.manual_seed(0)
    fusion = DeepFusion(image_width=12, text_width=20, width=48, heads=4).double().eval()
    for part in fusion.parameters():
        torch.nn.init.normal_(part, std=0.3)
    image, text = torch.randn(2, 30, 12).double(), torch.randn(2, 7, 20).double()
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    gradients = []
    for attend in (fusion.attend, lambda *given: straightforward(fusion, *given)):
        fusion.zero_grad()
        seen = attend(image, text, mask)
        (seen[0].square().sum() + seen[1].square().sum()).backward()
        gradients.append((*seen, *(p.grad for p in fusion.parameters() if p.grad is not None)))
    assert len(gradients[0]) == 2 + 2 * 6
    for own, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs)


def test_dropped_attention_reaches_the_biases_of_values_too():
    """With attention dropped, what is left of a value's bias is the sum of the weights left."""
    torch.manual_seed(0)
    fusion = DeepFusion(8, 8, 16, 2, dropout=1 - 1e-9).train()
    with torch.no_grad():
        fusion.image_value.bias.fill_(1.0)
        fusion.text_out.bias.zero_()
    _, text_seen = fusion.attend(torch.randn(1, 9, 8), torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    assert text_seen.abs().max() == 0
