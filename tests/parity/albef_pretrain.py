"""Every array of the group ``pretrain/`` of ALBEF's reference numbers, computed with this library."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.parity.golden import Golden, images, weights
from tests.parity.released import gradient_tables, released_model
from wordregion.losses.tokens import masked_word_loss
from wordregion.models.fusion import FusionModel
from wordregion.models.official import to_official
from wordregion.models.report import resize_positions
from wordregion.objectives import Contrast, MaskedWords, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align, AlignTask
from wordregion.tasks.teacher import update_teacher

LAYOUT = "albef/pretrain"
QUEUE = 65536
POINTER = {"alpha04": 65532}  # README: that run starts near the end of the queue, all others at 0


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    state = weights(golden, "pretrain")
    if any(not re.match(r"pretrain/alpha\d+", name) for name in names):
        yield from _static(golden, state)
    runs = sorted({found[1] for name in names if (found := re.match(r"pretrain/(alpha\d+)(?:/|__)", name))})
    for run in runs:
        yield from _run(golden, state, run, names)


def alpha_of(run: str) -> float:
    """``alpha0`` -> 0, ``alpha04`` -> 0.4, ``alpha025`` -> 0.25, ``alpha1`` -> 1."""
    digits = run.removeprefix("alpha")
    return float(f"{digits[0]}.{digits[1:] or 0}")


def _padded(rows: list[list[int]], value: int = 0) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


@cache
def _pixels(count: int) -> Tensor:
    return images((count, 3, 256, 256))


def _batch(golden: Golden) -> Batch:
    ids = _padded(golden.inputs["captions_ids"])
    count = len(ids)
    return Batch(
        image=_pixels(count),
        image_key=torch.arange(count),
        token_ids=ids,
        token_mask=ids != 0,
        text_image=torch.arange(count),
        masked_ids=torch.tensor(golden.inputs["mlm_input_ids"]),
        labels=torch.tensor(golden.inputs["mlm_labels"]),
    )


@torch.no_grad()
def _static(golden: Golden, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    model, batch = released_model(golden, "pretrain", LAYOUT), _batch(golden)
    assert batch.masked_ids is not None
    assert batch.labels is not None
    image = model.encode_image(batch.image)
    text = model.encode_text(batch.token_ids, batch.token_mask)
    fused = model.fuse(text, batch.token_mask, image, batch.text_image)
    masked_text = model.encode_text(batch.masked_ids, batch.token_mask)
    logits = model.heads["mask"](model.fuse(masked_text, batch.token_mask, image, batch.text_image).hidden)
    at = batch.labels != -100
    found = {
        "image_embeds": image,
        "image_embeds_zero_image": model.encode_image(torch.zeros(1, 3, 256, 256)),
        "text_embedding_layer": model.text.body.embeddings(batch.token_ids),
        "text_embeds": text,
        "image_feat": model.project_image(image),
        "text_feat": model.project_text(text, batch.token_mask),
        "fusion_out": fused.hidden,
        "fusion_cls": fused.cls,
        "itm_logits_positive": model.heads["match"](fused.cls),
        "mlm_logits_all_positions": logits,
        "mlm_logits_at_labels": logits[at],
        "mlm_loss_hard_only": masked_word_loss(logits[at], batch.labels[at]).mean(),
        "image_embeds_m_before_update": released_model(golden, "pretrain", LAYOUT, momentum=True).encode_image(
            batch.image
        ),
        "pos_embed_256_to_384": resize_positions(state["visual_encoder.pos_embed"], 24 * 24),
    }
    for name, value in found.items():
        yield f"pretrain/{name}", value


def _run(golden: Golden, state: dict[str, Tensor], run: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    prefix = f"pretrain/{run}"
    chosen: list[Tensor] = []

    def largest(weights: Tensor) -> Tensor:
        chosen.append(weights.argmax(-1))
        return chosen[-1]

    settings = Align(
        objectives=(Contrast(), Match(draw=largest), MaskedWords()),
        queue_size=QUEUE,
        distill=alpha_of(run),
        ramp_steps=0,
    )
    task = AlignTask(released_model(golden, "pretrain", LAYOUT), settings).eval()
    task.teacher.load_state_dict(released_model(golden, "pretrain", LAYOUT, momentum=True).state_dict())
    task.queue.image.copy_(state["image_queue"].T)
    task.queue.text.copy_(state["text_queue"].T)
    start = _start(golden, run)
    task.queue.pointer.fill_(start)
    update_teacher(task.teacher, task.model, settings.momentum)  # the original's forward begins with it
    for name, value in to_official(dict(task.teacher.named_parameters()), LAYOUT, momentum=True).items():
        yield f"{prefix}/after_update/{name}", value

    batch = _batch(golden)
    output = task(batch, task.counts(batch))
    output.loss.backward()
    yield f"{prefix}/loss_ita", output.metrics["contrast"]
    yield f"{prefix}/loss_itm", output.metrics["match"]
    yield f"{prefix}/loss_mlm", output.metrics["masked_words"]
    yield f"{prefix}/neg_index_image_for_text", chosen[0]
    yield f"{prefix}/neg_index_text_for_image", chosen[1]
    yield from gradient_tables(golden, prefix, task.model, LAYOUT)

    if any(name.startswith(f"{prefix}/after_adamw_step/") for name in names):
        _adamw_step(task.model)
        after = to_official({name: p.detach() for name, p in task.model.named_parameters()}, LAYOUT)
        for name, value in after.items():
            yield f"{prefix}/after_adamw_step/{name}", value

    task.after_step()
    columns = [(start + i) % QUEUE for i in range(len(batch.token_ids))]
    yield f"{prefix}/image_queue_after_cols", task.queue.image[columns].T
    yield f"{prefix}/text_queue_after_cols", task.queue.text[columns].T
    yield f"{prefix}/queue_ptr_after", task.queue.pointer.reshape(1)
    for name in names:
        if found := re.fullmatch(rf"{prefix}/(image|text)_queue_untouched_col_(\d+)", name):
            yield name, getattr(task.queue, found[1])[int(found[2])]


def _start(golden: Golden, run: str) -> int:
    """Where the run's queue pointer starts: the inputs file, else the README's rule, else from the pointer after."""
    given: Any = golden.inputs.get(f"pretrain/{run}", {})
    if "queue_ptr" in given:
        return int(given["queue_ptr"])
    after = golden.arrays.get(f"pretrain/{run}/queue_ptr_after")
    if run in POINTER or run == "alpha0" or after is None:
        return POINTER.get(run, 0)
    return int(after[0] - len(golden.inputs["captions_ids"])) % QUEUE


def _adamw_step(model: FusionModel) -> None:
    """AdamW as the README of the numbers gives it: vectors and biases do not decay, the scalar temperature does."""
    groups: dict[float, list[Tensor]] = {0.0: [], 0.02: []}
    for name, parameter in model.named_parameters():
        groups[0.0 if parameter.ndim == 1 and name != "temperature" else 0.02].append(parameter)
    optimiser = torch.optim.AdamW([{"params": p, "weight_decay": decay} for decay, p in groups.items()], lr=1e-4)
    optimiser.step()
