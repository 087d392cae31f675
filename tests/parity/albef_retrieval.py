"""Every array of the group ``retrieval/`` of ALBEF's reference numbers, computed with this library.

Settings are read from names: ``distill_alpha04`` distils with 0.4, ``eval_k4`` re-ranks four candidates.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.parity.albef_pretrain import QUEUE, alpha_of
from tests.parity.golden import Golden, images, weights
from tests.parity.released import gradient_tables, released_model
from wordregion.evaluate.retrieval import score_matrices
from wordregion.models.official import to_official
from wordregion.objectives import Contrast, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align, AlignTask
from wordregion.tasks.teacher import update_teacher

LAYOUT = "albef/retrieval"
UNKNOWN = -100  # the original's mark of an empty place in the queue of identities


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    if depths := sorted({int(found[1]) for name in names if (found := re.match(r"retrieval/eval_k(\d+)/", name))}):
        yield from _evaluation(golden, depths)
    for run in dict.fromkeys(found[0] for name in names if (found := _run_of(name))):
        yield from _run(golden, run, names)


def _run_of(name: str) -> re.Match | None:
    """``retrieval/distill_alpha04/loss_ita`` -> ``retrieval/distill_alpha04``."""
    return re.match(r"retrieval/\w*?(nodistill|alpha\d+)(?=/|__|$)", name)


@torch.no_grad()
def _evaluation(golden: Golden, depths: list[int]) -> Iterator[tuple[str, Tensor]]:
    model = released_model(golden, "retrieval", LAYOUT)
    ids = torch.tensor(golden.inputs["eval_text_ids_padded_to_30"])
    image, text = model.encode_image(images((4, 3, 384, 384))), model.encode_text(ids, ids != 0)
    for k in depths:
        i2t, t2i = score_matrices(model, image, text, ids != 0, k)
        yield f"retrieval/eval_k{k}/score_i2t", i2t
        yield f"retrieval/eval_k{k}/score_t2i", t2i


def _batch(golden: Golden) -> Batch:
    rows = golden.inputs["captions_ids"]
    ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    return Batch(
        image=images((4, 3, 384, 384)),
        image_key=torch.tensor(golden.inputs["retrieval_idx"]),
        token_ids=ids,
        token_mask=ids != 0,
        text_image=torch.arange(len(ids)),
    )


def _run(golden: Golden, run: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    found, chosen = _run_of(run), list[Tensor]()
    assert found is not None

    def largest(weights_QC: Tensor) -> Tensor:
        chosen.append(weights_QC.argmax(-1))
        return chosen[-1]

    settings = Align(
        objectives=(Contrast(same_image_positives=True), Match(draw=largest)),
        queue_size=QUEUE,
        distill=0.0 if found[1] == "nodistill" else alpha_of(found[1]),
        ramp_steps=0,
    )
    task = AlignTask(released_model(golden, "retrieval", LAYOUT), settings).eval()
    task.teacher.load_state_dict(released_model(golden, "retrieval", LAYOUT, momentum=True).state_dict())
    state, batch = weights(golden, "retrieval"), _batch(golden)
    after = golden.arrays.get(f"{run}/queue_ptr_after")
    start = 0 if after is None else int(after[0] - len(batch.token_ids)) % QUEUE
    task.queue.image.copy_(state["image_queue"].T)
    task.queue.text.copy_(state["text_queue"].T)
    task.queue.key_id.fill_(UNKNOWN)
    for place, identity in golden.inputs["retrieval_idx_queue_overrides"].items():
        task.queue.key_id[int(place)] = identity
    task.queue.pointer.fill_(start)
    update_teacher(task.teacher, task.model, settings.momentum)  # the original's forward begins with it
    for name, value in to_official(task.teacher.state_dict(), LAYOUT, momentum=True).items():
        yield f"{run}/after_update/{name}", value
    output = task(batch, task.counts(batch))
    output.loss.backward()
    yield f"{run}/loss_ita", output.metrics["contrast"]
    yield f"{run}/loss_itm", output.metrics["match"]
    yield f"{run}/neg_index_image_for_text", chosen[0]
    yield f"{run}/neg_index_text_for_image", chosen[1]
    yield from gradient_tables(golden, run, task.model, LAYOUT)
    task.after_step()
    columns = [(start + i) % QUEUE for i in range(len(batch.token_ids))]
    yield f"{run}/image_queue_after_cols", task.queue.image[columns].T
    yield f"{run}/text_queue_after_cols", task.queue.text[columns].T
    yield f"{run}/queue_ptr_after", task.queue.pointer.reshape(1)
    for name in names:
        if count := re.fullmatch(rf"{run}/idx_queue_after_first(\d+)", name):
            yield name, task.queue.key_id[: int(count[1])]
