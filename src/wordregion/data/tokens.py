"""Texts to token ids with character offsets; masking of words.

Shape letters: T texts, L tokens.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from wordregion.errors import UsageError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_PAIRS = ("vocab.json", "merges.txt")
_DELETED = frozenset(",.'!?\"()*#:;~")
_SPACED = frozenset("-/")


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts.

    Attributes:
        ids: (T, L) token ids, padded with the padding id.
        mask: (T, L) True at real tokens.
        offsets: (T, L, 2) first and one-past-last character of each token in the original text; 0, 0 at special tokens.
        word: (T, L) index of the word that each token belongs to; -1 at special tokens and padding.
    """

    ids: Int[Tensor, "T L"]
    mask: Bool[Tensor, "T L"]
    offsets: Int[Tensor, "T L 2"]
    word: Int[Tensor, "T L"]

    def rows(self, begin: int, end: int) -> "Encoded":
        """The texts ``begin .. end - 1``, as long as they were."""
        return Encoded(*(part[begin:end] for part in (self.ids, self.mask, self.offsets, self.word)))

    def tokens_of_span(self, text: int, span: tuple[int, int]) -> Bool[Tensor, "L"]:
        """True at the tokens of a text that overlap the characters ``span[0] .. span[1] - 1``."""
        begin, end = self.offsets[text].unbind(-1)
        return (begin < span[1]) & (end > span[0]) & (end > begin)


class Tokenizer:
    """BERT's WordPiece, or RoBERTa's byte pairs, with offsets into the text as it was given.

    Args:
        vocab: ``"scenes"`` (the built-in vocabulary); a ``vocab.txt`` or ``tokenizer.json``; a folder holding one of
            them, or RoBERTa's ``vocab.json`` and ``merges.txt``; or a hub name such as ``"bert-base-uncased"``.
        max_tokens: texts are cut to so many tokens, special ones included.
        max_words: with `clean`, texts are cut to so many words.
        sep: whether a text ends with [SEP]; ALBEF's and X-VLM's end without it.
        clean: ALBEF's caption cleaning: lower case, punctuation deleted, dashes and slashes to spaces.

    Raises:
        UsageError: if the vocabulary cannot be read or lacks a special token.

    Attributes:
        continuing: by token id, whether the token goes on with the word of the token before it.
    """

    def __init__(
        self, vocab: str | Path, max_tokens: int = 30, max_words: int = 30, sep: bool = True, clean: bool = True
    ) -> None:
        if max_tokens < 3 or max_words < 1:
            raise UsageError(f"max_tokens={max_tokens}, max_words={max_words}: too short. Use at least 3 and 1.")
        self.max_tokens, self.max_words, self.sep, self.clean = max_tokens, max_words, sep, clean
        self._fast = _open(vocab)
        self._fast.no_padding()
        self._fast.no_truncation()
        self._fast.encode_special_tokens = True  # a caption that says "[SEP]" is words, not the end of the text
        numbers_used = self._fast.get_vocab().values()
        self.vocab_size: int = max(numbers_used, default=-1) + 1
        self._bytes = self._fast.token_to_id(ROBERTA_SPECIAL[0]) is not None
        special = ROBERTA_SPECIAL if self._bytes else SPECIAL
        numbers = [self._fast.token_to_id(token) for token in special]
        if None in numbers:
            absent = [token for token, number in zip(special, numbers, strict=True) if number is None]
            raise UsageError(f"vocabulary {vocab} lacks {', '.join(absent)}. Use BERT's or RoBERTa's vocabulary.")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (int(n) for n in numbers if n is not None)
        self.special_ids = frozenset(int(n) for n in numbers if n is not None)
        self.ordinary_ids = np.array(sorted(set(numbers_used) - self.special_ids), dtype=np.int64)
        if not len(self.ordinary_ids):
            raise UsageError(f"vocabulary {vocab} holds no words. Use BERT's or RoBERTa's vocabulary.")
        self.continuing = np.zeros(self.vocab_size, dtype=bool)
        for token, number in self._fast.get_vocab().items():
            self.continuing[number] = not token.startswith("Ġ") if self._bytes else token.startswith("##")
        self.continuing[list(self.special_ids)] = False

    def __call__(self, texts: list[str], pad_to_max: bool = False) -> Encoded:
        """Tokenises texts and pads them to the longest, or to `max_tokens`."""
        rows = [self._encode(text) for text in texts]
        length = self.max_tokens if pad_to_max else max((len(ids) for ids, _, _ in rows), default=1)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        offsets = torch.zeros(len(rows), length, 2, dtype=torch.long)
        word = torch.full((len(rows), length), -1)
        for row, (row_ids, row_offsets, row_words) in enumerate(rows):
            n = len(row_ids)
            ids[row, :n], mask[row, :n] = torch.tensor(row_ids), True
            offsets[row, :n], word[row, :n] = torch.tensor(row_offsets), torch.tensor(row_words)
        return Encoded(ids, mask, offsets, word)

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, without special tokens."""
        if self._bytes:
            return self._fast.decode([i for i in ids if i not in self.special_ids]).strip()
        tokens = [self._fast.id_to_token(i) or "[UNK]" for i in ids if i not in self.special_ids]
        return " ".join(tokens).replace(" ##", "")

    def token(self, number: int) -> str:
        """One entry of the vocabulary."""
        return self._fast.id_to_token(number) or "[UNK]"

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]], list[int]]:
        cleaned, origin = clean_caption(text, self.max_words) if self.clean else (text, list(range(len(text))))
        try:
            found = self._fast.encode(cleaned, add_special_tokens=False)
        except TypeError as error:
            if not isinstance(text, str):
                raise
            raise UsageError(f"text {text[:60]!r} holds half a character. Write it as valid Unicode.") from error
        room = self.max_tokens - 1 - self.sep
        ids, words = found.ids[:room], [-1 if w is None else w for w in found.word_ids[:room]]
        ends = [(b + cleaned[b:e].startswith(" "), e) for b, e in found.offsets[:room]]  # byte pairs hold their space
        offsets = [(origin[b], origin[e - 1] + 1) if e > b else (0, 0) for b, e in ends]
        if self.sep:
            ids, offsets, words = [*ids, self.sep_id], [*offsets, (0, 0)], [*words, -1]
        return [self.cls_id, *ids], [(0, 0), *offsets], [-1, *words]


def clean_caption(text: str, max_words: int) -> tuple[str, list[int]]:
    """ALBEF's caption cleaning, with the original position of every character that is left.

    Lower case; ``,.'!?"()*#:;~`` deleted; ``-`` and ``/`` become spaces; ``<person>`` loses its brackets; runs of
    spaces collapse; at most `max_words` words stay.
    """
    characters: list[str] = []
    origin: list[int] = []
    brackets = {p for m in re.finditer("<person>", text.lower()) for p in (m.start(), m.end() - 1)}
    words = 0
    for position, character in enumerate(text):
        if character in _DELETED or position in brackets:
            continue
        if character in _SPACED or character.isspace():
            if characters and characters[-1] != " ":
                characters.append(" ")
                origin.append(position)
            continue
        if not characters or characters[-1] == " ":
            words += 1
            if words > max_words:
                break
        for lowered in character.lower():
            characters.append(lowered)
            origin.append(position)
    while characters and characters[-1] == " ":
        characters.pop()
        origin.pop()
    return "".join(characters), origin


@dataclass(frozen=True)
class Masking:
    """BERT's corruption of tokens for masked-word objectives (Devlin et al., section 3.1).

    Attributes:
        probability: share of real tokens to predict; special tokens are never masked.
        mask: share of those that become [MASK].
        random: share of those that become any token but the five special ones; the rest stay as they are.
    """

    probability: float = 0.15
    mask: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or min(self.mask, self.random) < 0 or self.mask + self.random > 1:
            raise UsageError(f"{self}: shares must lie in [0, 1], mask + random too. Correct the recipe.")

    def __call__(
        self, ids_L: Int[Tensor, "L"], tokenizer: Tokenizer, rng: np.random.Generator
    ) -> tuple[Int[Tensor, "L"], Int[Tensor, "L"]]:
        """Corrupts one text, by draws that depend on its real tokens only, never on padding.

        Returns:
            The corrupted ids, and the labels: original ids where chosen, -100 elsewhere.
        """
        ids = ids_L.numpy()
        ordinary = np.flatnonzero(~np.isin(ids, list(tokenizer.special_ids)))
        chosen = ordinary[rng.random(len(ordinary)) < self.probability]
        fate = rng.random(len(chosen))
        replacement = rng.choice(tokenizer.ordinary_ids, len(chosen))
        masked, labels = ids.copy(), np.full_like(ids, -100)
        labels[chosen] = ids[chosen]
        masked[chosen[fate < self.mask]] = tokenizer.mask_id
        swapped = (fate >= self.mask) & (fate < self.mask + self.random)
        masked[chosen[swapped]] = replacement[swapped]
        return torch.from_numpy(masked), torch.from_numpy(labels)


@dataclass(frozen=True)
class WordMasking:
    """X-VLM's corruption: whole words, and now and then several in a row (its data code).

    Words are drawn until enough tokens are chosen; more than that are left out at random again.

    Attributes:
        probability: share of a text's tokens ([CLS] counted) to predict; one at least, special tokens never.
        most: tokens predicted in a text at most.
        skipgram: probability that a draw takes 2 to `longest` tokens in a row, each with the whole of its word.
        longest: see `skipgram`.
        mask: share of those that become [MASK].
        random: share of those that become any token but the special ones; the rest stay as they are.
    """

    probability: float = 0.25
    most: int = 8
    skipgram: float = 0.2
    longest: int = 3
    mask: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.probability, self.skipgram, self.mask, self.random)
        if min(shares) < 0 or max(*shares, self.mask + self.random) > 1 or self.most < 1 or self.longest < 2:
            raise UsageError(
                f"{self}: shares, and mask + random, must lie in [0, 1], most >= 1, longest >= 2. Correct the recipe."
            )

    def __call__(
        self, ids_L: Int[Tensor, "L"], tokenizer: Tokenizer, rng: np.random.Generator
    ) -> tuple[Int[Tensor, "L"], Int[Tensor, "L"]]:
        """Corrupts one text, by draws that depend on its real tokens only, never on padding.

        Returns:
            The corrupted ids, and the labels: original ids where chosen, -100 elsewhere.
        """
        ids = ids_L.numpy()
        ordinary = np.flatnonzero(~np.isin(ids, list(tokenizer.special_ids)))
        masked, labels = ids.copy(), np.full_like(ids, -100)
        if not len(ordinary):
            return torch.from_numpy(masked), torch.from_numpy(labels)
        wanted = min(self.most, max(1, round((len(ordinary) + 1) * self.probability)))
        chosen = rng.permutation(self._words(ids, ordinary, tokenizer, wanted, rng))[:wanted]
        fate = rng.random(len(chosen))
        replacement = rng.choice(tokenizer.ordinary_ids, len(chosen))
        labels[chosen] = ids[chosen]
        masked[chosen[fate < self.mask]] = tokenizer.mask_id
        swapped = (fate >= self.mask) & (fate < self.mask + self.random)
        masked[chosen[swapped]] = replacement[swapped]
        return torch.from_numpy(masked), torch.from_numpy(labels)

    def _words(
        self, ids: np.ndarray, ordinary: np.ndarray, tokenizer: Tokenizer, wanted: int, rng: np.random.Generator
    ) -> list[int]:
        """Positions of whole words, `wanted` at least where the text has so many."""
        real, goes_on = set(ordinary.tolist()), tokenizer.continuing[ids]
        taken: set[int] = set()
        for position in rng.permutation(ordinary).tolist():
            if len(taken) >= wanted:
                break
            if position in taken:
                continue
            size = int(rng.integers(2, self.longest + 1)) if rng.random() < self.skipgram else 1
            begin, end = position, position + size
            while goes_on[begin] and begin - 1 in real:
                begin -= 1
            while end in real and goes_on[end]:
                end += 1
            taken.update(place for place in range(begin, end) if place in real)
        return sorted(taken)


def _open(vocab: str | Path) -> FastTokenizer:
    path = Path(__file__).parent / "scenes_vocab.txt" if str(vocab) == "scenes" else Path(vocab)
    if path.is_dir():
        if all((path / name).is_file() for name in _PAIRS) and not (path / "tokenizer.json").is_file():
            return _byte_pairs(path)
        inside = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
        if not inside:
            raise UsageError(
                f"{path}: holds neither tokenizer.json nor vocab.txt, nor RoBERTa's {' and '.join(_PAIRS)}. Give a "
                "folder that does."
            )
        path = inside[0]
    if path.is_file():
        return _from_file(path)
    if path.suffix in (".txt", ".json") or path.is_absolute():
        raise UsageError(f"{path}: no such vocabulary file. Give a vocab.txt, a folder or a hub name.")
    try:
        return FastTokenizer.from_pretrained(str(vocab))
    except Exception as error:  # whatever the hub client raises, the user's remedy is the same
        raise UsageError(
            f"vocabulary {vocab}: neither a local file nor reachable on the hub. Give the path of a vocab.txt."
        ) from error


def _from_file(path: Path) -> FastTokenizer:
    try:
        if path.suffix == ".json":
            return FastTokenizer.from_file(str(path))
        lines = path.read_text(encoding="utf-8").splitlines()
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UsageError(f"{path}: unreadable vocabulary. Use a BERT vocab.txt or tokenizer.json.") from error
    entries = {line: number for number, line in enumerate(lines)}
    if "[UNK]" not in entries:
        raise UsageError(f"{path}: lacks [UNK]. Use a BERT WordPiece vocabulary, one entry a line.")
    fast = FastTokenizer(models.WordPiece(entries, unk_token="[UNK]", max_input_chars_per_word=100))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return fast


def _byte_pairs(folder: Path) -> FastTokenizer:
    try:
        fast = FastTokenizer(models.BPE.from_file(*(str(folder / name) for name in _PAIRS)))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UsageError(f"{folder}: unreadable {' or '.join(_PAIRS)}. Use RoBERTa's vocabulary.") from error
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return fast
