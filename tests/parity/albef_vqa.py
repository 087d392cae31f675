"""Every array of the group ``vqa/`` of ALBEF's reference numbers, computed with this library.

The setting of an array comes from its name: ``alpha04`` distils with 0.4, ``rank_k8`` ranks eight candidates.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.parity.albef_pretrain import alpha_of
from tests.parity.golden import Golden, images
from tests.parity.released import gradient_tables, released_model
from wordregion.evaluate.answers import rank_answers
from wordregion.models.official import to_official
from wordregion.models.questions import encode_questions
from wordregion.schema import Batch
from wordregion.tasks.answer import Answer, AnswerTask
from wordregion.tasks.teacher import update_teacher

LAYOUT = "albef/vqa"


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    runs = dict.fromkeys(map(_run_of, names))
    if None in runs:
        yield from _outputs(golden, names)
    for run in filter(None, runs):
        yield from _run(golden, run)


def _run_of(name: str) -> str | None:
    """``vqa/alpha04/loss`` and ``vqa/alpha04__grad_l2`` -> ``vqa/alpha04``."""
    found = re.match(r"vqa/\w*?(nodistill|alpha\d+)(?=/|__|$)", name)
    return found[0] if found else None


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
def _outputs(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    model, batch = released_model(golden, "vqa", LAYOUT), _batch(golden)
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


def _run(golden: Golden, run: str) -> Iterator[tuple[str, Tensor]]:
    distill = 0.0 if run.endswith("nodistill") else alpha_of(f"alpha{run.rpartition('alpha')[2]}")
    task = AnswerTask(released_model(golden, "vqa", LAYOUT), Answer(distill=distill, ramp_steps=0)).eval()
    if task.teacher is not None:
        task.teacher.load_state_dict(released_model(golden, "vqa", LAYOUT, momentum=True).state_dict())
        update_teacher(task.teacher, task.model, task.settings.momentum)  # the original's forward begins with it
        for name, value in to_official(task.teacher.state_dict(), LAYOUT, momentum=True).items():
            yield f"{run}/after_update/{name}", value
    batch = _batch(golden)
    output = task(batch, task.counts(batch))
    yield f"{run}/loss", output.loss
    if f"{run}__grad_names" in golden.manifest["outputs"]:
        output.loss.backward()
        yield from gradient_tables(golden, run, task.model, LAYOUT)
