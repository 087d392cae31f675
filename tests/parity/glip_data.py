"""Every entry of ``data_goldens.json`` of GLIP's reference numbers, computed with this library.

``python -m tests.parity.glip_data DIR`` prints name, largest difference, tolerance and verdict of each entry. Entries
that depend on a vocabulary use the one of bert-base-uncased beside this file's data.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity.golden import Verdict
from wordregion.data.datasets.flickr import parse_sentence, phrase_types
from wordregion.data.ground_transforms import fitted_size
from wordregion.data.prompts import (
    PromptSampling,
    Wording,
    chunks,
    class_prompt,
    clean_name,
    positive_map,
    token_count,
    token_map,
)
from wordregion.data.tokens import Tokenizer
from wordregion.evaluate.phrase_recall import find_phrase, recall
from wordregion.losses.grounding import focal_loss
from wordregion.nn.anchors import decode_boxes, encode_boxes
from wordregion.recipes.glip import OPTIMISER

DATA = Path(__file__).parent / "data" / "glip_data"
FILE = "data_goldens.json"


class PublishedDraws:
    """The original's draws from Python's and NumPy's global generators, in its order."""

    def __init__(self, seed: int) -> None:
        self._python, self._numpy = random.Random(seed), np.random.RandomState(seed)

    def chance(self) -> float:
        return self._python.random()

    def count(self, most: int) -> int:
        self._python.random()  # drawn by the original to choose between two ways, of which it always takes this one
        return int(self._numpy.choice(most)) + 1

    def sample(self, size: int, count: int) -> Sequence[int]:
        return self._numpy.choice(list(range(size)), size=count, replace=False).tolist()

    def shuffle(self, items: Sequence[int]) -> list[int]:
        mixed = list(items)
        self._python.shuffle(mixed)
        return mixed


@cache
def vocabulary() -> Tokenizer:
    return Tokenizer(DATA / "vocab.txt", max_tokens=256, clean=False)


def label_tokens(stem: str, text: str, spans: Mapping[int, tuple[int, int]], golden: dict) -> Iterator[Verdict]:
    offsets = vocabulary()([text]).offsets[0]
    for way, original in (("", False), (" (original_behaviour)", True)):
        found = {str(n): torch.nonzero(token_map(offsets, [s], original)).flatten().tolist() for n, s in spans.items()}
        yield exact(f"{stem}/label_to_tokens{way}", found, golden["label_to_tokens"])


def clean_names(golden: dict[str, str]) -> Iterator[Verdict]:
    yield exact("clean_name", {name: clean_name(name) for name in golden}, golden)


def query_basic(golden: dict[str, Any]) -> Iterator[Verdict]:
    tokenizer, prompt = vocabulary(), class_prompt(golden["names"], golden["labels"])
    yield exact("query_basic/query", prompt.text, golden["query"])
    yield exact("query_basic/n_tokens", token_count(tokenizer, prompt.text) + 2, golden["n_tokens"])
    yield from label_tokens("query_basic", prompt.text, prompt.spans, golden)


def query_extra_labels(golden: dict[str, Any]) -> Iterator[Verdict]:
    further = golden["query"].split(". ")[len(golden["names"]) :]
    numbers = [*golden["labels"], *(-1 - i for i in range(len(further)))]
    prompt, tokenizer = class_prompt([*golden["names"], *further], numbers), vocabulary()
    own = {number: prompt.spans[number] for number in golden["labels"]}
    yield exact("query_extra_labels/query", prompt.text, golden["query"])
    yield exact("query_extra_labels/n_tokens", token_count(tokenizer, prompt.text) + 2, golden["n_tokens"])
    yield from label_tokens("query_extra_labels", prompt.text, own, golden)


def chunk_sizes(golden: list[int]) -> Iterator[Verdict]:
    yield exact("chunk_sizes_1203_by_40", [len(part) for part in chunks(range(1203), 40)], golden)


def query_caption_prompt(golden: dict[str, Any]) -> Iterator[Verdict]:
    wordings = [Wording(w["name"], w["prefix"], w["suffix"]) for w in golden["caption_prompt"]]
    prompt = class_prompt(wordings, range(1, len(wordings) + 1))
    yield exact("query_caption_prompt/query", prompt.text, golden["query"])
    yield from label_tokens("query_caption_prompt", prompt.text, prompt.spans, golden)


def positive_map_edge(golden: dict[str, Any]) -> Iterator[Verdict]:
    encoded = vocabulary()([golden["caption"]])
    yield exact("positive_map_edge/input_ids", encoded.ids[0].tolist(), golden["input_ids"])
    spans = [[tuple(span) for span in spans] for spans in golden["spans"]]
    theirs = torch.zeros(len(spans), encoded.ids.shape[1])
    for row, weights in enumerate(golden["rows"]):
        for token, weight in weights.items():
            theirs[row, int(token)] = weight
    for name, original in (("positive_map_edge/rows", False), ("positive_map_edge/rows (original_behaviour)", True)):
        tokens = torch.stack([token_map(encoded.offsets[0], row, original) for row in spans])
        yield near(name, positive_map(tokens), theirs, 1e-7)


def positive_map_truncated(golden: dict[str, Any]) -> Iterator[Verdict]:
    """The caption itself isn't recorded: a span behind the cut, and one on the recorded tokens of a caption as long."""
    words = ["dog"] * 300
    encoded = vocabulary()([" ".join(words)])
    first, last = golden["row1"][0] - 1, golden["row1"][-1]
    spans = [(4 * 280, 4 * 280 + 3), (4 * first, 4 * last - 1)]
    rows = positive_map(torch.stack([token_map(encoded.offsets[0], [span]) for span in spans]))
    yield exact("positive_map_truncated/n_tokens", encoded.ids.shape[1], golden["n_tokens"])
    yield exact("positive_map_truncated/sum_row0", float(rows[0].sum()), golden["sum_row0"])
    yield exact("positive_map_truncated/row1", torch.nonzero(rows[1]).flatten().tolist(), golden["row1"])


def od_prompt_seeded(golden: dict[str, Any]) -> Iterator[Verdict]:
    tokenizer = vocabulary()
    names = [golden["class_names"][str(i)] for i in range(len(golden["class_names"]))]

    def length(text: str) -> int:
        return token_count(tokenizer, text)

    for case in golden["cases"]:
        seed = case["seed"]
        prompt = PromptSampling()(names, case["box_labels"], length, PublishedDraws(seed))
        stem = f"od_prompt_seeded/{seed}"
        room = sum(length(clean_name(names[i]) + ". ") for i in set(case["box_labels"]))
        yield exact(f"{stem}/positive_caption_length", room, case["positive_caption_length"])
        yield exact(f"{stem}/caption", prompt.text, case["caption"])
        yield exact(f"{stem}/n_classes", len(prompt.spans), case["n_classes"])
        yield exact(f"{stem}/n_tokens", token_count(tokenizer, prompt.text) + 2, case["n_tokens"])
        spans = [[list(prompt.spans[label])] for label in case["box_labels"]]
        theirs = [[list(span) for span in (s if isinstance(s[0], list) else [s])] for s in case["box_spans"]]
        yield exact(f"{stem}/box_spans", spans, theirs)
        positions = {str(number): list(span) for number, span in prompt.spans.items()}
        yield exact(f"{stem}/label_to_positions", positions, case["label_to_positions"])


def od_simple(golden: dict[str, Any]) -> Iterator[Verdict]:
    """The class names aren't recorded; these give the recorded caption."""
    prompt = class_prompt(["fish", "jelly_fish", "penguin_(bird)"])
    yield exact("od_simple/caption", prompt.text, golden["caption"])
    yield exact("od_simple/spans", [[list(prompt.spans[i])] for i in (1, 2)], golden["spans"])


def resize(golden: dict[str, Any]) -> Iterator[Verdict]:
    rows = golden["rows"]
    ours = [list(fitted_size(width, height, shorter, golden["max_size"])) for width, height, shorter, _, _ in rows]
    yield exact("resize", ours, [row[3:] for row in rows])


def schedule(golden: dict[str, float]) -> Iterator[Verdict]:
    """The rate of each iteration, from 0; ours warms up one ahead, so that the last one of the warm-up has the peak."""
    steps, warmup = 10_000, 2_000
    optim = replace(OPTIMISER, warmup=warmup)
    ours = [optim.lr * optim.factor(int(done) - (int(done) < warmup), steps) for done in golden]
    yield near(
        "lr_multistep_max_iter_10000 (relative)", np.divide(ours, list(golden.values())), np.ones(len(ours)), 1e-12
    )


def box_coder(golden: dict[str, Any]) -> Iterator[Verdict]:
    given = {name: torch.tensor(values) for name, values in golden.items()}
    encoded = encode_boxes(given["gt"], given["anchors"])
    yield near("box_coder/encoded", encoded, golden["encoded"], 1e-5)
    yield near("box_coder/roundtrip", decode_boxes(encoded, given["anchors"]), golden["roundtrip"], 1e-4)
    yield near("box_coder/decoded", decode_boxes(given["deltas"], given["anchors"]), golden["decoded"], 1e-3)


def focal(golden: dict[str, Any]) -> Iterator[Verdict]:
    logits, targets, mask = (torch.tensor(golden[name]) for name in ("logits", "targets", "mask"))
    loss = focal_loss(logits, targets, golden["alpha"], golden["gamma"]) * mask[:, None]
    yield near("focal/loss_sum", loss.sum(), golden["loss_sum"], 1e-5)


def flickr_recall(golden: dict[str, Any]) -> Iterator[Verdict]:
    from xml.etree import ElementTree

    phrases = []
    for prediction in golden["predictions"]:
        stem = prediction["image_id"]
        root = ElementTree.fromstring(golden["annotations"][f"Annotations/{stem}.xml"])
        boxes: dict[str, list[list[float]]] = {}
        for item in root.iter("object"):
            if (box := item.find("bndbox")) is not None:
                corners = [float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")]
                boxes.setdefault(item.findtext("name"), []).append(corners)
        line = golden["annotations"][f"Sentences/{stem}.txt"].splitlines()[prediction["sentence_id"]]
        marked = zip(parse_sentence(line, stem)[1], phrase_types(line), strict=True)
        grounded = [(boxes[chain], types) for (_, _, chain), types in marked if chain in boxes]
        for found, (true, types) in zip(prediction["boxes"], grounded, strict=True):
            phrases.append(find_phrase(torch.tensor(found).float(), torch.tensor(true), types, golden["iou"]))
    ours = recall(phrases, [None if k == -1 else k for k in golden["topk"]])
    for way, measure in (("separate", "any_box"), ("merged", "merged_box")):
        for depth, shares in golden["result"][way].items():
            own = {name: ours[f"{measure}/{name}/R@{'any' if depth == '-1' else depth}"] for name in shares}
            yield near(f"flickr_recall/{way}/R@{depth}", list(own.values()), list(shares.values()), 1e-12)


def exact(name: str, ours: Any, theirs: Any) -> Verdict:
    return Verdict(name, 0.0 if ours == theirs else float("inf"), 0.0)


def near(name: str, ours: Any, theirs: Any, tolerance: float) -> Verdict:
    own, golden = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if own.shape != golden.shape:
        return Verdict(name, float("inf"), tolerance)
    return Verdict(name, float(np.abs(own - golden).max(initial=0.0)), tolerance)


ENTRIES: dict[str, Callable[[Any], Iterator[Verdict]]] = {
    "clean_name": clean_names,
    "query_basic": query_basic,
    "query_extra_labels": query_extra_labels,
    "chunk_sizes_1203_by_40": chunk_sizes,
    "query_caption_prompt": query_caption_prompt,
    "positive_map_edge": positive_map_edge,
    "positive_map_truncated": positive_map_truncated,
    "od_prompt_seeded": od_prompt_seeded,
    "od_simple": od_simple,
    "resize": resize,
    "box_coder": box_coder,
    "focal": focal,
    "lr_multistep_max_iter_10000": schedule,
    "flickr_recall": flickr_recall,
}


def verdicts(folder: Path) -> Iterator[Verdict]:
    """One or several for each entry of the file; an entry that this module does not know fails."""
    for name, golden in json.loads((folder / FILE).read_text()).items():
        if name in ENTRIES:
            yield from ENTRIES[name](golden)
        else:
            yield Verdict(f"{name} (not computed here)", float("inf"), 0.0)


def main(folder: Path) -> int:
    """Prints each verdict; returns how many failed."""
    failures = 0
    for verdict in verdicts(folder):
        failures += not verdict.good
        state = "ok" if verdict.good else "FAILED"
        print(f"{verdict.name:70} {verdict.difference:10.2e} {verdict.tolerance:10.2e} {state}", flush=True)
    print(f"{failures} failed")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.parity.glip_data", description=__doc__)
    parser.add_argument("folder", type=Path, help=f"holds {FILE}")
    sys.exit(1 if main(parser.parse_args().folder) else 0)
