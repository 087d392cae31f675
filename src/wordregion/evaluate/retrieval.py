"""Image-text retrieval: recall at 1, 5 and 10 both ways, by the contrast alone (ITC) and re-ranked by matching (ITM).

A model with a head that compares words with places (`nn.word_region`) re-ranks by that as well.

The protocol is ALBEF's: the k best candidates by ITC get the logit of "these match" from the fusion encoder as their
score, the others stay behind them. The originals fuse every query with its candidates, twice, and so compute the
keys and values of an image for each pair. Here the pairs that either direction needs are scored once each, grouped by
image: an image's keys and values are computed once for all its texts.

Shape letters: I images, T texts, P pairs, N image tokens, V image width, L text tokens, D text width, E shared width,
K length of a top list.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch import distributed as dist

from wordregion.data.collate import Collates, Item
from wordregion.data.loader import Transform, batches_of
from wordregion.distributed import comm
from wordregion.errors import UsageError
from wordregion.evaluate.common import Bar, check_request, evaluating, progress_bars, share
from wordregion.evaluate.ranking import dense, look_up, pairs_to_score, recall_at, reorder, top_candidates
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.nn.word_region import WordRegionHead
from wordregion.schema import Batch, Dataset, Sample

DEPTHS = (1, 5, 10)
KEPT_BYTES = 4 << 30
"""Image tokens that a process keeps between the two passes; beyond it images are encoded again for re-ranking."""
PAIRS_AT_ONCE = 512
"""Pairs of one image fused at once: bounds memory (an image with more has its keys and values computed again)."""


@dataclass(frozen=True)
class Ranking:
    """Top lists of one way of scoring, best first, at most 10 long.

    Attributes:
        texts: for each image, indices of texts.
        text_scores: their scores (cosine for ITC, match logit when re-ranked, word-region logit for ``_words``; sums
            are of the match's log-odds, the word-region logit and the ITC logit).
        images: for each text, indices of images.
        image_scores: their scores.
    """

    texts: tuple[tuple[int, ...], ...]
    text_scores: tuple[tuple[float, ...], ...]
    images: tuple[tuple[int, ...], ...]
    image_scores: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Retrieval:
    """What `evaluate_retrieval` measured.

    Attributes:
        metrics: percent by name; ``raw/itc/TR@1`` = an image's best text is one of its captions,
            ``raw/rerank_k128/IR@10`` = a caption's image is among the best ten; ``rerank_k128+itc`` ranks by the match
            head's log-odds plus the contrast's logit, ``rerank_k128_words`` by a word-region head's logit,
            ``rerank_k128_words+itc`` by the sum of that and the contrast's, ``rerank_k128+words+itc`` by all three.
        image_ids: ``Sample.id`` of each image.
        captions: each text.
        caption_image: index of the image each text belongs to.
        rankings: top lists by ``"itc"``, ``"rerank_k..."`` and so on, as in the names of `metrics`.
        pairs: (image, text) pairs that were scored for re-ranking.
    """

    metrics: dict[str, float]
    image_ids: tuple[str, ...]
    captions: tuple[str, ...]
    caption_image: tuple[int, ...]
    rankings: dict[str, Ranking]
    pairs: int

    @property
    def items(self) -> str:
        """What was ranked."""
        return f"{len(self.image_ids):,} images and {len(self.captions):,} captions"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


@torch.inference_mode()
def evaluate_retrieval(
    model: FusionModel,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    k: int = 128,
    batch: int = 32,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Retrieval:
    """Image-text retrieval over a whole data set.

    The texts of a sample are its captions of the whole first image; a sample without any is still a candidate.
    With several processes (`torch.distributed` initialised) images, texts and pairs are dealt out in the chunks that
    one process would use, so every process returns what a single one would.

    Args:
        model: in any mode; evaluated without dropout, its mode is restored.
        dataset: read once (twice where the image tokens exceed `KEPT_BYTES`).
        collator: gives the tokenizer of the captions.
        transform: makes ``images[0]`` a normalised tensor (3, H, W) of the model's size.
        k: candidates re-ranked for each query; 0 = ITC only.
        batch: images encoded at once.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar with rate and time left (main process only).

    Raises:
        UsageError: for a bad protocol, k or an empty data set, or features or scores that are not finite.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if k < 0:
        raise UsageError(f"k = {k}: k must be >= 0 (0 = no re-ranking).")
    with evaluating(model, device) as device, progress_bars(progress and comm.main_process()) as bar:
        images = _Images(model, dataset, transform, collator.tokenizer, batch, workers, device, keep=k > 0)
        image_IE = images.features(bar)
        ids_TL, mask_TL = _tokens(collator.tokenizer, images.captions, dataset.name)
        hidden_TLD, text_TE = encode_texts(model, ids_TL, mask_TL, 4 * batch, device, bar)
        for feature in (image_IE, text_TE):
            require_finite(feature, "features")
        depth = max(k, DEPTHS[-1])
        texts_IK, text_score_IK = top_candidates(image_IE, text_TE, depth)
        images_TK, image_score_TK = top_candidates(text_TE, image_IE, depth)
        lists = {"itc": (texts_IK, text_score_IK, images_TK, image_score_TK)}
        pairs = 0
        if k:
            i2t_Ik, t2i_Tk = texts_IK[:, :k], images_TK[:, :k]
            image_P, text_P = pairs_to_score(i2t_Ik, t2i_Tk)
            pairs = len(image_P)
            logit_P2 = torch.zeros(pairs, 2)
            word_P = torch.zeros(pairs) if "word_region" in model.heads else None
            with bar("re-ranking", int((torch.isin(image_P, images.own)).sum())) as advance:
                for first, image_INV in images.tokens():
                    mine = slice(*torch.searchsorted(image_P, torch.tensor([first, first + len(image_INV)])).tolist())
                    given = (model, image_INV, hidden_TLD, mask_TL, image_P[mine] - first, text_P[mine])
                    logit_P2[mine] = score_pairs(*given, advance)
                    if word_P is not None:
                        word_P[mine] = word_region_pairs(*given)
            logit_P2 = share(logit_P2, device)
            itc_P = (image_IE[image_P] * text_TE[text_P]).sum(1) / model.temperature.detach().float().cpu()
            match_P = logit_P2[:, 1] - logit_P2[:, 0]
            scores = {"": logit_P2[:, 1], "+itc": match_P + itc_P}
            if word_P is not None:
                word_P = share(word_P, device)
                scores |= {"_words": word_P, "_words+itc": word_P + itc_P, "+words+itc": match_P + word_P + itc_P}
            for name, score_P in scores.items():
                require_finite(score_P, "scores")
                i2t, t2i = _both_ways(image_P, text_P, score_P, i2t_Ik, t2i_Tk)
                lists[f"rerank_k{k}{name}"] = (*reorder(texts_IK, i2t), *reorder(images_TK, t2i))
    own_I, image_of_T = torch.arange(len(images.ids)), torch.tensor(images.caption_image)
    metrics: dict[str, float] = {}
    for name, (texts, _, found, _) in lists.items():
        metrics |= {f"{protocol}/{name}/TR@{n}": v for n, v in recall_at(texts, own_I, image_of_T, DEPTHS).items()}
        metrics |= {f"{protocol}/{name}/IR@{n}": v for n, v in recall_at(found, image_of_T, own_I, DEPTHS).items()}
    rankings = {name: Ranking(*(_plain(part[:, : DEPTHS[-1]]) for part in parts)) for name, parts in lists.items()}
    return Retrieval(metrics, images.ids, images.captions, images.caption_image, rankings, pairs)


def score_matrices(
    model: FusionModel,
    image_INV: Float[Tensor, "I N V"],
    hidden_TLD: Float[Tensor, "T L D"],
    mask_TL: Bool[Tensor, "T L"],
    k: int,
) -> tuple[Float[Tensor, "I T"], Float[Tensor, "T I"]]:
    """The two score matrices of ALBEF's evaluation, for sets small enough to hold them.

    Args:
        model: in evaluation mode.
        image_INV: image tokens.
        hidden_TLD: states of the text half.
        mask_TL: True at real tokens.
        k: candidates scored for each query.

    Returns:
        ``score_i2t``, with match logits for the k best texts of each image by ITC, and ``score_t2i``, with those of
        the k best images of each text; -100 elsewhere.
    """
    image_IE, text_TE = model.project_image(image_INV), model.project_text(hidden_TLD, mask_TL)
    texts_Ik, images_Tk = (
        top.cpu() for top in (top_candidates(image_IE, text_TE, k)[0], top_candidates(text_TE, image_IE, k)[0])
    )
    image_P, text_P = pairs_to_score(texts_Ik, images_Tk)
    score_P = score_pairs(model, image_INV, hidden_TLD, mask_TL, image_P, text_P)[:, 1]
    i2t, t2i = _both_ways(image_P, text_P, score_P, texts_Ik, images_Tk)
    return dense(texts_Ik, i2t, len(text_TE)), dense(images_Tk, t2i, len(image_IE))


def score_pairs(
    model: FusionModel,
    image_INV: Float[Tensor, "I N V"],
    hidden_TLD: Float[Tensor, "T L D"],
    mask_TL: Bool[Tensor, "T L"],
    image_P: Int[Tensor, "P"],
    text_P: Int[Tensor, "P"],
    advance: Callable[[int], None] = lambda pairs: None,
) -> Float[Tensor, "P 2"]:
    """Match logits of pairs that are ordered by image; each image goes through with all its texts at once.

    Args:
        model: in evaluation mode.
        image_INV: image tokens, on the device of the model.
        hidden_TLD: states of the text half, on any device.
        mask_TL: True at real tokens, on the device of the states.
        image_P: image of each pair, ascending.
        text_P: text of each pair.
        advance: told how many pairs have been scored.

    Returns:
        logits on the CPU.
    """
    logit_P2 = torch.zeros(len(image_P), 2)
    for rows, one_1NV, hidden, mask in _by_image(image_INV, hidden_TLD, mask_TL, image_P, text_P):
        fused = model.fuse(hidden, mask, one_1NV, None)
        logit_P2[rows] = model.heads["match"](fused.cls).float().cpu()
        advance(len(hidden))
    return logit_P2


def word_region_pairs(
    model: FusionModel,
    image_INV: Float[Tensor, "I N V"],
    hidden_TLD: Float[Tensor, "T L D"],
    mask_TL: Bool[Tensor, "T L"],
    image_P: Int[Tensor, "P"],
    text_P: Int[Tensor, "P"],
) -> Float[Tensor, "P"]:
    """Logits of the head ``word_region`` for pairs that are ordered by image; arguments as for `score_pairs`."""
    head = model.heads["word_region"]
    assert isinstance(head, WordRegionHead)
    logit_P = torch.zeros(len(image_P))
    for rows, one_1NV, hidden, mask in _by_image(image_INV, hidden_TLD, mask_TL, image_P, text_P):
        logit_P[rows] = head(hidden, mask, head.places(one_1NV))[:, 0].float().cpu()
    return logit_P


def _by_image(
    image_INV: Tensor, hidden_TLD: Tensor, mask_TL: Tensor, image_P: Tensor, text_P: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """For each image with pairs: their rows, its tokens (1, N, V), states and mask of their texts, on its device."""
    bounds = torch.searchsorted(image_P, torch.arange(len(image_INV) + 1)).tolist()
    for image, (begin, end) in enumerate(pairwise(bounds)):
        for start in range(begin, end, PAIRS_AT_ONCE):
            rows = slice(start, min(end, start + PAIRS_AT_ONCE))
            text = text_P[rows]
            length = int(mask_TL[text].sum(1).max())  # padding that all the texts share changes nothing
            hidden, mask = (x[text, :length].to(image_INV.device) for x in (hidden_TLD, mask_TL))
            yield rows, image_INV[image : image + 1], hidden, mask


def encode_texts(
    model: FusionModel,
    ids_TL: Int[Tensor, "T L"],
    mask_TL: Bool[Tensor, "T L"],
    chunk: int,
    device: torch.device,
    bar: Bar,
) -> tuple[Float[Tensor, "T L D"], Float[Tensor, "T E"]]:
    """Text half and projection of every text, by chunks of similar length, dealt out over the processes.

    Returns:
        states (zero at padding) and unit features, both complete in every process, on the CPU.
    """
    order = mask_TL.sum(1).argsort(stable=True)
    chunks = list(order.split(chunk))
    own = range(comm.rank(), len(chunks), comm.world_size())
    hidden_TLD = torch.zeros(*ids_TL.shape, model.text.width)
    text_TE = torch.zeros(len(ids_TL), model.text_proj.out_features)
    with bar("texts", sum(len(chunks[index]) for index in own)) as advance:
        for index in own:
            rows, length = chunks[index], int(mask_TL[chunks[index]].sum(1).max())
            ids, mask = ids_TL[rows, :length].to(device), mask_TL[rows, :length].to(device)
            hidden = model.encode_text(ids, mask)
            hidden_TLD[rows, :length] = (hidden * mask[..., None]).float().cpu()
            text_TE[rows] = model.project_text(hidden, mask).float().cpu()
            advance(len(rows))
    if comm.world_size() > 1:
        for rows in chunks:
            hidden_TLD[rows] = share(hidden_TLD[rows], device)
        text_TE = share(text_TE, device)
    return hidden_TLD, text_TE


class _Images:
    """The images of a data set as tokens, by chunks; this process has every `world_size`-th chunk."""

    def __init__(
        self,
        model: FusionModel,
        dataset: Dataset,
        transform: Transform,
        tokenizer: Any,
        batch: int,
        workers: int,
        device: torch.device,
        keep: bool,
    ) -> None:
        self.model, self.dataset, self.device, self.keep = model, dataset, device, keep
        self.source = (dataset, transform, _Pictures(tokenizer), workers)
        chunks = torch.arange(len(dataset)).split(batch)
        self.chunks = [chunk.tolist() for chunk in chunks[comm.rank() :: comm.world_size()]]
        self.own = torch.tensor([index for chunk in self.chunks for index in chunk], dtype=torch.long)
        self.kept: dict[int, Tensor] = {}

    def features(self, bar: Bar) -> Float[Tensor, "I E"]:
        """First pass: unit features of all images, complete in every process; learns ids and captions on the way."""
        image_IE = torch.zeros(len(self.dataset), self.model.image_proj.out_features)
        known: dict[int, tuple[str, tuple[str, ...]]] = {}
        kept_bytes = 0
        with bar("images", len(self.own)) as advance:
            for chunk, found in zip(self.chunks, batches_of(self.chunks, *self.source), strict=True):
                known |= dict(zip(chunk, zip(found.target["id"], found.target["captions"], strict=True), strict=True))
                tokens = self._encode(found)
                image_IE[chunk] = self.model.project_image(tokens).float().cpu()
                kept_bytes += tokens.nbytes
                if self.keep and kept_bytes <= KEPT_BYTES:
                    self.kept[chunk[0]] = tokens.cpu()
                advance(len(chunk))
        if comm.world_size() > 1:
            image_IE = share(image_IE, self.device)
            parts: list[Any] = [None] * comm.world_size()
            dist.all_gather_object(parts, known)
            known = {index: value for part in parts for index, value in part.items()}
        self.ids = tuple(known[index][0] for index in range(len(self.dataset)))
        self.captions = tuple(text for index in range(len(self.dataset)) for text in known[index][1])
        self.caption_image = tuple(index for index in range(len(self.dataset)) for _ in known[index][1])
        return image_IE

    def tokens(self) -> Iterator[tuple[int, Float[Tensor, "I N V"]]]:
        """Second pass: the first index and the tokens of each chunk of this process."""
        again = batches_of([chunk for chunk in self.chunks if chunk[0] not in self.kept], *self.source)
        for chunk in self.chunks:
            kept = self.kept.get(chunk[0])
            yield chunk[0], self._encode(next(again)) if kept is None else kept.to(self.device)

    def _encode(self, batch: Batch) -> Float[Tensor, "I N V"]:
        return self.model.encode_image(batch.image.to(self.device))


@dataclass(frozen=True)
class _Pictures:
    """A collator of the first image of each sample; ids and captions as plain text. A sample without any is fine."""

    tokenizer: Any

    def check(self, sample: Sample, where: str) -> None:
        """Nothing but the schema, which the loader checks."""

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        samples = [sample for _, sample, _ in items]
        return Batch(
            image=torch.stack([torch.as_tensor(sample.images[0]) for sample in samples]),
            image_key=torch.tensor([index for index, _, _ in items]),
            token_ids=torch.zeros(0, 0, dtype=torch.long),
            token_mask=torch.zeros(0, 0, dtype=torch.bool),
            text_image=torch.zeros(0, dtype=torch.long),
            target={
                "id": [sample.id for sample in samples],
                "captions": [tuple(sample.texts[text] for text in _captions(sample)) for sample in samples],
            },
            skipped=tuple(skipped),
        )


def _captions(sample: Sample) -> list[int]:
    whole = [g.text for g in sample.groundings if g.span is None and not g.boxes and g.image == 0]
    return list(dict.fromkeys(whole))


def _tokens(
    tokenizer: Callable[[list[str]], Any], captions: tuple[str, ...], name: str
) -> tuple[Int[Tensor, "T L"], Bool[Tensor, "T L"]]:
    if not captions:
        raise UsageError(f"{name}: no captions of whole images, so there is nothing to retrieve. Use a caption set.")
    encoded = tokenizer(list(captions))
    ids, mask = torch.as_tensor(encoded.ids), torch.as_tensor(encoded.mask).bool()
    length = int(mask.sum(1).max())
    return ids[:, :length], mask[:, :length]


def _both_ways(
    image_P: Tensor, text_P: Tensor, score_P: Tensor, texts_Ik: Tensor, images_Tk: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of the k texts of each image and of the k images of each text."""
    texts = len(images_Tk)
    own_I, own_T = torch.arange(len(texts_Ik))[:, None], torch.arange(texts)[:, None]
    i2t = look_up(image_P, text_P, score_P, texts, own_I.expand_as(texts_Ik), texts_Ik)
    return i2t, look_up(image_P, text_P, score_P, texts, images_Tk, own_T.expand_as(images_Tk))


def _plain(part: Tensor) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, part.tolist()))
