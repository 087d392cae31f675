"""Grad-CAM: which part of the image made a model say that a text fits (ALBEF section 3 and appendix; Selvaraju et al.).

A map is attention (or activation) times the positive part of its gradient, so it shows what raised the score.

Shape letters: I images, P pairs, N image tokens (the first is the summary), Y and X cells of the grid, L text tokens,
H heads, D text width, V image width, E shared width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.regions import check_places

PAIRS_AT_ONCE = 16
"""Pairs whose pass through the image encoder (ViT) is held at a time."""


@dataclass(frozen=True, slots=True)
class MatchAttention:
    """A fusion layer's cross-attention for each pair, and what the match logit owes to it.

    Attributes:
        weight: (P, H, L, N) attention in [0, 1].
        gradient: (P, H, L, N) derivative of the logit of "these match".
        logits: (P, 2) of the match head.
    """

    weight: Float[Tensor, "P H L N"]
    gradient: Float[Tensor, "P H L N"]
    logits: Float[Tensor, "P 2"]


def published_layer(layers: int) -> int:
    """The fusion layer at the paper's depth: the third of six (BERT's layer 8, the first six being the text half)."""
    return layers // 3


def published_image_layer(layers: int) -> int:
    """The layer of a ViT at the paper's depth: layer 8 of twelve."""
    return 2 * layers // 3


def match_attention(
    model: FusionModel,
    image_INV: Float[Tensor, "I N V"],
    hidden_PLD: Float[Tensor, "P L D"],
    mask_PL: Bool[Tensor, "P L"],
    image_index_P: Int[Tensor, "P"] | None = None,
    layer: int | None = None,
) -> MatchAttention:
    """Cross-attention of one fusion layer and the gradient of the match logit on it. Nothing else gets a gradient.

    Args:
        model: in evaluation mode, with a head ``match``.
        image_INV: image tokens.
        hidden_PLD: states of the text half.
        mask_PL: True at real tokens.
        image_index_P: image of each pair; None = pairs are ordered by image, equally many for each.
        layer: fusion layer, counted from 0; None = `published_layer`.

    Raises:
        UsageError: if there is no such layer, no match head, or image tokens have no places.
    """
    check_places(model.vision.grid, "maps")
    if "match" not in model.heads:
        raise UsageError(f"the model has no match head (it has {', '.join(model.heads)}). Use one trained to match.")
    layers = len(model.fusion.layers)
    layer = published_layer(layers) if layer is None else layer
    _check_layer(layer, layers, "fusion")
    with torch.enable_grad():
        # a leaf that wants a gradient, so that frozen models work too
        hidden = hidden_PLD.detach().requires_grad_()
        fused = model.fuse(hidden, mask_PL, image_INV.detach(), image_index_P, attention_layer=layer)
        assert fused.attention is not None
        logits = model.heads["match"](fused.cls)
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), fused.attention)
    return MatchAttention(fused.attention.detach(), gradient, logits.detach())


def check_words_count(model: FusionModel, layer: int | None = None) -> None:
    """Raises UsageError for the last fusion layer: there only the first token's attention reaches the match head."""
    last = len(model.fusion.layers) - 1
    if (published_layer(last + 1) if layer is None else layer) == last:
        remedy = f"Choose a layer below {last}" if last else "Use a model with more fusion layers"
        raise UsageError(f"layer {last} is the last of the fusion encoder: words have no maps there. {remedy}.")


def token_maps(attention: MatchAttention, mask_PL: Bool[Tensor, "P L"]) -> Float[Tensor, "P L Y X"]:
    """A map for each token: attention x positive gradient, mean over the heads; 0 at padding."""
    cam_PHLN = attention.weight[..., 1:] * attention.gradient[..., 1:].clamp(min=0)
    return _as_grid(cam_PHLN.mean(1) * mask_PL[..., None])


def text_maps(
    maps_PLYX: Float[Tensor, "P L Y X"], tokens_PL: Bool[Tensor, "P L"], original_behaviour: bool = False
) -> Float[Tensor, "P Y X"]:
    """One map a pair: the mean over some of its tokens.

    Args:
        maps_PLYX: of `token_maps`.
        tokens_PL: which tokens count: all real ones for a whole text, or those of a phrase.
        original_behaviour: ALBEF divides by the number of positions, padding included.
    """
    total_PYX = (maps_PLYX * tokens_PL[..., None, None]).sum(1)
    count_P = tokens_PL.sum(1).clamp(min=1)
    return total_PYX / (maps_PLYX.shape[1] if original_behaviour else count_P[:, None, None])


def similarity_maps(
    model: FusionModel,
    image_I3HW: Float[Tensor, "I 3 H W"],
    text_PE: Float[Tensor, "P E"],
    image_index_P: Int[Tensor, "P"],
    layer: int | None = None,
) -> Float[Tensor, "P Y X"]:
    """Maps from the contrast alone (ALBEF's ``itc`` mode), for the similarity over the temperature.

    For a ViT: attention of [CLS] to the patches in one layer of the image encoder x its positive gradient, mean over
    the heads. For a backbone without [CLS] (a CNN): Grad-CAM as in Selvaraju et al. on its last features.

    Args:
        model: in evaluation mode.
        image_I3HW: normalised pixels.
        text_PE: unit vectors of the texts.
        image_index_P: image of each pair.
        layer: layer of a ViT, counted from 0; None = `published_image_layer`. Without meaning for a CNN.

    Raises:
        UsageError: if there is no such layer, the backbone has neither a [CLS] nor a mean as its summary, or image
            tokens have no places.
    """
    check_places(model.vision.grid, "maps")
    text = text_PE.detach()
    if model.vision.prefix_tokens:
        parts = torch.arange(len(text), device=text.device).split(PAIRS_AT_ONCE)
        return torch.cat([_vit_maps(model, image_I3HW[image_index_P[rows]], text[rows], layer) for rows in parts])
    with torch.no_grad():
        image_INV = model.encode_image(image_I3HW)
    return _mean_maps(model, image_INV, text, image_index_P)


@torch.enable_grad()
def _vit_maps(model: FusionModel, image_P3HW: Tensor, text_PE: Tensor, layer: int | None) -> Tensor:
    # every pair has a pass of its own: its score must not leave a gradient in another pair's attention
    tokens, weight = _vit_attention(model, image_P3HW, layer)
    (gradient,) = torch.autograd.grad(_similarity(model, tokens, text_PE).sum(), weight)
    prefix = model.vision.prefix_tokens
    return _as_grid((weight.detach()[:, :, 0, prefix:] * gradient[:, :, 0, prefix:].clamp(min=0)).mean(1))


def _mean_maps(model: FusionModel, image_INV: Tensor, text_PE: Tensor, image_index_P: Tensor) -> Tensor:
    # the summary is the mean of the cells, so every cell has the same gradient: a share of the summary's
    with torch.enable_grad():
        summary = image_INV[image_index_P, :1].requires_grad_()
        (gradient,) = torch.autograd.grad(_similarity(model, summary, text_PE).sum(), summary)
    grid_INV = image_INV[:, 1:]
    weight_PV = gradient[:, 0] / grid_INV.shape[1]
    maps_PN = weight_PV.new_empty(len(weight_PV), grid_INV.shape[1])
    for image in image_index_P.unique().tolist():
        rows = image_index_P == image
        maps_PN[rows] = weight_PV[rows] @ grid_INV[image].T
    return _as_grid(maps_PN.clamp(min=0))


def _similarity(model: FusionModel, image_PNV: Tensor, text_PE: Tensor) -> Tensor:
    return (model.project_image(image_PNV) * text_PE).sum(-1) / model.temperature.detach()


def _vit_attention(model: FusionModel, image_I3HW: Tensor, layer: int | None) -> tuple[Tensor, Tensor]:
    """Image tokens, and the (I, H, N, N) self-attention of one layer, with the graph that leads from it to them."""
    blocks = model.vision.blocks()
    layer = published_image_layer(len(blocks)) if layer is None else layer
    _check_layer(layer, len(blocks), "image")
    attention: Any = getattr(blocks[layer], "attn", None)
    if not (hasattr(attention, "attn_drop") and hasattr(attention, "fused_attn")):
        raise UsageError("maps from the contrast need a ViT of timm or a CNN as image encoder. Use the match's maps.")
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        weight = inputs[0].requires_grad_() if not inputs[0].requires_grad else inputs[0]
        kept.append(weight)
        return (weight,)

    fused, attention.fused_attn = attention.fused_attn, False  # the fused kernel never shows its weights
    handle = attention.attn_drop.register_forward_pre_hook(keep)
    try:
        tokens = model.encode_image(image_I3HW)
    finally:
        handle.remove()
        attention.fused_attn = fused
    return tokens, kept[0]


def _as_grid(cells: Float[Tensor, "*rows YX"]) -> Float[Tensor, "*rows Y X"]:
    side = round(cells.shape[-1] ** 0.5)
    return cells.unflatten(-1, (side, side))


def _check_layer(layer: int, layers: int, what: str) -> None:
    if not 0 <= layer < layers:
        raise UsageError(f"layer {layer}: the {what} encoder has layers 0 to {layers - 1}. Choose one of them.")


def resize(maps_PYX: Float[Tensor, "P Y X"], height: int, width: int) -> Float[Tensor, "P height width"]:
    """Maps at the size of a picture, bicubic (ALBEF's evaluation); may dip below 0 beside a peak."""
    return F.interpolate(maps_PYX[:, None], size=(height, width), mode="bicubic")[:, 0]
