"""CPU-seconds a re-ranked pair, against computing an image's keys and values again for every pair.

    python benchmarks/rerank.py                 # ALBEF-base, 384 px, k = 16, 64, 128

Random weights. The rival, kept here, is how the original program re-ranks an image's k texts: the image's tokens are
repeated for each text, keys and values computed from every copy, texts padded to 30 tokens, attention by matrix product
and softmax. Two sets of texts are measured: all of 30 tokens (the rival's padding is no waste), and lengths as captions
have them (`--mean` and `--spread` of a normal distribution, cut to 6..30).
"""

import argparse
import statistics
from functools import partial

import torch
from common import peak_gigabytes, timed
from torch import Tensor

from wordregion.evaluate.retrieval import score_pairs
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_base


def original_scores(model: FusionModel, image_1NV: Tensor, text_PLD: Tensor, mask_PL: Tensor) -> Tensor:
    """Match logits with everything computed for each pair."""
    pairs, length, width = text_PLD.shape
    image = image_1NV.repeat(pairs, 1, 1)
    hidden = text_PLD
    hide = (~mask_PL[:, None, None, :]).float() * -10000.0
    for layer in model.fusion.layers:
        own, cross, heads = layer.attention, layer.cross, layer.attention.heads

        def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float, heads: int = heads) -> Tensor:
            q, k, v = (x.view(pairs, x.shape[1], heads, width // heads).transpose(1, 2) for x in (query, key, value))
            weights = ((q @ k.transpose(-1, -2)) / (width // heads) ** 0.5 + bias).softmax(-1)
            return (weights @ v).transpose(1, 2).reshape(pairs, length, width)

        hidden = own.norm(hidden + own.out(attend(*own.qkv(hidden).chunk(3, -1), hide)))
        hidden = cross.norm(hidden + cross.out(attend(cross.q(hidden), *cross.kv(image).chunk(2, -1), 0.0)))
        hidden = layer.feed_forward(hidden)
    return model.heads["match"](hidden[:, 0])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--pixels", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mean", type=float, default=14.0, help="tokens of a caption, [CLS] included")
    parser.add_argument("--spread", type=float, default=4.5, help="its standard deviation")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    model = albef_base(settings.pixels, vision_weights=False, text_weights=False).eval()
    image = model.encode_image(torch.randn(1, 3, settings.pixels, settings.pixels))
    print("texts         k   ours s/pair   original's s/pair   CPU ratio   wall ratio   largest difference")
    for kind in ("30 tokens", "captions"):
        for k in settings.k:
            length = torch.full((k,), 30)
            if kind == "captions":
                length = (torch.randn(k) * settings.spread + settings.mean).round().clamp(6, 30).long()
            mask = torch.arange(30) < length[:, None]
            hidden = model.encode_text(torch.randint(1000, 30000, (k, 30)), mask)
            first, texts = torch.zeros(k, dtype=torch.long), torch.arange(k)
            ways = {
                "ours": partial(score_pairs, model, image, hidden, mask, first, texts),
                "original": partial(original_scores, model, image, hidden, mask),
            }
            difference = (ways["ours"]() - ways["original"]()).abs().max().item()
            seen: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for _ in range(settings.repeats):  # by turns
                for name, way in ways.items():
                    seen[name].append(timed(way))
            cpu = {n: statistics.median(t["user"] + t["system"] for t in times) / k for n, times in seen.items()}
            wall = {n: statistics.median(t["wall"] for t in times) / k for n, times in seen.items()}
            print(
                f"{kind:9s} {k:5d} {cpu['ours']:13.4f} {cpu['original']:19.4f} {cpu['original'] / cpu['ours']:10.2f}x"
                f" {wall['original'] / wall['ours']:11.2f}x {difference:20.1e}",
                flush=True,
            )
    print(f"peak memory {peak_gigabytes():.2f} GB")


if __name__ == "__main__":
    main()
