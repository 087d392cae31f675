"""A masked language model of captions: fills in words, and says how likely a text is. Any BERT or RoBERTa of the hub, a
local folder of one, or a small BERT trained here on the captions themselves.

Shape letters: B texts, L tokens, V vocabulary, W whole words of the vocabulary.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from wordregion.data.tokens import SPECIAL
from wordregion.errors import UsageError
from wordregion.fingerprint import fingerprint

Spans = Sequence[tuple[int, int]]
AT_ONCE = 128
"""Texts that go through the model at a time."""


class MaskedLM:
    """A masked language model with its tokenizer.

    Args:
        model: gives ``.logits`` (B, L, V) for ``input_ids`` and ``attention_mask``.
        tokenizer: transformers' tokenizer of that model, with a mask token.
        name: what to call it in reports.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str) -> None:
        if tokenizer.mask_token_id is None:
            raise UsageError(f"{name}: its tokenizer has no mask token. Use a masked language model, such as a BERT.")
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        words = whole_words(tokenizer)
        self._ids = torch.tensor(sorted(words))
        self._words = [words[int(number)] for number in self._ids]

    def fill(
        self, texts: Sequence[str], spans: Sequence[Spans], rngs: Sequence[np.random.Generator], top: int = 20
    ) -> list[str]:
        """Other words for some words of each text.

        The words are masked together and drawn one after the other, from left to right, each given those before it:
        from the `top` most probable whole words, by their probability. The word that was there is never drawn. All
        other characters stay as they are.

        Args:
            texts: captions.
            spans: characters of the words to replace in each text, ascending, not overlapping.
            rngs: what each text's words are drawn with.
            top: how many words are drawn from.

        Returns:
            the new texts.
        """
        now, left = list(texts), [list(own) for own in spans]
        while rows := [row for row, own in enumerate(left) if own]:
            for begin in range(0, len(rows), AT_ONCE):
                some = rows[begin : begin + AT_ONCE]
                logits = self._first_mask([self._masked(now[row], left[row]) for row in some])
                for row, own in zip(some, logits, strict=True):
                    first, last = left[row].pop(0)
                    old = now[row][first:last]
                    new = self._draw(own, old, rngs[row], top)
                    new = new.capitalize() if old[:1].isupper() else new
                    now[row] = now[row][:first] + new + now[row][last:]
                    grown = len(new) - len(old)
                    left[row] = [(b + grown, e + grown) for b, e in left[row]]
        return now

    @torch.inference_mode()
    def log_likelihood(self, texts: Sequence[str]) -> list[float]:
        """Mean log-probability of each token given all others (pseudo-log-likelihood, Salazar et al. 2020)."""
        return [self._pseudo(text) for text in texts]

    def fingerprint(self) -> str:
        """A name for exactly these weights and this vocabulary: 16 hexadecimal digits."""
        return fingerprint(self.model, " ".join(self._words))

    def _masked(self, text: str, spans: Spans) -> str:
        for begin, end in reversed(spans):
            text = text[:begin] + self.tokenizer.mask_token + text[end:]
        return text

    @torch.inference_mode()
    def _first_mask(self, texts: list[str]) -> Float[Tensor, "B W"]:
        """Logits of the whole words at the first mask of each text."""
        device = next(self.model.parameters()).device
        given = self.tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt").to(device)
        at = (given["input_ids"] == self.tokenizer.mask_token_id).int().argmax(1)
        out = self.model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
        return out[torch.arange(len(texts), device=device), at][:, self._ids.to(device)].float().cpu()

    def _draw(self, logits: Tensor, old: str, rng: np.random.Generator, top: int) -> str:
        best = logits.topk(min(top + 1, len(logits)))
        choices = [(self._words[int(i)], float(v)) for v, i in zip(*best, strict=True)]
        choices = [(word, value) for word, value in choices if word.lower() != old.lower()][:top]
        weight = np.exp(np.array([value for _, value in choices], dtype=np.float64) - choices[0][1])
        return choices[int(rng.choice(len(choices), p=weight / weight.sum()))][0]

    def _pseudo(self, text: str) -> float:
        given = self.tokenizer([text], truncation=True, max_length=128, return_tensors="pt")
        ids = given["input_ids"][0]
        special = torch.tensor(self.tokenizer.get_special_tokens_mask(ids.tolist(), already_has_special_tokens=True))
        at = (special == 0).nonzero().squeeze(1)
        if not len(at):
            return 0.0
        masked = ids.repeat(len(at), 1)
        masked[torch.arange(len(at)), at] = self.tokenizer.mask_token_id
        device = next(self.model.parameters()).device
        total = 0.0
        for rows in torch.arange(len(at)).split(AT_ONCE):
            part = masked[rows].to(device)
            logits = self.model(input_ids=part, attention_mask=torch.ones_like(part)).logits
            own = logits[torch.arange(len(rows)), at[rows].to(device)].float().log_softmax(-1)
            total += float(own[torch.arange(len(rows)), ids[at[rows]].to(device)].sum())
        return total / len(at)


def open_lm(source: str | Path, device: torch.device | str = "cpu") -> MaskedLM:
    """A masked language model of the hub, by name, or of a folder.

    Raises:
        UsageError: if there is none.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        model = AutoModelForMaskedLM.from_pretrained(str(source))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"{source}: no masked language model there ({reason}). Give a hub name such as bert-base-uncased, a "
            "folder, or 'captions' to train one."
        ) from error
    return MaskedLM(model.to(device), tokenizer, str(source))


def train_lm(
    captions: Sequence[str],
    folder: Path,
    *,
    steps: int = 2000,
    batch: int = 64,
    width: int = 256,
    layers: int = 4,
    words: int = 8000,
    lr: float = 5e-4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda steps: None,
) -> None:
    """Trains a small BERT on captions and saves it where `open_lm` finds it; the folder appears when it is complete.

    Args:
        captions: at least one.
        folder: to write.
        steps: optimiser steps, with the rate falling linearly to 0 after a tenth of warm-up.
        batch: captions a step.
        width: of the BERT; heads are 64 wide.
        layers: of the BERT.
        words: most words of the vocabulary (those seen twice or more, the frequent ones first); others are spelled.
        lr: peak learning rate of AdamW.
        seed: of weights, order and masks.
        device: where to train.
        advance: told of each step.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

    vocabulary = caption_vocabulary(captions, words)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_pieces(vocabulary),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    config = AutoConfig.for_model(
        "bert", vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), intermediate_size=4 * width, max_position_embeddings=128,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_config(config).to(device).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
        for step in range(steps):
            rise = min(1.0, 10 * (step + 1) / steps)
            for group in optimiser.param_groups:
                group["lr"] = lr * min(rise, (steps - step) / steps)
            chosen = [captions[int(i)] for i in rng.integers(0, len(captions), batch)]
            given = tokenizer(chosen, padding=True, truncation=True, max_length=64, return_tensors="pt")
            ids = given["input_ids"]
            hidden = torch.from_numpy(rng.random(tuple(ids.shape)) < 0.15) & (ids >= len(SPECIAL))
            if not hidden.any():
                continue
            labels = torch.where(hidden, ids, -100)
            loss = model(
                input_ids=ids.masked_fill(hidden, tokenizer.mask_token_id).to(device),
                attention_mask=given["attention_mask"].to(device),
                labels=labels.to(device),
            ).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            advance(1)
    draft = folder.with_name(f"draft_{folder.name}")
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(folder)


def caption_vocabulary(captions: Iterable[str], words: int) -> list[str]:
    """Special tokens; the `words` most frequent words that occur at least twice; letters to spell all others."""
    counts = Counter(word for caption in captions for word in re.findall(r"\w+|[^\w\s]", caption.lower()))
    common = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    letters = sorted({letter for word in counts for letter in word})
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    return [*SPECIAL, *dict.fromkeys([*common[:words], *pieces])]


def whole_words(tokenizer: Any) -> dict[int, str]:
    """The entries of a vocabulary that are words of lower-case letters, by number, whatever the tokenizer's marks."""
    vocabulary = tokenizer.get_vocab()
    marked = next((mark for mark in ("Ġ", "▁") if any(entry.startswith(mark) for entry in vocabulary)), "")
    found = {
        number: entry.removeprefix(marked)
        for entry, number in vocabulary.items()
        if entry.startswith(marked) and number not in tokenizer.all_special_ids
    }
    return {n: w for n, w in found.items() if len(w) > 1 and w.isalpha() and w == w.lower()}


def _word_pieces(vocabulary: list[str]) -> FastTokenizer:
    numbers = {entry: number for number, entry in enumerate(vocabulary)}
    fast = FastTokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    fast.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return fast
