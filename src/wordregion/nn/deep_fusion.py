"""Deep fusion: image and text change each other at every layer of a detector (GLIP, section 3.2).

The original projects every place of the pyramid three times to the attention's width (queries, values, outputs). Here
those matrices are moved to the side of the text, which is far shorter: ``(W v) . k = v . (W^T k)``, and the same for
values and outputs. The numbers are the same, most of the work is gone.

Shape letters: T pairs of an image and a text, N places of the pyramid, C image width, L text tokens, D text width,
H heads, K head width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wordregion.nn.fusion import FeedForward, SelfAttention

CLAMP = 50_000.0
"""Bound of scores: they stay finite in half precision (GLIP's code)."""


class DeepFusion(nn.Module):
    """Attention in both directions with one matrix of scores; each side then adds what it saw of the other.

    The residual is the normalised input, as in GLIP's code: ``LN(x) + gamma * seen``.

    Args:
        image_width: C.
        text_width: D.
        width: of all heads together.
        heads: attention heads; divides `width`.
        dropout: rate in [0, 1) on attention weights.
        start: initial value of gamma, the learned factor of each channel; 1 / layers as published.
    """

    def __init__(
        self,
        image_width: int = 256,
        text_width: int = 768,
        width: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
        start: float = 1 / 6,
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.image_norm = nn.LayerNorm(image_width)
        self.text_norm = nn.LayerNorm(text_width)
        self.image_query = nn.Linear(image_width, width)
        self.text_key = nn.Linear(text_width, width)
        self.image_value = nn.Linear(image_width, width)
        self.text_value = nn.Linear(text_width, width)
        self.image_out = nn.Linear(width, image_width)
        self.text_out = nn.Linear(width, text_width)
        self.image_gamma = nn.Parameter(torch.full((image_width,), start))
        self.text_gamma = nn.Parameter(torch.full((text_width,), start))
        for part in self.children():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(
        self, image_TNC: Float[Tensor, "T N C"], text_TLD: Float[Tensor, "T L D"], mask_TL: Bool[Tensor, "T L"]
    ) -> tuple[Float[Tensor, "T N C"], Float[Tensor, "T L D"]]:
        """Both sides, changed.

        Args:
            image_TNC: all levels of the pyramid, one after the other.
            text_TLD: states.
            mask_TL: True at real tokens; an image sees only those.
        """
        image_TNC, text_TLD = self.image_norm(image_TNC), self.text_norm(text_TLD)
        image_seen, text_seen = self.attend(image_TNC, text_TLD, mask_TL)
        return image_TNC + self.image_gamma * image_seen, text_TLD + self.text_gamma * text_seen

    def attend(
        self, image_TNC: Float[Tensor, "T N C"], text_TLD: Float[Tensor, "T L D"], mask_TL: Bool[Tensor, "T L"]
    ) -> tuple[Float[Tensor, "T N C"], Float[Tensor, "T L D"]]:
        """What each place sees of the text, and each token (also at padding) of the image."""
        T, L, _ = text_TLD.shape
        H, C = self.heads, image_TNC.shape[2]
        K = self.text_key.out_features // H
        key_TLHK = self.text_key(text_TLD).view(T, L, H, K) * K**-0.5
        value_TLHK = self.text_value(text_TLD).view(T, L, H, K)
        query_HKC = self.image_query.weight.view(H, K, C)
        score_1HL = torch.einsum("tlhk,hk->thl", key_TLHK, self.image_query.bias.view(H, K)).flatten(1)[:, None]
        image_key_TCM = torch.einsum("tlhk,hkc->tchl", key_TLHK, query_HKC).flatten(2)  # M = H x L
        image_value_TMC = torch.einsum("tlhk,chk->thlc", value_TLHK, self.image_out.weight.view(C, H, K)).flatten(1, 2)

        score_TNM = torch.baddbmm(score_1HL, image_TNC, image_key_TCM).clamp(-CLAMP, CLAMP)
        padding_TL = torch.zeros_like(mask_TL, dtype=score_TNM.dtype).masked_fill(~mask_TL, -torch.inf)
        to_text = (score_TNM.unflatten(2, (H, L)) + padding_TL[:, None, None]).softmax(-1).flatten(2)
        to_text = F.dropout(to_text, self.dropout, self.training)
        image_seen_TNC = torch.baddbmm(self.image_out.bias, to_text, image_value_TMC)

        to_image = F.dropout(score_TNM.softmax(1), self.dropout, self.training)
        seen_THLC = (to_image.transpose(1, 2) @ image_TNC).unflatten(1, (H, L))
        value_HKC, bias_HK = self.image_value.weight.view(H, K, C), self.image_value.bias.view(H, K)
        share_THL = to_image.sum(1).unflatten(1, (H, L))  # 1, but for dropout
        seen_TLHK = torch.einsum("thlc,hkc->tlhk", seen_THLC, value_HKC) + torch.einsum(
            "thl,hk->tlhk", share_THL, bias_HK
        )
        return image_seen_TNC, self.text_out(seen_TLHK.flatten(2))


class TextBlock(nn.Module):
    """One BERT layer.

    Args:
        width: D.
        heads: attention heads; divides `width`.
        inner: width of the feed-forward part.
        dropout: rate in [0, 1) on attention weights and outputs.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, 1e-12, dropout)
        self.feed_forward = FeedForward(width, inner, 1e-12, dropout)

    def forward(self, x_TLD: Float[Tensor, "T L D"], mask: Bool[Tensor, "T 1 #L L"]) -> Float[Tensor, "T L D"]:
        """States after self-attention to the tokens where `mask` is True, and the feed-forward part."""
        return self.feed_forward(self.attention.attend(x_TLD, *self.attention.project(x_TLD), mask))
