"""Samples a second of the data pipeline alone: read, decode, augment (or resize, or leave out), tokenise, collate.

python benchmarks/loader.py                                   # built-in scenes
python benchmarks/loader.py --flickr ../shared/data/flickr30k_entities --pixels 256 --workers 0 1 2
"""

import argparse
import itertools
from pathlib import Path

import torch
from common import timed

from wordregion.data.collate import Collator
from wordregion.data.datasets import Flickr30kEntities
from wordregion.data.loader import StepLoader
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.schema import Dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr", type=Path, help="root of Flickr30k Entities; built-in scenes without it")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    settings = parser.parse_args()
    torch.set_num_threads(1)
    dataset: Dataset = Flickr30kEntities(settings.flickr, "train") if settings.flickr else Scenes()
    collator = Collator(Tokenizer("scenes"), Masking())
    print(f"{dataset.name}, {settings.pixels} px, batch {settings.batch}, {settings.steps} steps")
    for workers, way in itertools.product(settings.workers, ("augmented", "resized", "pixels left out")):
        transform = TrainTransform if way == "augmented" else EvalTransform
        loader = StepLoader(
            dataset, transform(settings.pixels), collator, batch=settings.batch, seed=0, workers=workers
        )
        if way == "pixels left out":  # as where all tokens are kept
            loader.leave_out(torch.arange(len(dataset)))
        batches = iter(loader)
        for _ in range(2 + 4 * workers):  # starts the workers and empties what they made ahead
            next(batches)
        spent = timed(lambda batches=batches: [next(batches) for _ in range(settings.steps)])
        samples = settings.steps * settings.batch
        here = f"{1e3 * spent['user'] / samples:.2f} ms of this process's CPU a sample"
        print(f"workers {workers}, {way}: {samples / spent['wall']:.1f} samples/s, {here}", flush=True)
        loader.close()


if __name__ == "__main__":
    main()
