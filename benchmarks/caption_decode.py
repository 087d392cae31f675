"""Captions with a cache of keys and values against without: seconds to write 20 tokens behind the prompt.

Without a cache every token runs through all layers again, and the images' keys and values are computed anew. The end
token is forbidden, so that every caption has the full length; both ways write the same words.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from wordregion.models.caption import CaptionWriter, caption_states, word_head
from wordregion.models.fusion import FusionModel
from wordregion.models.generate import Limits, NextToken, beam_search, write
from wordregion.models.zoo import for_captioning, xvlm_base
from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.heads import MaskHead
from wordregion.nn.text import TextEncoder, bert_config
from wordregion.nn.vision import TimmVision

PROMPT, END = (101, 1037, 3861, 1997), 102


class Forgetful:
    """A `CaptionWriter` that remembers tokens and nothing else."""

    def __init__(self, model: FusionModel, image_INV: Tensor) -> None:
        self.model, self.image, self.ids = model, image_INV, torch.zeros(0, 0, dtype=torch.long)

    def __call__(self, new_CM: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, new_CM], 1) if len(self.ids) else new_CM
        return word_head(self.model)(caption_states(self.model, self.ids, self.image)[:, -1]).float()

    def keep(self, rows_C: Tensor) -> None:
        self.ids = self.ids[rows_C]


def base_without_images() -> FusionModel:
    """BERT-base's 6 + 6 layers over Swin-B's width (1,024); a tiny image encoder stands in, its tokens are drawn."""
    vision = TimmVision("vit_tiny_patch16_224", 32, settings={"embed_dim": 1024, "depth": 1, "num_heads": 16})
    text = TextEncoder(bert_config(30522, 768, 6, 12))
    return FusionModel(vision, text, FusionEncoder(768, 1024, 6, 12), {"mask": MaskHead(text.word_embeddings)})


def main() -> None:
    parser = argparse.ArgumentParser(prog="caption_decode", description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=20, help="written behind the prompt")
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="build xvlm_base with its Swin-B (not timed)")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = for_captioning(xvlm_base(384, False, False)) if given.whole else base_without_images()
    model.eval()
    image = torch.randn(given.images, 145, model.vision.width)
    print(f"{given.images} images of 144 tokens, {given.tokens} tokens, {torch.get_num_threads()} threads")
    limit = len(PROMPT) + given.tokens
    limits = Limits(END, limit, limit)
    for beams in given.beams:

        def decode(writer: NextToken, beams: int = beams) -> list[list[int]]:
            prompt = torch.tensor(PROMPT)
            if beams == 1:
                return write(writer, prompt, given.images, limits).ids
            return beam_search(writer, prompt, given.images, beams, limits).ids

        seconds: dict[type, list[float]] = {CaptionWriter: [], Forgetful: []}
        texts = {}
        for _ in range(given.repeats):  # in turns, so that a loaded machine slows both
            for kind, times in seconds.items():
                start = time.perf_counter()
                texts[kind] = decode(kind(model, image))
                times.append(time.perf_counter() - start)
        with_cache, without = (statistics.median(times) for times in seconds.values())
        same = texts[CaptionWriter] == texts[Forgetful]
        way = "greedy" if beams == 1 else f"{beams} beams"
        print(
            f"{way:8} with cache {with_cache:6.2f} s   without {without:6.2f} s   {without / with_cache:4.1f} x   "
            f"same words: {same}"
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
