"""Every array of the group ``captioning/`` of X-VLM's reference numbers, computed with this library.

The setting of an array comes from its name: ``sharp8_eos`` is a variant of the weights that the folder's inputs
explain, ``beam3_min5_max20_ids`` a way of decoding, ``loss_label_smoothing_0.1`` a loss.
"""

import re
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from tests.parity.golden import Golden, images
from tests.parity.released import gradient_tables, released_model
from wordregion.models.caption import CaptionWriter, caption_states, word_head
from wordregion.models.fusion import FusionModel
from wordregion.models.generate import Limits, Texts, beam_search, write
from wordregion.schema import Batch
from wordregion.tasks.caption import Caption

LAYOUT = "xvlm/captioning"
END, MAX_TOKENS, MIN_TOKENS = 102, 20, 5


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    model = released_model(golden, "captioning", LAYOUT)
    yield from _losses(golden, names, model)
    with torch.no_grad():
        image = model.encode_image(images((4, 3, 384, 384))[:2])
    plain = word_head(model).norm.weight.detach().clone(), word_head(model).decoder.bias.detach().clone()
    for variant in dict.fromkeys(name.split("/")[1] for name in names if name.count("/") == 2):
        _vary(golden, model, variant, plain)
        own = [name for name in names if name.startswith(f"captioning/{variant}/")]
        yield from _decoded(golden, model, image, own, f"captioning/{variant}")


def _vary(golden: Golden, model: FusionModel, variant: str, plain: tuple[Tensor, Tensor]) -> None:
    """Sets the word head to a variant: ``sharp8`` makes its LayerNorm 8 times as large, ``eos`` favours the end."""
    head = word_head(model)
    scale = float(found[1]) if (found := re.search(r"sharp(\d+)", variant)) else 1.0
    with torch.no_grad():
        head.norm.weight.copy_(plain[0] * scale)
        head.decoder.bias.copy_(plain[1])
        if variant.endswith("_eos"):
            head.decoder.bias[END] += golden.inputs["caption_variants"]["eos_bias"]


@torch.no_grad()
def _decoded(
    golden: Golden, model: FusionModel, image: Tensor, names: list[str], prefix: str
) -> Iterator[tuple[str, Tensor]]:
    prompt = torch.tensor(golden.inputs["caption_prompt_ids"][:-1])
    count = len(image)

    @cache
    def greedy_texts(limits: Limits) -> Texts:
        return write(CaptionWriter(model, image), prompt, count, limits)

    for name in names:
        way = name.removeprefix(f"{prefix}/")
        if found := re.fullmatch(r"(greedy|beam(\d+))((?:_(?:min|max|rep)[\d.]+)*)_ids", way):
            given = {key: float(value) for key, value in re.findall(r"_(min|max|rep)([\d.]+)", found[3])}
            greedy = found[1] == "greedy"
            limits = Limits(
                end=END,
                max_tokens=int(given.get("max", MAX_TOKENS)),
                min_tokens=int(given.get("min", 0 if greedy else MIN_TOKENS)),  # the original's greedy has no minimum
                penalty=given.get("rep", 1.0),
            )
            if greedy:
                texts = greedy_texts(limits)
            else:
                beams = int(found[2])
                texts = beam_search(CaptionWriter(model, image), prompt, count, beams, limits)
            yield name, _original_ids(texts, prompt, limits, greedy)
        elif way == "greedy_mean_logprob":
            yield name, greedy_texts(Limits(END, MAX_TOKENS)).log_probability
        elif way == "teacher_forced_logits_on_greedy_ids":
            limits = Limits(END, MAX_TOKENS)
            ids = _original_ids(greedy_texts(limits), prompt, limits, greedy=True)
            yield name, word_head(model)(caption_states(model, ids[:, :-1], image))


def _original_ids(texts: Texts, prompt: Tensor, limits: Limits, greedy: bool) -> Tensor:
    """With prompt, end and padding. The original's greedy decoding puts the end over the last word of a text that it
    cuts, and pads to the longest text allowed; its beam search pads to the longest text."""
    rows = [
        [*prompt.tolist(), *words, *([END] if ended else [])]
        for words, ended in zip(texts.ids, texts.ended, strict=True)
    ]
    if greedy:
        rows = [row if ended else [*row[:-1], END] for row, ended in zip(rows, texts.ended, strict=True)]
    length = limits.max_tokens if greedy else max(map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _losses(golden: Golden, names: list[str], model: FusionModel) -> Iterator[tuple[str, Tensor]]:
    rows = golden.inputs["caption_train_ids"]
    length, begin = max(map(len, rows)), len(golden.inputs["caption_prompt_ids"]) - 1
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    predicted = (ids != 0) & (torch.arange(length) >= begin)
    batch = Batch(
        image=images((4, 3, 384, 384))[: len(rows)],
        image_key=torch.arange(len(rows)),
        token_ids=ids,
        token_mask=ids != 0,
        text_image=torch.arange(len(rows)),
        labels=torch.where(predicted, ids, -100),
    )
    wanted = [name for name in names if re.fullmatch(r"captioning/loss_label_smoothing_[\d.]+", name)]
    for name in wanted or ["captioning/loss_label_smoothing_0.1"]:
        task = Caption(smoothing=float(name.rpartition("_")[2])).build(model).eval()
        output = task(batch, task.counts(batch))
        yield name, output.loss
        if name.endswith("_0.1") and any("__grad" in other for other in names):
            output.loss.backward()
            yield from gradient_tables(golden, "captioning", model, LAYOUT)
            model.zero_grad()
