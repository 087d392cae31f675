"""`wordregion data neggen`: makes a cache of false captions on one process or several, and reports on it."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional

from wordregion.data.loader import Transform
from wordregion.data.masked_lm import MaskedLM, open_lm, train_lm
from wordregion.data.negatives import (
    CHUNK,
    Judge,
    NegGen,
    Row,
    make_part,
    read_parts,
    version_of,
)
from wordregion.data.parts import version_id
from wordregion.data.tagging import Tagger
from wordregion.data.tokens import Tokenizer
from wordregion.distributed import comm
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.common import progress_bars
from wordregion.models.fusion import FusionModel
from wordregion.part_work import make_missing
from wordregion.schema import Dataset, Sample

EXAMPLES, BARS = 50, 20
PAIRS_AT_ONCE = 512
UNUSED = np.random.default_rng(0)
"""Evaluation transforms draw nothing."""


@dataclass(frozen=True)
class NegGenFlags:
    """Makes false captions for training with FG-ITM: half of a caption's nouns and adjectives replaced by a masked
    language model, without those that a trained model takes for true. Writes Parquet files and a report to --out.

    A stopped command goes on where it was; several processes share the work:
    torchrun --nproc-per-node 2 -m wordregion.cli data neggen ...

    Examples: `wordregion data neggen flickr30k#train --filter runs/flickr_small --out negatives/flickr`,
    `wordregion data neggen captions.jsonl --lm captions --out negatives/mine`
    """

    source: Positional[str]
    """data set with captions, as in `wordregion data check`"""
    out: Path
    """folder of the cache"""
    images: Path | None = None
    """folder or tar of the images, if they are not beside the source"""
    tagger: str = "en_core_web_sm"
    """spaCy pipeline that finds nouns and adjectives: a name, or a folder"""
    lm: str = "bert-base-uncased"
    """masked language model: a hub name, a folder, or captions = train one on the captions of SOURCE"""
    lm_steps: int = 2000
    """training steps of --lm captions"""
    filter: Path | None = None
    """folder of a run, or of a model, whose match head drops texts that are true (default: nothing is dropped)"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model as --filter, which has no recipe to name it"""
    threshold: float = 0.5
    """probability of matching from which a text is dropped"""
    count: int = 3
    """candidates of each caption, before the filter"""
    share: float = 0.5
    """share of nouns and adjectives that are replaced"""
    top: int = 20
    """most probable words from which a replacement is drawn"""
    seed: int = 0
    """of all draws"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


@dataclass(frozen=True)
class Summary:
    """What is in a finished cache.

    Attributes:
        version: short name of what it was made with.
        captions: different captions of images.
        without: captions without any false one.
        kept: false captions.
        dropped: candidates that the filter took for true.
        broken: records that could not be read.
        share_dropped: of all candidates, in [0, 1].
        histogram: candidates by probability of matching, in `BARS` equal steps from 0 to 1; empty without a filter.
        true_histogram: the true captions likewise. A filter that gives them low scores drops nothing that is true.
    """

    version: str
    captions: int
    without: int
    kept: int
    dropped: int
    broken: int
    share_dropped: float
    histogram: tuple[int, ...]
    true_histogram: tuple[int, ...]


def run_neggen(
    dataset: Dataset,
    out: Path,
    settings: NegGen,
    tagger: Tagger,
    tagger_name: str,
    lm: MaskedLM,
    judge: Judge | None = None,
    judge_name: str | None = None,
    progress: bool = True,
) -> Summary | None:
    """Makes what is missing of a cache, this process its share of the files; the main process then reports.

    Returns:
        the summary, on the main process.

    Raises:
        UsageError: if `out` holds another version, or the data set has no captions.
    """
    version = version_of(dataset, settings, tagger_name, lm.fingerprint(), judge_name)
    began, captions = time.monotonic(), 0

    def make(chunk: int) -> None:
        nonlocal captions
        captions += len(make_part(out, chunk, dataset, tagger, lm, judge, settings) or ())

    make_missing(out, version, CHUNK, make, progress)
    took = time.monotonic() - began
    if not comm.main_process():
        return None
    rows, broken = read_parts(out)
    if not rows:
        raise UsageError(f"{dataset.name}: no captions of whole images, so there is nothing to falsify.")
    summary = summarise(rows, broken, version_id(version))
    write_report(out, summary, version, rows)
    if captions:
        print(f"{captions:,} captions in {took:.0f} s by the main process: {captions / took:.1f} captions/s")
    return summary


def caption_lm(dataset: Dataset, folder: Path, steps: int, seed: int, device: torch.device) -> MaskedLM:
    """A language model of the data set's captions, trained by the main process unless it is in the folder already."""
    comm.init_from_env()
    if comm.main_process() and not folder.is_dir():
        captions = all_captions(dataset)
        if not captions:
            raise UsageError(f"{dataset.name}: no captions of whole images to train a language model on.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with progress_bars(True) as bar, bar("language model", steps) as advance:
            train_lm(captions, folder, steps=steps, seed=seed, device=device, advance=advance)
    comm.barrier()
    return open_lm(folder, device)


def all_captions(dataset: Dataset) -> list[str]:
    """The captions of all records that can be read."""
    captions: list[str] = []
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
        except DataError:  # counted where the cache is made
            continue
        captions += [sample.texts[text] for text in sample.captions()]
    return captions


class MatchJudge:
    """The probability of matching by a trained model.

    Args:
        model: with the head ``match``, in evaluation mode, on its device.
        tokenizer: of its texts.
        transform: makes images tensors, without randomness.

    Raises:
        UsageError: if the model has no such head.
    """

    def __init__(self, model: FusionModel, tokenizer: Tokenizer, transform: Transform) -> None:
        if "match" not in model.heads:
            raise UsageError("the filter's model has no head 'match'. Give a run that was trained with Match.")
        self.model, self.tokenizer, self.transform = model, tokenizer, transform

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(match) of each text with the first image of its sample."""
        device = next(self.model.parameters()).device
        pixels = [self.transform(sample, UNUSED).images[0] for sample in samples]
        image = self.model.encode_image(torch.stack([p for p in pixels if isinstance(p, Tensor)]).to(device))
        owner = torch.tensor([row for row, own in enumerate(texts) for _ in own])
        encoded = self.tokenizer([text for own in texts for text in own])
        found: list[float] = []
        for rows in torch.arange(len(owner)).split(PAIRS_AT_ONCE):
            mask = encoded.mask[rows].to(device)
            states = self.model.encode_text(encoded.ids[rows].to(device), mask)
            fused = self.model.fuse(states, mask, image, owner[rows].to(device))
            found += self.model.heads["match"](fused.cls).float().softmax(1)[:, 1].tolist()
        rest = iter(found)
        return [[next(rest) for _ in own] for own in texts]


def summarise(rows: Sequence[Row], broken: Sequence[str], version: str) -> Summary:
    """Counts of a cache."""
    scores = [score for row in rows for score in (*row.kept_scores, *row.dropped_scores)]
    kept, dropped = (sum(len(getattr(row, name)) for row in rows) for name in ("kept", "dropped"))
    true_scores = [row.score for row in rows if row.score is not None]
    return Summary(
        version=version,
        captions=len(rows),
        without=sum(not row.kept for row in rows),
        kept=kept,
        dropped=dropped,
        broken=len(broken),
        share_dropped=dropped / max(1, kept + dropped),
        histogram=_histogram(scores) if true_scores else (),
        true_histogram=_histogram(true_scores) if true_scores else (),
    )


def _histogram(scores: Sequence[float]) -> tuple[int, ...]:
    return tuple(np.histogram(scores, bins=BARS, range=(0, 1))[0].tolist())


def examples(rows: Sequence[Row], count: int = EXAMPLES) -> list[tuple[str, str, float | None, bool]]:
    """Some candidates, evenly spread over the cache: (true caption, candidate, probability of matching, kept)."""
    found: list[tuple[str, str, float | None, bool]] = []
    for row in rows:
        for texts, scores, kept in ((row.kept, row.kept_scores, True), (row.dropped, row.dropped_scores, False)):
            found += [(row.text, text, scores[i] if scores else None, kept) for i, text in enumerate(texts)]
    shown = min(count, len(found))
    return [found[i * len(found) // shown] for i in range(shown)]


def write_report(out: Path, summary: Summary, version: dict[str, object], rows: Sequence[Row]) -> None:
    """Writes ``report.json`` and ``report.html``: counts, the histogram of the filter's scores, 50 examples."""
    picked = examples(rows)
    listed = [dict(zip(("true", "false", "score", "kept"), example, strict=True)) for example in picked]
    content = {"summary": asdict(summary), "version": version, "examples": listed}
    (out / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    most, most_true = (max((1, *bars)) for bars in (summary.histogram, summary.true_histogram))
    bars = "".join(
        f"<tr><td>{i / BARS:.2f}</td><td><i style='width:{300 * count / most:.0f}px'></i></td><td>{count:,}</td>"
        f"<td><i style='width:{300 * true / most_true:.0f}px'></i></td><td>{true:,}</td>"
        f"<td>{_share_from(summary.histogram, i)}</td><td>{_share_from(summary.true_histogram, i)}</td></tr>"
        for i, (count, true) in enumerate(zip(summary.histogram, summary.true_histogram, strict=True))
    )
    columns = "<tr><th>from</th><th>candidates</th><th></th><th>true captions</th><th></th>"
    columns += "<th>dropped with this threshold</th><th>true captions that it knows</th></tr>"
    table = "".join(
        f"<tr class={'kept' if kept else 'dropped'}><td>{escape(true)}</td><td>{_marked(true, false)}</td>"
        f"<td>{'' if score is None else f'{score:.2f}'}</td><td>{'kept' if kept else 'dropped'}</td></tr>"
        for true, false, score, kept in picked
    )
    facts = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in version.items())
    told = (
        f"{summary.captions:,} captions, {summary.kept:,} false ones kept, {summary.dropped:,} dropped "
        f"({100 * summary.share_dropped:.1f} %), {summary.without:,} captions without any, {summary.broken:,} broken "
        f"records; version {summary.version}"
    )
    scored = (
        f"<h2>Probability of matching, by the filter</h2><table>{columns}{bars}</table>"
        if bars
        else "<p>No filter.</p>"
    )
    (out / "report.html").write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>False captions</title><style>body{font:15px "
        "sans-serif;max-width:1000px;margin:2em auto}td{padding:2px 10px;vertical-align:top}"
        "i{display:block;height:12px;background:#2f6fde}b{color:#d1495b}.dropped{opacity:.55}</style>"
        f"<h1>False captions</h1><p>{told}</p>{scored}<h2>{len(picked)} examples, evenly spread</h2>"
        f"<table><tr><th>true</th><th>false</th><th>P(match)</th><th></th></tr>{table}</table>"
        f"<h2>Made with</h2><table>{facts}</table></html>\n",
        encoding="utf-8",
    )


def _share_from(histogram: Sequence[int], bar: int) -> str:
    """The share of a histogram in this bar and above."""
    return f"{sum(histogram[bar:]) / max(1, sum(histogram)):.1%}"


def _marked(true: str, false: str) -> str:
    """The false caption as HTML, its new words bold; both have the same number of words."""
    pairs = zip(true.split(), false.split(), strict=False)
    return " ".join(escape(new) if new == old else f"<b>{escape(new)}</b>" for old, new in pairs)
