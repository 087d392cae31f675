"""Arrays of X-VLM's pre-training: ``boxmask/``, ``pretrain_swin/``, ``pretrain_clip/`` and ``deit_vision_only/``.

A name says what is run: ``region_forward`` has five losses, ``image_forward`` three; the first part names the model.
"""

import re
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from tests.parity.golden import Golden, images, weights
from tests.parity.released import gradient_tables, released_model
from wordregion.losses.boxes import box_losses
from wordregion.models.fusion import FusionModel
from wordregion.models.official import to_official
from wordregion.nn.regions import encode_views, patch_mask
from wordregion.nn.vision import TimmVision
from wordregion.objectives import Box, Contrast, MaskedWords, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align, AlignTask

PIXELS = 224
NEW = ("temperature", "image_proj.", "text_proj.", "heads.match.", "heads.box.")
"""Parameters that X-VLM trains at twice the rate; so are those of the cross-attention."""


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in these groups that `names` asks for and this module knows."""
    for name in names:
        if found := re.fullmatch(r"boxmask/patch\d+_grid(\d+)", name):
            yield name, patch_mask(_corners(golden.inputs["box_mask_table_boxes"]), int(found[1]))
    for model in dict.fromkeys(name.split("/")[0] for name in names if name.startswith("pretrain_")):
        yield from _pretrain(golden, model, [name for name in names if name.startswith(f"{model}/")])
    if any(name.startswith("deit_vision_only/") for name in names):
        yield from _deit(golden)


def padded(rows: list[list[int]], length: int) -> Tensor:
    """Token ids, 0 where a row ends."""
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _corners(boxes: list[list[float]]) -> Tensor:
    """Pixels x, y, w, h to xyxy in [0, 1]."""
    x, y, w, h = (torch.tensor(boxes, dtype=torch.float64) / PIXELS).T
    return torch.stack([x, y, x + w, y + h], dim=1).float()


@cache
def _pixels() -> Tensor:
    return images((4, 3, PIXELS, PIXELS))


def image_batch(golden: Golden, texts: int, with_boxes: bool) -> Batch:
    """The first captions: with the whole images 0, 1, 2 ..., or with the regions that the inputs give them."""
    inputs = golden.inputs
    length = inputs["pad_to"]
    ids, masked = padded(inputs["captions_ids"][:texts], length), torch.tensor(inputs["text_ids_masked"][:texts])
    labels = torch.full_like(ids, -100)
    for row, (at, words) in enumerate(zip(inputs["masked_pos"], inputs["masked_ids"], strict=True)):
        for position, word in zip(at, words, strict=True):
            if row < texts and word != -100:
                labels[row, position] = word
    owner = inputs["idx_to_group_img"] if with_boxes else list(range(texts))
    regions = torch.tensor([row for row, whole in enumerate(inputs["is_image"]) if with_boxes and not whole])
    return Batch(
        image=_pixels()[: max(owner) + 1],
        image_key=torch.arange(max(owner) + 1),
        token_ids=ids,
        token_mask=ids != 0,
        text_image=torch.tensor(owner),
        masked_ids=masked,
        labels=labels,
        grounding_text=regions.long(),
        grounding_tokens=(ids != 0)[regions.long()],
        box=_corners(inputs["region_boxes_xywh_pixels_at_224"])[regions.long()],
        box_grounding=torch.arange(len(regions)),
    )


def _pretrain(golden: Golden, name: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    layout = f"xvlm/{name}"
    forwards = [run for run in ("region_forward", "image_forward") if any(f"/{run}" in asked for asked in names)]
    if any("_forward" not in asked for asked in names):
        yield from _encodings(golden, name, released_model(golden, name, layout), names)
    for run in forwards:
        yield from _forward(golden, f"{name}/{run}", released_model(golden, name, layout), layout, names)


@torch.no_grad()
def _encodings(golden: Golden, name: str, model: FusionModel, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    whole, batch = model.encode_image(_pixels()), image_batch(golden, 5, with_boxes=True)
    regions = batch.regions()
    views = model.encode_views(batch.image, regions.box, regions.image)
    assert views.mask is not None
    view = batch.text_image.clone()
    view[regions.text] = torch.arange(len(batch.image), len(views.tokens))
    text, mask = model.encode_text(batch.token_ids, batch.token_mask), batch.token_mask
    cls = model.fuse(text, mask, views.tokens, view, image_mask_IN=views.mask, shared=views.shared).cls
    predicted = model.heads["box"](
        model.fuse(text, mask, views.tokens, batch.text_image, image_mask_IN=views.mask, shared=views.shared).cls
    )
    masked_text = model.encode_text(batch.masked_ids, mask)
    masked = model.fuse(masked_text, mask, views.tokens, view, image_mask_IN=views.mask, shared=views.shared).hidden
    at = torch.tensor(golden.inputs["masked_pos"])
    gathered = whole[batch.text_image]
    found = {
        "image_embeds": whole,
        "image_embeds_zero_image": model.encode_image(torch.zeros(1, 3, PIXELS, PIXELS)),
        "image_feat": model.project_image(whole),
        "text_embeds": text,
        "text_feat": model.project_text(text, mask),
        "region/image_atts": views.mask[view],
        "region/image_embeds": views.tokens[view],
        "region/image_embeds_fullatts": gathered,
        "region/cls": views.tokens[view, 0],
        "region/fullatts_cls": gathered[:, 0],
        "region/gather_only_cls": gathered[:, 0],
        "region/image_feat": model.project_image(views.tokens)[view],
        "region/fusion_cls": cls,
        "region/itm_logits_positive": model.heads["match"](cls),
        "region/pred_bbox": predicted,
        "region/mlm_logits_at_masked_pos": model.heads["mask"](masked[torch.arange(5)[:, None], at]),
    }
    for part, value in found.items():
        yield f"{name}/{part}", value
    for asked in names:
        if asked.startswith(f"{name}/bbox_loss_"):
            yield asked, _box_losses(golden, predicted, asked)


def _box_losses(golden: Golden, predicted: Tensor, name: str) -> Tensor:
    """[L1, GIoU]: over all texts if the name says so, otherwise over regions; perhaps with a degenerate prediction."""
    target = torch.tensor(golden.inputs["target_bbox_cxcywh"])
    if "degenerate" in name:
        predicted = predicted.clone()
        predicted[0, 2] = -0.1
    regions = torch.ones(5) if "none" in name else 1 - torch.tensor(golden.inputs["is_image"]).float()
    losses = box_losses(predicted, target, original_behaviour=True)
    return torch.stack([(loss * regions).sum() / regions.sum() for loss in losses])


def largest(chosen: list[Tensor], weights_QC: Tensor) -> Tensor:
    """Stands for the draw of a negative: the most probable one; kept in `chosen`."""
    chosen.append(weights_QC.argmax(-1))
    return chosen[-1]


def _forward(
    golden: Golden, run: str, model: FusionModel, layout: str, names: list[str]
) -> Iterator[tuple[str, Tensor]]:
    with_boxes, chosen = "region" in run.split("/")[1], list[Tensor]()
    match = Match(draw=lambda weights: largest(chosen, weights))
    objectives = (Contrast(), match, MaskedWords(), *((Box(original_behaviour=True),) if with_boxes else ()))
    task = AlignTask(model, Align(objectives, momentum=None, queue_size=0, distill=0.0)).eval()
    batch = image_batch(golden, 5 if with_boxes else 4, with_boxes)
    output = task(batch, task.counts(batch))
    output.loss.backward()
    theirs = {"contrast": "itc", "match": "itm", "masked_words": "mlm", "box_l1": "bbox", "box_giou": "giou"}
    for ours, name in theirs.items():
        if ours in output.metrics:
            yield f"{run}/loss_{name}", output.metrics[ours]
    yield f"{run}/neg_index_image_for_text", chosen[0]
    yield f"{run}/neg_index_text_for_image", chosen[1]
    yield from gradient_tables(golden, run, model, layout)
    if any(name.startswith((f"{run}/total_grad_norm", f"{run}/after_clip")) for name in names):
        yield f"{run}/total_grad_norm_before_clip", torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        _adamw_step(model)
        after = to_official({name: p.detach() for name, p in model.named_parameters()}, layout)
        for name, value in after.items():
            yield f"{run}/after_clip1_adamw_step/{name}", value


def _adamw_step(model: FusionModel) -> None:
    """One step of the original's AdamW from a fresh state, by the groups in the manifest's notes.

    It adds eps to a second moment without bias correction: at the first step an eps of sqrt(1 - beta2) times less.
    """
    groups = []
    for name, parameter in model.named_parameters():
        scaled = name.startswith(NEW) or ".cross." in name
        kept = "bias" in name or ("norm" in name.lower() and not name.startswith(("heads.match.", "heads.box.")))
        groups.append({"params": [parameter], "lr": 2e-4 if scaled else 1e-4, "weight_decay": 0.0 if kept else 0.01})
    betas = (0.9, 0.98)
    torch.optim.AdamW(groups, betas=betas, eps=1e-8 / (1 - betas[1]) ** 0.5).step()


@torch.no_grad()
def _deit(golden: Golden) -> Iterator[tuple[str, Tensor]]:
    vision = TimmVision("deit_base_patch16_224", PIXELS).eval()
    vision.body.load_state_dict(weights(golden, "deit_vision_only"))
    batch = image_batch(golden, 5, with_boxes=True)
    box = _corners(golden.inputs["region_boxes_xywh_pixels_at_224"])
    views = encode_views(vision, batch.image, box, batch.text_image)
    yield "deit_vision_only/image_embeds", vision(_pixels())
    yield "deit_vision_only/region_embeds", views.tokens[len(batch.image) :]
    yield "deit_vision_only/full_embeds_ungathered", views.tokens[: len(batch.image)]
