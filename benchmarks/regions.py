"""Seconds a pair of X-VLM's region step: one encoding of each image for all its regions, against one for each text.

    python benchmarks/regions.py                  # Swin-B at 224 px, 4 images with a caption and 4 regions each, fp32

Both ways take a whole training step (all objectives, AdamW) on the same model, images, texts and boxes, in turns; the
rival gives every text an image of its own, a copy. Their losses on the first step are printed.
"""

import argparse
import statistics
from dataclasses import replace

import torch
from common import counted_flops, peak_gigabytes, timed
from train_step import make_batch

from wordregion.engine.optim import build as build_optimiser
from wordregion.models.zoo import xvlm_base
from wordregion.objectives import Box, Contrast, MaskedWords, Match
from wordregion.recipes.recipe import AdamW
from wordregion.schema import Batch
from wordregion.tasks.align import Align


def make_regions(images: int, regions: int, tokens: int, pixels: int) -> Batch:
    """Each image with a caption, then `regions` texts of random boxes."""
    each = 1 + regions
    texts = make_batch(images * each, tokens, 8)
    first = torch.rand(images * regions, 2) * 0.5
    box = torch.cat([first, first + 0.1 + torch.rand(images * regions, 2) * 0.4], 1)
    of_region = (torch.arange(images * each) % each > 0).nonzero().flatten()
    return replace(
        texts,
        image=torch.randn(images, 3, pixels, pixels),
        image_key=torch.arange(images),
        text_image=torch.arange(images).repeat_interleave(each),
        words=texts.token_mask & (torch.arange(tokens) > 0),
        grounding_text=of_region,
        grounding_tokens=texts.token_mask[of_region],
        box=box,
        box_grounding=torch.arange(len(box)),
    )


def image_for_each_text(batch: Batch) -> Batch:
    """The same pairs, every text with a copy of its image."""
    return replace(
        batch,
        image=batch.image[batch.text_image],
        image_key=batch.image_key[batch.text_image],
        text_image=torch.arange(len(batch.token_ids)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="regions", description=__doc__.splitlines()[0])
    for name, value in (("images", 4), ("regions", 4), ("tokens", 30), ("pixels", 224), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = xvlm_base(given.pixels, vision_weights=False, text_weights=False)
    objectives = (Contrast(), Match(), MaskedWords(), Box())
    task = Align(objectives=objectives, momentum=None, queue_size=0, distill=0.0).build(model).train()
    optimiser = build_optimiser(model, AdamW(lr=1e-5))
    shared = make_regions(given.images, given.regions, given.tokens, given.pixels)
    ways = {"an encoding an image": shared, "an encoding a text": image_for_each_text(shared)}

    def backward(batch: Batch) -> float:
        loss = task(batch, task.counts(batch)).loss
        loss.backward()
        return loss.item()

    def step(batch: Batch) -> None:
        backward(batch)
        optimiser.step()
        optimiser.zero_grad()
        task.after_step()

    losses, flops = {}, {}
    task.eval()
    for name, batch in ways.items():
        torch.manual_seed(0)
        with torch.no_grad():
            losses[name] = task(batch, task.counts(batch)).loss.item()
        flops[name] = counted_flops(lambda b=batch: backward(b))
        optimiser.zero_grad()
    task.train()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(given.repeats):
        for name, batch in ways.items():
            seen[name].append(timed(lambda b=batch: step(b)))
    pairs = len(shared.token_ids)
    wall = {name: statistics.median(s["wall"] for s in steps) / pairs for name, steps in seen.items()}
    cpu = {name: statistics.median(s["user"] + s["system"] for s in steps) / pairs for name, steps in seen.items()}
    print(f"{given.images} images, {pairs} texts, {given.pixels} px, {given.threads} threads")
    for name in ways:
        print(
            f"{name:21s} {wall[name]:.3f} s a pair (CPU {cpu[name]:.3f}), {flops[name] / 1e12:.3f} TFLOP a step, "
            f"first loss {losses[name]:.4f}"
        )
    one, each = ways
    print(f"ratio: {wall[each] / wall[one]:.2f}x in wall time, {cpu[each] / cpu[one]:.2f}x in CPU time")
    print(f"peak memory {peak_gigabytes():.2f} GB")


if __name__ == "__main__":
    main()
