"""Every array of the group ``vqa/`` of ALBEF's reference numbers, computed with this library.

The setting of an array comes from its name: ``alpha04`` distils with 0.4, ``rank_k8`` ranks eight candidates.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.parity.albef_pretrain import alpha_of
from tests.parity.golden import Golden, images, weights
from wordregion.evaluate.answers import rank_answers
from wordregion.models.fusion import FusionModel
from wordregion.models.questions import encode_questions
from wordregion.models.zoo import albef_vqa_base
from wordregion.schema import Batch
from wordregion.tasks.answer import Answer, AnswerTask
from wordregion.tasks.teacher import update_teacher


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    state = weights(golden.manifest["models"]["vqa"])
    runs = dict.fromkeys(found[1] for name in names if (found := re.match(r"vqa/(nodistill|alpha\d+)(?:/|__)", name)))
    if any(not re.match(r"vqa/(nodistill|alpha\d+)", name) for name in names):
        yield from _outputs(golden, state, names)
    for run in runs:
        yield from _run(golden, state, run)


def _model(state: dict[str, Tensor], momentum: bool = False) -> FusionModel:
    model = albef_vqa_base(vision_weights=False, text_weights=False)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if theirs := _theirs(name, momentum):
                value.copy_(torch.cat([state[key] for key in theirs]))
    return model.eval()


def _batch(golden: Golden) -> Batch:
    question, answer = _padded(golden.inputs["vqa_question_ids"]), _padded(golden.inputs["vqa_answer_ids"])
    count = len(question)
    return Batch(
        image=images((4, 3, 384, 384))[:count],
        image_key=torch.arange(count),
        token_ids=question,
        token_mask=question != 0,
        text_image=torch.arange(count),
        target={
            "answer_ids": answer,
            "answer_mask": answer != 0,
            "answer_weight": torch.tensor(golden.inputs["vqa_weights"]),
            "answer_text": torch.arange(count).repeat_interleave(torch.tensor(golden.inputs["vqa_k"])),
        },
    )


def _padded(rows: list[list[int]]) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


@torch.no_grad()
def _outputs(golden: Golden, state: dict[str, Tensor], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    model, batch = _model(state), _batch(golden)
    decoder = model.heads["answer"]
    question = encode_questions(model, batch, model.encode_image(batch.image))
    answer = batch.target
    hidden = decoder(answer["answer_ids"], answer["answer_mask"], question, batch.token_mask, answer["answer_text"])
    yield "vqa/question_states", question
    yield "vqa/decoder_logits", decoder.head(hidden)
    candidates = _padded(golden.inputs["vqa_answer_list_ids"])
    for k in sorted({int(found[1]) for name in names if (found := re.match(r"vqa/rank_k(\d+)/", name))}):
        found = rank_answers(
            decoder, question, batch.token_mask, candidates, candidates != 0, k, original_behaviour=True
        )
        yield f"vqa/rank_k{k}/topk_ids", found[0]
        yield f"vqa/rank_k{k}/topk_probs", found[1]


def _run(golden: Golden, state: dict[str, Tensor], run: str) -> Iterator[tuple[str, Tensor]]:
    distill = 0.0 if run == "nodistill" else alpha_of(run)
    task = AnswerTask(_model(state), Answer(distill=distill, ramp_steps=0)).eval()
    if task.teacher is not None:
        task.teacher.load_state_dict(_model(state, momentum=True).state_dict())
        update_teacher(task.teacher, task.model, task.settings.momentum)  # the original's forward begins with it
    batch = _batch(golden)
    output = task(batch, task.counts(batch))
    yield f"vqa/{run}/loss", output.loss
    if order := golden.manifest["outputs"].get(f"vqa/{run}__grad_names"):
        output.loss.backward()
        yield from _gradients(task.model, f"vqa/{run}", order)


def _gradients(model: FusionModel, prefix: str, order: list[str]) -> Iterator[tuple[str, Tensor]]:
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        theirs = _theirs(name, momentum=False)
        if theirs and parameter.grad is not None:
            found |= zip(theirs, parameter.grad.chunk(len(theirs)), strict=True)
    decoder = "text_decoder.cls.predictions"
    found[f"{decoder}.bias"] = found[f"{decoder}.decoder.bias"]
    missing = torch.full((1,), float("nan"))
    flat = [found.get(name, missing).flatten() for name in order]
    yield f"{prefix}__grad_l2", torch.stack([gradient.double().norm().float() for gradient in flat])
    yield f"{prefix}__grad_first_mid", torch.stack([g[[0, g.numel() // 2]] for g in flat])


PARTS = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention.norm": ("attention.output.LayerNorm",),
    "cross.q": ("crossattention.self.query",),
    "cross.kv": ("crossattention.self.key", "crossattention.self.value"),
    "cross.out": ("crossattention.output.dense",),
    "cross.norm": ("crossattention.output.LayerNorm",),
    "feed_forward.up": ("intermediate.dense",),
    "feed_forward.down": ("output.dense",),
    "feed_forward.norm": ("output.LayerNorm",),
}
HEAD = {"dense": "transform.dense", "norm": "transform.LayerNorm", "decoder": "decoder"}


def _theirs(ours: str, momentum: bool) -> list[str]:
    part, _, rest = ours.partition(".body.") if ".body." in ours else ("", "", "")
    if part:
        names = [f"{'visual' if part == 'vision' else 'text'}_encoder.{rest}"]
    elif found := re.fullmatch(r"(fusion|heads\.answer)\.layers\.(\d+)\.(\w+\.\w+)\.(\w+)", ours):
        stem = f"text_encoder.encoder.layer.{int(found[2]) + 6}" if found[1] == "fusion" else ""
        stem = stem or f"text_decoder.bert.encoder.layer.{found[2]}"
        names = [f"{stem}.{name}.{found[4]}" for name in PARTS[found[3]]]
    elif found := re.fullmatch(r"heads\.answer\.head\.(\w+)\.(\w+)", ours):
        names = [f"text_decoder.cls.predictions.{HEAD[found[1]]}.{found[2]}"]
    elif ours.startswith("heads.answer.embeddings."):
        names = [ours.replace("heads.answer", "text_decoder.bert", 1)]
    else:  # the contrast's projections and temperature
        return []
    return [re.sub(r"^(\w+?)\.", r"\1_m.", name) if momentum else name for name in names]
