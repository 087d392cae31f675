"""Small outputs on top of the fusion encoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MatchHead(nn.Linear):
    """Does the text fit the image? (P, D) -> (P, 2) logits; class 1 = they match (ALBEF's ITM head)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class AssignHead(nn.Linear):
    """Which of two images does the text belong to? (P, D) -> (P, 3) logits: first, second, neither (ALBEF's code)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3)


class ClassHead(nn.Module):
    """A class of the pair: (P, D) -> (P, classes) logits (ALBEF's head for entailment and NLVR2).

    Args:
        width: D.
        classes: number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, cls_PD: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        """Linear, ReLU, linear."""
        return self.out(F.relu(self.hidden(cls_PD)))


class MlpHead(nn.Module):
    """Outputs of the pair: (P, D) -> (P, outputs) (X-VLM's head, for matching and for NLVR2: 2 classes).

    Args:
        width: D.
        outputs: number of logits.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.out = nn.Linear(2 * width, outputs)

    def forward(self, cls_PD: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        """Linear, LayerNorm, GELU, linear."""
        return self.out(F.gelu(self.norm(self.hidden(cls_PD))))


class BoxHead(nn.Module):
    """The box that a text describes: (P, D) -> (P, 4) centre x, centre y, width, height in (0, 1) (X-VLM section 3.2).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = MlpHead(width, 4)

    def forward(self, cls_PD: Float[Tensor, "P D"]) -> Float[Tensor, "P 4"]:
        """An `MlpHead`, then the logistic function."""
        return self.mlp(cls_PD).float().sigmoid()  # in bf16 a side would have 256 places


class MaskHead(nn.Module):
    """BERT's masked-word head: dense, GELU, LayerNorm, then the word embeddings as decoder.

    Args:
        embeddings: the (vocabulary, D) table to which the decoder is tied.
        eps: of the LayerNorm.
    """

    def __init__(self, embeddings: nn.Embedding, eps: float = 1e-12) -> None:
        super().__init__()
        vocabulary, width = embeddings.weight.shape
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)
        self.decoder = nn.Linear(width, vocabulary)
        self.decoder.weight = embeddings.weight
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """(..., D) states -> (..., vocabulary) logits."""
        return self.decoder(self.norm(F.gelu(self.dense(hidden))))


class ReplacedHead(nn.Module):
    """Was a word replaced? Dense, GELU, one logit (ELECTRA's discriminator head).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        for layer in (self.dense, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows"]:
        """(..., D) states -> (...) logits; positive = replaced."""
        return self.out(F.gelu(self.dense(hidden))).squeeze(-1)


def temperature(value: float = 0.07) -> nn.Parameter:
    """A learnable softmax temperature, shape (1,) since FSDP2 shards no scalars (CLIP, ALBEF)."""
    return nn.Parameter(torch.tensor([value]))
