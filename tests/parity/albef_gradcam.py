"""Every array of the group ``gradcam/`` of ALBEF's reference numbers, computed with this library.

``itm_blockN`` counts BERT's layers (6 of them are the text half), ``itc_blockN`` those of the image encoder.
"""

import re
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from tests.parity.golden import Golden, images
from tests.parity.released import released_model
from wordregion.models.gradcam import match_attention, similarity_maps, text_maps, token_maps

TEXT_LAYERS = 6
SINGLE_BLOCK = 8  # of the arrays that do not say it


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    model = released_model(golden, "retrieval", "albef/retrieval")
    rows = golden.inputs["captions_ids"][:2]
    ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    pixels = images((4, 3, 384, 384))
    both = torch.arange(2)
    with torch.no_grad():
        tokens, hidden = model.encode_image(pixels[:2]), model.encode_text(ids, ids != 0)
    mask = ids != 0

    @cache
    def attention(block: int, count: int) -> tuple:
        found = match_attention(model, tokens[:count], hidden[:count], mask[:count], both[:count], block - TEXT_LAYERS)
        return found, token_maps(found, mask[:count])

    for name in names:
        part = name.removeprefix("gradcam/")
        block = int(found[1]) if (found := re.search(r"block(\d+)", part)) else SINGLE_BLOCK
        if re.fullmatch(r"itm_block\d+", part):
            yield name, text_maps(attention(block, 2)[1], mask, original_behaviour=True)
        elif re.fullmatch(r"itc_block\d+", part):
            features = model.project_text(hidden, mask)
            yield name, similarity_maps(model, pixels[:2], features, both, block)
        elif re.fullmatch(r"itm_logits_b1(_block\d+)?", part):
            yield name, attention(block, 1)[0].logits
        elif re.fullmatch(r"attn_map_b1(_block\d+)?", part):
            yield name, attention(block, 1)[0].weight
        elif re.fullmatch(r"attn_grad_b1(_block\d+)?", part):
            yield name, attention(block, 1)[0].gradient
        elif re.fullmatch(r"notebook_per_token(_block\d+)?", part):
            yield name, attention(block, 1)[1][0]
