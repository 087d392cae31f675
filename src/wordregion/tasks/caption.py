"""Captions: next words by cross-entropy, then whole captions by their reward (X-VLM, its code for captioning).

Shape letters: T captions, L their tokens, N predicted tokens of all captions, W vocabulary, I images, R sampled
captions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.losses.captions import reward_loss, smoothed_word_loss
from wordregion.models.caption import CaptionWriter, caption_states, word_head
from wordregion.models.fusion import FusionModel
from wordregion.models.generate import Limits, write
from wordregion.schema import Batch
from wordregion.tasks.image_tokens import ImageTokens, is_frozen
from wordregion.tasks.protocol import StepOutput

Reward = Callable[[Sequence[Sequence[int]], Sequence[Sequence[str]]], Sequence[float]]
"""(words of each caption as token ids without prompt and end, the captions people gave its image) to rewards."""


@dataclass(frozen=True)
class Caption:
    """Settings of `CaptionTask`: learn the next word of people's captions.

    Attributes:
        smoothing: share of the label that goes to the other words, in [0, 1).
        keep_image_tokens: encode each image once and keep its tokens in memory, and in a folder for further runs if one
            is given. For a frozen image encoder and a transform that draws nothing, or few results (`Variants`).
    """

    smoothing: float = 0.1
    keep_image_tokens: bool | Path = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"Caption: smoothing={self.smoothing} is outside [0, 1). Choose a value in it.")

    def build(self, model: FusionModel) -> "CaptionTask":
        """The trainable task around a model with a masked-word head."""
        return CaptionTask(model, self)


class CaptionTask(nn.Module):
    """``Batch.labels`` says which tokens are predicted: all of a caption but the prompt, the end included."""

    def __init__(self, model: FusionModel, settings: Caption) -> None:
        super().__init__()
        word_head(model)
        self.model, self.settings = model, settings
        self._image_tokens = ImageTokens(settings.keep_image_tokens)

    def train(self, mode: bool = True) -> "CaptionTask":
        """Switches the model; a frozen image encoder always predicts."""
        super().train(mode)
        if is_frozen(self.model.vision):
            self.model.vision.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(1,) predicted tokens of a micro-batch."""
        return (_labels(batch)[:, 1:] != -100).sum().float().reshape(1).cpu()

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Mean loss over the predicted tokens of the step, and the share of them that are right."""
        labels_TL = _labels(batch)[:, 1:]
        text_N, position_N = (labels_TL != -100).nonzero(as_tuple=True)
        labels_N, total = labels_TL[text_N, position_N], totals[0].to(batch.image.device).clamp(min=1e-12)
        image = self._image_tokens.student(self.model, batch)
        hidden = caption_states(self.model, batch.token_ids[:, :-1], image, batch.text_image)
        logits_NW = word_head(self.model)(hidden[text_N, position_N])
        loss = smoothed_word_loss(logits_NW, labels_N, self.settings.smoothing).sum() / total
        hits = (logits_NW.detach().argmax(1) == labels_N).sum() / total
        metrics = {"caption": loss.detach(), "token_accuracy": hits}
        return StepOutput(loss, metrics, self._image_tokens.known(self.model, None, batch))

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    def after_step(self) -> None:
        """Nothing to do after the optimiser."""

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing."""
        return self.model.blocks()


@dataclass(frozen=True)
class SelfCritical:
    """Settings of `SelfCriticalTask`: raise the reward of whole captions (Rennie et al. 2017).

    Attributes:
        reward: of sampled captions, CIDEr-D for example.
        samples: captions sampled of each image.
        max_tokens: where a caption is cut, prompt included.
    """

    reward: Reward
    samples: int = 5
    max_tokens: int = 20

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens) < 1:
            raise UsageError(
                f"SelfCritical: samples={self.samples}, max_tokens={self.max_tokens}: at least 1. Correct the recipe."
            )

    def build(self, model: FusionModel) -> "SelfCriticalTask":
        """The trainable task around a model with a masked-word head."""
        return SelfCriticalTask(model, self)


class SelfCriticalTask(nn.Module):
    """Samples captions of each image; those better than the greedy one become more probable, the others less.

    Captions are sampled and decoded greedily without gradient and without dropout; their probabilities are then
    computed in one pass with gradient. (The original keeps the gradients of its sampling, dropout on: the same
    estimate at dropout 0, for far more memory.) A step needs one text an image, whose tokens before the first label are
    the prompt and whose last label is the end, and the target ``references``: people's captions of each image.
    """

    def __init__(self, model: FusionModel, settings: SelfCritical) -> None:
        super().__init__()
        word_head(model)
        self.model, self.settings = model, settings

    def train(self, mode: bool = True) -> "SelfCriticalTask":
        """Switches the model; a frozen image encoder always predicts."""
        super().train(mode)
        if is_frozen(self.model.vision):
            self.model.vision.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(1,) images of a micro-batch."""
        return torch.tensor([float(len(batch.image))])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Self-critical loss, mean over the samples of the step; the rewards of samples and greedy captions."""
        settings, total = self.settings, totals[0].to(batch.image.device)
        (prompt, end), images = _prompt_and_end(batch), len(batch.image)
        image = self.model.encode_image(batch.image)
        limits = Limits(end, settings.max_tokens)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            seen = image.detach()
            greedy = write(CaptionWriter(self.model, seen), prompt, images, limits)
            drawn = write(CaptionWriter(self.model, seen), prompt, images * settings.samples, limits, _sample)
        self.train(was_training)
        references = batch.target["references"]
        owner = torch.arange(images).repeat_interleave(settings.samples).tolist()
        base = _rewards(settings, greedy.ids, references, image.device)
        reward = _rewards(settings, drawn.ids, [references[row] for row in owner], image.device)
        advantage = reward - base.repeat_interleave(settings.samples)
        rows = [[*words, end] if done else words for words, done in zip(drawn.ids, drawn.ended, strict=True)]
        log_probability = self._log_probability(image, prompt, rows)
        share = total * settings.samples
        loss = reward_loss(log_probability, advantage).sum() / share
        metrics = {"caption": loss.detach(), "reward": reward.sum() / share, "greedy_reward": base.sum() / total}
        return StepOutput(loss, metrics)

    def _log_probability(self, image: Tensor, prompt: Tensor, rows: list[list[int]]) -> Tensor:
        """(R,) mean log-probability of the tokens of each caption, those of the prompt given."""
        length = max(map(len, rows))
        words_RM = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=image.device)
        count_R1 = torch.tensor([[len(row)] for row in rows], device=image.device)
        real_RM = torch.arange(length, device=image.device) < count_R1
        ids = torch.cat([prompt.expand(len(rows), -1), words_RM], 1)
        hidden = caption_states(self.model, ids[:, :-1], image)[:, len(prompt) - 1 :]
        row, position = real_RM.nonzero(as_tuple=True)
        log_NW = word_head(self.model)(hidden[row, position]).float().log_softmax(-1)
        chosen_N = log_NW.gather(1, words_RM[row, position][:, None])[:, 0]
        return chosen_N.new_zeros(len(rows)).index_add(0, row, chosen_N) / count_R1[:, 0]

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    def after_step(self) -> None:
        """Nothing to do after the optimiser."""

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing."""
        return self.model.blocks()


def _labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise UsageError("captions need labels of the tokens to predict. Collate with a CaptionCollator.")
    return batch.labels


def _prompt_and_end(batch: Batch) -> tuple[Tensor, int]:
    """(M,) the tokens before a caption's own, the same for all; and the token that ends every caption."""
    labelled = (_labels(batch)[0] != -100).nonzero()[:, 0]
    return batch.token_ids[0, : int(labelled[0])], int(batch.token_ids[0, labelled[-1]])


def _sample(logits_RW: Tensor) -> Tensor:
    return torch.multinomial(logits_RW.softmax(1), 1)[:, 0]


def _rewards(settings: SelfCritical, ids: list[list[int]], references: Any, device: torch.device) -> Tensor:
    return torch.tensor(list(settings.reward(ids, references)), dtype=torch.float32, device=device)
