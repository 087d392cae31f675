"""Arrays of X-VLM's fine-tuning: ``retrieval/``, ``gradcam/``, ``bbox/``, ``vqa/``, ``nlvr/`` and ``nlvr_pretrain/``.

Settings are read from names: ``retrieval/idx`` knows which images are the same, ``eval_k4`` re-ranks four candidates,
``itm_block9`` counts BERT's layers.
"""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tests.parity.albef_nlvr import assign_text_arrays
from tests.parity.golden import Golden, images
from tests.parity.released import gradient_tables, released_model
from tests.parity.xvlm_pretrain import largest, padded
from wordregion.evaluate.answers import rank_answers
from wordregion.evaluate.retrieval import score_matrices
from wordregion.losses.boxes import to_corners
from wordregion.models.fusion import FusionModel
from wordregion.models.gradcam import match_attention, text_maps, token_maps
from wordregion.models.questions import answer_decoder, encode_questions
from wordregion.models.two_images import pair_logits
from wordregion.objectives import Box, Contrast, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align, AlignTask
from wordregion.tasks.answer import Answer, AnswerTask
from wordregion.tasks.classify import Classify, ClassifyTask

TEXT_LAYERS = 6


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in these groups that `names` asks for and this module knows."""
    groups: dict[str, Callable[[Golden, list[str]], Iterator[tuple[str, Tensor]]]] = {
        "retrieval": _retrieval, "gradcam": _gradcam, "bbox": _bbox, "vqa": _vqa, "nlvr": _nlvr,
        "nlvr_pretrain": _nlvr_pretrain,
    }  # fmt: skip
    for group, compute in groups.items():
        if asked := [name for name in names if re.split("/|__", name)[0] == group]:
            yield from compute(golden, asked)


def _model(golden: Golden, name: str) -> FusionModel:
    return released_model(golden, name, f"xvlm/{name}")


def _batch(ids: Tensor, pixels: Tensor, **more: object) -> Batch:
    return Batch(
        image=pixels,
        image_key=torch.arange(len(pixels)),
        token_ids=ids,
        token_mask=ids != 0,
        text_image=torch.arange(len(ids)),
        **more,  # type: ignore[arg-type]
    )


def _captions(golden: Golden, count: int) -> Tensor:
    return padded(golden.inputs["captions_ids"][:count], golden.inputs["pad_to"])


def _pixels() -> Tensor:
    return images((4, 3, 384, 384))


def _retrieval(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    depths = sorted({int(found[1]) for name in names if (found := re.match(r"retrieval/eval_k(\d+)/", name))})
    if depths or "retrieval/image_embeds" in names:
        model, ids = _model(golden, "retrieval"), torch.tensor(golden.inputs["eval_text_ids_padded_to_40"])
        with torch.no_grad():
            image, text = model.encode_image(_pixels()), model.encode_text(ids, ids != 0)
            yield "retrieval/image_embeds", image
            for k in depths:
                i2t, t2i = score_matrices(model, image, text, ids != 0, k)
                yield f"retrieval/eval_k{k}/score_i2t", i2t
                yield f"retrieval/eval_k{k}/score_t2i", t2i
    for run in [run for run in ("idx", "noidx") if any(re.match(rf"retrieval/{run}(/|__)", name) for name in names)]:
        chosen: list[Tensor] = []
        objectives = (Contrast(same_image_positives=True), Match(draw=lambda weights, c=chosen: largest(c, weights)))
        task = _task(_model(golden, "retrieval"), objectives)
        batch = _batch(_captions(golden, 4), _pixels())
        if run == "idx":
            batch.image_key = torch.tensor(golden.inputs["retrieval_idx"])
        output = task(batch, task.counts(batch))
        output.loss.backward()
        yield f"retrieval/{run}/loss_itc", output.metrics["contrast"]
        yield f"retrieval/{run}/loss_itm", output.metrics["match"]
        yield f"retrieval/{run}/neg_index_image_for_text", chosen[0]
        yield f"retrieval/{run}/neg_index_text_for_image", chosen[1]
        yield from gradient_tables(golden, f"retrieval/{run}", task.model, "xvlm/retrieval")


def _task(model: FusionModel, objectives: tuple) -> AlignTask:
    return AlignTask(model, Align(objectives, momentum=None, queue_size=0, distill=0.0)).eval()


def _gradcam(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    model, ids = _model(golden, "retrieval"), _captions(golden, 2)
    ids = ids[:, : int((ids != 0).sum(1).max())]
    mask = ids != 0
    with torch.no_grad():
        image, text = model.encode_image(_pixels()[:2]), model.encode_text(ids, mask)
    for name in names:
        if found := re.fullmatch(r"gradcam/itm_block(\d+)", name):
            attention = match_attention(model, image, text, mask, torch.arange(2), int(found[1]) - TEXT_LAYERS)
            yield name, text_maps(token_maps(attention, mask), mask, original_behaviour=True)


def _bbox(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    ids = _captions(golden, 4)
    target = torch.tensor(golden.inputs["target_bbox_cxcywh"])[:4]
    every = torch.arange(4)
    batch = _batch(
        ids,
        _pixels(),
        grounding_text=every,
        grounding_tokens=ids != 0,
        box=to_corners(target),
        box_grounding=every,
    )
    task = _task(_model(golden, "bbox"), (Box(original_behaviour=True),))
    seen: list[Tensor] = []
    task.model.heads["box"].register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = task(batch, task.counts(batch))
    output.loss.backward()
    yield "bbox/pred_cxcywh", seen[0]
    yield "bbox/loss_bbox", output.metrics["box_l1"]
    yield "bbox/loss_giou", output.metrics["box_giou"]
    for prefix in _tables(names):
        yield from gradient_tables(golden, prefix, task.model, "xvlm/bbox")


def _vqa(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    def rows(name: str) -> Tensor:
        ids = golden.inputs[name]
        return padded(ids, max(map(len, ids)))

    question, answer = rows("vqa_question_ids"), rows("vqa_answer_ids")
    k = torch.tensor(golden.inputs["vqa_k"])
    target = {
        "answer_ids": answer,
        "answer_mask": answer != 0,
        "answer_weight": torch.tensor(golden.inputs["vqa_weights"]),
        "answer_text": torch.arange(len(k)).repeat_interleave(k),
    }
    batch = _batch(question, _pixels()[: len(question)], target=target)
    task = AnswerTask(_model(golden, "vqa"), Answer(distill=0.0)).eval()
    output = task(batch, task.counts(batch))
    output.loss.backward()
    yield "vqa/loss", output.loss
    for prefix in _tables(names):
        yield from gradient_tables(golden, prefix, task.model, "xvlm/vqa")
    candidates = rows("vqa_answer_list_ids")
    with torch.no_grad():
        states = encode_questions(task.model, batch, task.model.encode_image(batch.image))
        for k in sorted({int(found[1]) for name in names if (found := re.match(r"vqa/rank_k(\d+)/", name))}):
            decoder = answer_decoder(task.model)
            best, probability = rank_answers(
                decoder, states, batch.token_mask, candidates, candidates != 0, k, original_behaviour=True
            )
            yield f"vqa/rank_k{k}/topk_ids", best
            yield f"vqa/rank_k{k}/topk_probs", probability


def _nlvr(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    ids = golden.inputs["nlvr_text_ids"]
    count = len(ids)
    order = torch.arange(2 * count).view(2, count).T.flatten()  # theirs: all first images, then all second ones
    target = {"label": torch.tensor(golden.inputs["nlvr_targets"])}
    batch = _batch(padded(ids, max(map(len, ids))), _pixels()[order], target=target)
    batch.text_image = torch.arange(0, 2 * count, 2)
    task = ClassifyTask(_model(golden, "nlvr"), Classify("nlvr", distill=0.0)).eval()
    output = task(batch, task.counts(batch))
    output.loss.backward()
    yield "nlvr/loss", output.loss
    with torch.no_grad():
        yield "nlvr/logits", pair_logits(task.model, batch, task.model.encode_image(batch.image))
    for prefix in _tables(names):
        yield from gradient_tables(golden, prefix, task.model, "xvlm/nlvr")


def _nlvr_pretrain(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    ids = golden.inputs["captions_ids"][:4]
    yield from assign_text_arrays(golden, names, ids, _pixels(), "xvlm/nlvr_pretrain")


def _tables(names: list[str]) -> list[str]:
    """The prefixes of the gradient tables among the names."""
    return list(dict.fromkeys(name.rpartition("__grad_")[0] for name in names if "__grad_" in name))
