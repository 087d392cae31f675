"""Texts out of a language model: one by one as a function chooses, or by beam search.

Lengths count every token, the prompt's too, as X-VLM's settings do.

Shape letters: R rows (texts), Q sequences asked for, B beams of each, M tokens of the prompt, S tokens so far,
W vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.models.finite import require_finite


@runtime_checkable
class NextToken(Protocol):
    """A language model that remembers the rows' tokens so far."""

    def __call__(self, new_RM: Int[Tensor, "R M"], /) -> Float[Tensor, "R W"]:
        """Logits of what follows, given the tokens that were not given yet."""
        ...

    def keep(self, rows_R: Int[Tensor, "R"], /) -> None:
        """Goes on with these rows."""
        ...


@dataclass(frozen=True)
class Limits:
    """When a text ends, and how much it may repeat itself.

    Attributes:
        end: id of the token that ends a text ([SEP]).
        max_tokens: where a text is cut, prompt included.
        min_tokens: a text that is shorter than this, prompt included, does not end.
        penalty: of tokens that the text has already: a negative score is multiplied by it, another divided (Keskar et
            al. 2019); 1 = none.
    """

    end: int
    max_tokens: int = 20
    min_tokens: int = 0
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.min_tokens < 0 or not self.penalty > 0:
            raise UsageError(f"{self}: max_tokens >= 1, min_tokens >= 0 and penalty > 0 must hold.")

    def apply(self, score_RW: Float[Tensor, "R W"], ids_RS: Int[Tensor, "R S"]) -> Float[Tensor, "R W"]:
        """Scores of the next token with the penalty, and without the end where it is too early."""
        if self.penalty != 1:
            used = score_RW.gather(1, ids_RS)
            score_RW = score_RW.scatter(1, ids_RS, torch.where(used < 0, used * self.penalty, used / self.penalty))
        if ids_RS.shape[1] < self.min_tokens:
            score_RW = score_RW.index_fill(1, torch.tensor([self.end], device=score_RW.device), float("-inf"))
        return score_RW


@dataclass(frozen=True)
class Texts:
    """What was written.

    Attributes:
        ids: tokens of each text, without prompt and end.
        ended: whether each ended by itself; else it was cut.
        log_probability: (R,) mean over a text's chosen tokens, the end included and the prompt not.
    """

    ids: list[list[int]]
    ended: list[bool]
    log_probability: Float[Tensor, "R"]


def most_probable(score_RW: Float[Tensor, "R W"]) -> Int[Tensor, "R"]:
    """The choice of greedy decoding."""
    return score_RW.argmax(1)


@torch.no_grad()
def write(
    model: NextToken,
    prompt_M: Int[Tensor, "M"],
    rows: int,
    limits: Limits,
    choose: Callable[[Tensor], Tensor] = most_probable,
) -> Texts:
    """Texts token by token.

    Args:
        model: of `rows` rows.
        prompt_M: how each text begins ([CLS] at least).
        rows: R.
        limits: the penalty reaches the logits.
        choose: (R, W) logits to (R,) tokens; greedy by default.

    Raises:
        UsageError: for no room behind the prompt, or a model that gives NaN.
    """
    ids = prompt_M.expand(rows, -1)
    _check_room(prompt_M, limits)
    running = torch.ones(rows, dtype=torch.bool, device=ids.device)
    total, count = torch.zeros(rows, device=ids.device), torch.zeros(rows, device=ids.device)
    new = ids
    while ids.shape[1] < limits.max_tokens and bool(running.any()):
        score_RW = limits.apply(model(new), ids)
        word = torch.where(running, choose(score_RW), limits.end)
        own = score_RW.log_softmax(1).gather(1, word[:, None])[:, 0]
        total += torch.where(running, own, 0.0)  # an ended row's end may be impossible: -inf x 0 is NaN
        count += running
        running = running & (word != limits.end)
        new = word[:, None]
        ids = torch.cat([ids, new], 1)
    require_finite(total, "log-probabilities", infinite=True)
    begin = len(prompt_M)
    texts = [row[: row.index(limits.end)] if limits.end in row else row for row in ids[:, begin:].tolist()]
    return Texts(texts, (~running).tolist(), total / count)


@torch.no_grad()
def beam_search(
    model: NextToken, prompt_M: Int[Tensor, "M"], sequences: int, beams: int, limits: Limits, length_power: float = 1.0
) -> Texts:
    """The best text found for each of Q sequences, as in transformers 4.12 (which X-VLM uses).

    A finished text has the sum of its tokens' log-probabilities over its length to the power of `length_power`; a
    search ends when none of its running beams can beat the worst of its B finished ones at the present length (with
    power 0, where nothing that is longer is more probable: the best of them).

    Args:
        model: of Q x B rows, ordered by sequence.
        prompt_M: how each text begins.
        sequences: Q.
        beams: B.
        limits: the penalty reaches the log-probabilities. A text that is cut counts as finished.
        length_power: 1 = mean log-probability; 0 = the most probable text.

    Raises:
        UsageError: for no room behind the prompt, or a model that gives NaN.
    """
    _check_room(prompt_M, limits)
    Q, B, device = sequences, beams, prompt_M.device
    ids = prompt_M.expand(Q * B, -1)
    score_QB = torch.full((Q, B), float("-inf"), device=device)
    score_QB[:, 0] = 0.0  # all beams of a sequence begin alike: one of them counts
    first_row_Q1 = torch.arange(Q, device=device)[:, None] * B
    finished = [_Best(B, enough=1 if length_power == 0 else B) for _ in range(Q)]
    new = ids
    while ids.shape[1] < limits.max_tokens:
        log_RW = limits.apply(model(new).log_softmax(1), ids)
        W = log_RW.shape[1]
        found, flat = (score_QB[:, :, None] + log_RW.view(Q, B, W)).flatten(1).topk(min(2 * B, B * W), dim=1)
        require_finite(found[:, 0], "log-probabilities", infinite=True)  # NaN sorts before any number
        row, word = first_row_Q1 + flat // W, flat % W
        ended = word == limits.end
        scale = ids.shape[1] ** length_power
        for q, best in enumerate(finished):
            if best.done:
                continue
            for rank in ended[q, :B].nonzero()[:, 0].tolist():
                if found[q, rank] > float("-inf"):
                    best.add(float(found[q, rank]) / scale, ids[row[q, rank]], True)
            best.close(float(found[q, 0]) / scale)
        if all(best.done for best in finished):
            break
        order = ended.int().argsort(dim=1, stable=True)[:, :B]  # a beam ends at most once: B of 2 B go on
        score_QB, row, word = found.gather(1, order), row.gather(1, order).flatten(), word.gather(1, order)
        model.keep(row)
        new = word.reshape(-1, 1)
        ids = torch.cat([ids[row], new], 1)
    scale = ids.shape[1] ** length_power
    for q, best in enumerate(finished):
        for b in range(B if not best.done else 0):
            best.add(float(score_QB[q, b]) / scale, ids[q * B + b], False)
    begin, chosen = len(prompt_M), [best.texts[-1] for best in finished]
    means = [score * len(tokens) ** length_power / (len(tokens) - begin + ended) for score, tokens, ended in chosen]
    return Texts([c[1][begin:].tolist() for c in chosen], [c[2] for c in chosen], torch.tensor(means, device=device))


class _Best:
    """The finished texts of one search, at most `room`, the best last; `done` when `enough` of them can't be beaten."""

    def __init__(self, room: int, enough: int) -> None:
        self.room, self.enough, self.done = room, enough, False
        self.texts: list[tuple[float, Tensor, bool]] = []

    def add(self, score: float, tokens: Tensor, ended: bool) -> None:
        self.texts.append((score, tokens, ended))
        self.texts.sort(key=lambda text: text[0])
        del self.texts[: -self.room]

    def close(self, attainable: float) -> None:
        self.done = len(self.texts) >= self.enough and self.texts[-self.enough][0] >= attainable


def _check_room(prompt_M: Tensor, limits: Limits) -> None:
    if len(prompt_M) >= limits.max_tokens:
        raise UsageError(f"max_tokens={limits.max_tokens} leaves no room behind a prompt of {len(prompt_M)} tokens.")
