"""Class names as a prompt: detection becomes grounding (GLIP, section 3.1).

``["person", "hair_drier"]`` is read as "person. hair drier", and each class is a span of that text. A training prompt
has the classes that an image shows among others that it does not; inference asks for many classes prompt by prompt.

Shape letters: L tokens, S sets of spans.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Sample

SEPARATOR = ". "
ABSENT = "absent"
"""Name in ``Sample.target`` by which a detection sample is known: the classes that it could be asked for in vain."""

Span = tuple[int, int]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Wording:
    """A class with words around its name, as ODinW's prompts have them: "a photo of" penguin "which is black"."""

    name: str
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class Prompt:
    """A text, and where each class stands in it.

    Attributes:
        text: the classes, joined by ". ".
        spans: (begin, end) character offsets of each class's name, by the number of the class, in order.
    """

    text: str
    spans: Mapping[int, Span]


def clean_name(name: str) -> str:
    """A class name as words: "(...)" goes, "_" becomes a space, two spaces become one (GLIP's code)."""
    return re.sub(r" {2}", " ", re.sub(r"\(.*\)", "", name).replace("_", " "))


def class_prompt(names: Sequence[str | Wording], numbers: Iterable[int] | None = None) -> Prompt:
    """All the given classes in their order.

    Args:
        names: cleaned by `clean_name`; a `Wording` is taken as it is.
        numbers: of the classes, in the spans; 0, 1, ... if None.

    Raises:
        UsageError: if there are no classes, or one has no words.
    """
    if not names:
        raise UsageError("prompt: no classes. Name at least one, for example 'person. bicycle'.")
    spans: dict[int, Span] = {}
    text = ""
    for number, name in zip(range(len(names)) if numbers is None else numbers, names, strict=True):
        wording = name if isinstance(name, Wording) else Wording(clean_name(name))
        if not wording.name.strip():
            raise UsageError(f"prompt: class {number} ({name!r}) has no words. Give it a name outside of parentheses.")
        text += (SEPARATOR if spans else "") + wording.prefix
        spans[number] = (len(text), len(text) + len(wording.name))
        text += wording.name + wording.suffix
    return Prompt(text, spans)


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive parts of at most `size` items. LVIS's 1,203 classes by 40 are 31 parts (GLIP's code)."""
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def class_chunks(names: Sequence[str | Wording], tokenizer: Tokenizer, size: int = 40) -> list[Prompt]:
    """Prompts for any number of classes: at most `size` each, and less where the tokenizer's limit asks for it.

    Args:
        names: all classes; the spans are keyed by their place in this list.
        tokenizer: with room for each single class.
        size: classes a prompt, at most.

    Raises:
        UsageError: if there are no classes, or a single one is longer than the tokenizer's limit.
    """
    if size < 1:
        raise UsageError(f"prompt: {size} classes a prompt. Ask for at least 1.")
    parts: list[list[int]] = [[]]
    room = capacity = prompt_room(tokenizer)
    lengths = token_counts(tokenizer, [class_prompt([name]).text + SEPARATOR for name in names])
    for number, (name, length) in enumerate(zip(names, lengths, strict=True)):
        if length > capacity:
            raise UsageError(f"prompt: class {name!r} has more than {capacity} tokens. Shorten its name.")
        if length > room or len(parts[-1]) == size:
            parts.append([])
            room = capacity
        parts[-1].append(number)
        room -= length
    return [class_prompt([names[number] for number in part], part) for part in parts]


def prompt_room(tokenizer: Tokenizer) -> int:
    """Tokens that a prompt may have, without the special ones."""
    return tokenizer.max_tokens - 1 - tokenizer.sep


def token_count(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text of any length, without the special ones."""
    return token_counts(tokenizer, [text])[0]


def token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of texts of any length, without the special ones; WordPiece never joins two words."""
    words = [text.split() for text in texts]
    encoded = tokenizer([word for row in words for word in row])
    lengths = iter((encoded.mask.sum(1) - 1 - int(tokenizer.sep)).tolist())
    return [sum(next(lengths) for _ in row) for row in words]


@runtime_checkable
class Draws(Protocol):
    """The random choices behind a training prompt. Injected, so that the original's can be made again."""

    def chance(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def count(self, most: int) -> int:
        """Uniform in 1..most."""
        ...

    def sample(self, size: int, count: int) -> Sequence[int]:
        """`count` different numbers of 0..size-1."""
        ...

    def shuffle(self, items: Sequence[int]) -> list[int]:
        """The items in random order."""
        ...


class RandomDraws:
    """`Draws` from numpy's generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def chance(self) -> float:
        """Uniform in [0, 1)."""
        return float(self._rng.random())

    def count(self, most: int) -> int:
        """Uniform in 1..most."""
        return int(self._rng.integers(most)) + 1

    def sample(self, size: int, count: int) -> Sequence[int]:
        """`count` different numbers of 0..size-1."""
        return self._rng.choice(size, count, replace=False).tolist()

    def shuffle(self, items: Sequence[int]) -> list[int]:
        """The items in random order."""
        return [items[i] for i in self._rng.permutation(len(items))]


@dataclass(frozen=True)
class PromptSampling:
    """How a training prompt is drawn (GLIP's code).

    All classes that the image shows are kept, as far as the budget goes. Others are drawn beside them: `negatives` of
    them with probability `full`, else 1 to `negatives`; a drawn class that the image shows is no negative. All are
    shuffled.

    Attributes:
        negatives: classes drawn, at most.
        full: probability that all of these are drawn.
        budget: tokens of the prompt without the special ones.
    """

    negatives: int = 85
    full: float = 0.5
    budget: int = 254

    def __post_init__(self) -> None:
        if self.negatives < 0 or not 0 <= self.full <= 1 or self.budget < 1:
            raise UsageError(f"{self}: negatives >= 0, 0 <= full <= 1 and budget >= 1 must hold. Correct the recipe.")

    def __call__(
        self, names: Sequence[str], positives: Iterable[int], length: Callable[[str], int], draws: Draws
    ) -> Prompt:
        """One prompt.

        Args:
            names: of all classes; the spans are keyed by their place in this list.
            positives: classes that the image shows, in the order of its boxes.
            length: tokens of a text.
            draws: the random choices.
        """
        shown = set(positives)
        kept: set[int] = set()
        room = self.budget
        for number in draws.shuffle(list(shown)):
            room -= length(clean_name(names[number]) + SEPARATOR)
            if room < 0:
                break
            kept.add(number)
        room = max(room, 0)
        most = min(self.negatives, len(names))
        count = most if draws.chance() < self.full else min(draws.count(max(most, 1)), most)
        absent = {number for number in draws.sample(len(names), count) if number not in shown}  # ints: a fixed order
        order = draws.shuffle(list(kept))
        chosen: list[int] = []
        for number in draws.shuffle(list(absent)):
            room -= length(clean_name(names[number]) + SEPARATOR)
            if room <= 0:
                break
            chosen.append(number)
        order = draws.shuffle(chosen + order)
        return class_prompt([names[number] for number in order], order)


@dataclass(frozen=True)
class DetectionPrompts:
    """Turns a detection sample (see `ABSENT`) into a grounding sample with one prompt; others pass unchanged.

    Attributes:
        tokenizer: of the prompts; not cleaning, since the full stop between classes counts.
        sampling: how classes are drawn.
    """

    tokenizer: Tokenizer
    sampling: PromptSampling = PromptSampling()
    _lengths: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample with a prompt instead of class names.

        Raises:
            DataError: if there is no class at all to ask for.
        """
        if ABSENT not in sample.target:
            return sample
        target: dict[str, Any] = dict(sample.target)
        names = list(dict.fromkeys([*sample.texts, *target.pop(ABSENT)]))
        number = {name: i for i, name in enumerate(names)}
        shown = [g for g in sample.groundings if g.boxes]
        positives = [number[sample.texts[g.text]] for g in shown]
        if not names:
            raise DataError(sample.id, "categories", "no class to ask for", "Name the classes, or leave the image out.")
        prompt = self.sampling(names, positives, self._length, RandomDraws(rng))
        groundings = tuple(
            replace(g, text=0, span=prompt.spans[i]) for g, i in zip(shown, positives, strict=True) if i in prompt.spans
        )
        return replace(sample, texts=(prompt.text,), groundings=groundings, target=target)

    def _length(self, text: str) -> int:
        if text not in self._lengths:
            self._lengths[text] = token_count(self.tokenizer, text)
        return self._lengths[text]


@dataclass(frozen=True)
class FixedPrompts:
    """Asks every detection sample for the same classes in the same order; other samples pass unchanged.

    So a prompt is tuned: its offset belongs to the places of one text (`models.adapt`).

    Attributes:
        classes: all that samples show.
        tokenizer: with room for all of them in one prompt.
        wordings: of each class, if they are not asked for by their names.
    """

    classes: tuple[str, ...]
    tokenizer: Tokenizer
    wordings: tuple[str | Wording, ...] = ()

    def __post_init__(self) -> None:
        if self.wordings and len(self.wordings) != len(self.classes):
            raise UsageError(
                f"prompt: {len(self.wordings)} wordings for {len(self.classes)} classes. Give one for each."
            )
        if len(class_chunks(self.wordings or self.classes, self.tokenizer, len(self.classes) or 1)) > 1:
            room = prompt_room(self.tokenizer)
            raise UsageError(
                f"prompt: {len(self.classes)} classes have more than {room} tokens, and a tuned prompt is one text. "
                "Tune fewer classes, or raise max_tokens."
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample with the prompt instead of class names; draws nothing.

        Raises:
            DataError: if it shows another class.
        """
        if ABSENT not in sample.target:
            return sample
        prompt, number = class_prompt(self.wordings or self.classes), {n: i for i, n in enumerate(self.classes)}
        shown = [(g, sample.texts[g.text]) for g in sample.groundings if g.boxes]
        if strange := next((name for _, name in shown if name not in number), None):
            raise DataError(sample.id, "categories", f"{strange!r} is none of the prompt's", "Name all classes.")
        groundings = tuple(replace(g, text=0, span=prompt.spans[number[name]]) for g, name in shown)
        target = {name: value for name, value in sample.target.items() if name != ABSENT}
        return replace(sample, texts=(prompt.text,), groundings=groundings, target=target)


def token_map(
    offsets_L2: Int[Tensor, "L 2"], spans: Iterable[Span], original_behaviour: bool = False
) -> Bool[Tensor, "L"]:
    """The tokens of some spans of a text.

    Args:
        offsets_L2: first and one-past-last character of each token; 0, 0 at special tokens and padding.
        spans: (begin, end) characters.
        original_behaviour: GLIP's search: the token of the first character, or of one of the next two; the token of the
            last, or of one of the two before; nothing if either fails. Else every token that overlaps the span.
    """
    begin_L, end_L = offsets_L2.unbind(-1)
    tokens_L = torch.zeros(len(offsets_L2), dtype=torch.bool, device=offsets_L2.device)

    def token_of(character: int) -> int | None:
        found = torch.nonzero((begin_L <= character) & (character < end_L)).flatten()
        return int(found[0]) if len(found) else None

    for begin, end in spans:
        if not original_behaviour:
            tokens_L |= (begin_L < end) & (end_L > begin) & (end_L > begin_L)
            continue
        first = next((t for c in (begin, begin + 1, begin + 2) if (t := token_of(c)) is not None), None)
        last = next((t for c in (end - 1, end - 2, end - 3) if (t := token_of(c)) is not None), None)
        if first is not None and last is not None:
            tokens_L[first : last + 1] = True
    return tokens_L


def positive_map(tokens_SL: Bool[Tensor, "S L"]) -> Float[Tensor, "S L"]:
    """Each row's tokens share a weight of almost 1: 1 / (count + 1e-6). Rows without tokens stay zero (GLIP's code)."""
    weight_SL = tokens_SL.float()
    return weight_SL / (weight_SL.sum(1, keepdim=True) + 1e-6)


def phrase_prompts(text: str, spans: Sequence[Span], tokenizer: Tokenizer) -> list[Prompt]:
    """A caption as one prompt, or as several where it is over the tokenizer's limit; phrases keep their numbers.

    Pieces without a phrase are left out.

    Raises:
        UsageError: if a single phrase is longer than the limit.
    """
    prompts = []
    for begin, end in split_caption(text, spans, tokenizer) if spans else ():
        inside = {n: (b - begin, e - begin) for n, (b, e) in enumerate(spans) if begin <= b < end}
        if inside:
            prompts.append(Prompt(text[begin:end], inside))
    return prompts


def split_caption(text: str, spans: Sequence[Span], tokenizer: Tokenizer) -> list[Span]:
    """Cuts a caption that is longer than the tokenizer's limit between words, never inside a span.

    Returns:
        (begin, end) of each piece; together they hold every word. One piece if the caption fits.

    Raises:
        UsageError: if a single span is longer than the limit.
    """
    words = [(found.start(), found.end()) for found in re.finditer(r"\S+", text)]
    lengths = token_counts(tokenizer, [text[begin:end] for begin, end in words])
    room = prompt_room(tokenizer)
    units: list[tuple[int, int, int]] = []  # words that must stay together: begin, end, tokens
    for (begin, end), length in zip(words, lengths, strict=True):
        if units and any(b < units[-1][1] and begin < e for b, e in spans):
            units[-1] = (units[-1][0], end, units[-1][2] + length)
        else:
            units.append((begin, end, length))
    pieces: list[tuple[int, int, int]] = []
    for begin, end, length in units:
        if length > room:
            raise UsageError(
                f"caption: '{text[begin : begin + 40]}...' has {length} tokens in one phrase, over {room}."
            )
        if pieces and pieces[-1][2] + length <= room:
            pieces[-1] = (pieces[-1][0], end, pieces[-1][2] + length)
        else:
            pieces.append((begin, end, length))
    return [(begin, end) for begin, end, _ in pieces]
