"""ALBEF's checkpoints.

A fine-tuning model starts from a pre-training checkpoint: its tensors are taken from there under other names
(`Layout.seed`), and its new head keeps its constructor value. Files were never at hand: the names come from the
programs that write and read them.
"""

from wordregion.models.fusion import FusionModel
from wordregion.models.layout import (
    CONTRAST,
    ONE_IMAGE,
    PRETRAINED,
    TEXT_LAYERS,
    TWO_IMAGES,
    Layout,
    Stack,
    bert_put_back,
    decoder_from_fusion,
    halved,
    word_head,
)
from wordregion.models.zoo import albef_base, for_entailment, for_questions, for_retrieval, for_two_images

PLAIN_VIT = r"(vit|deit)(?!.*clip).*"
CLASSIFIER = ("visual_encoder", "text_encoder", "cls_head")
TUNED = {"vision.body.": "visual_encoder.", "text.body.": "text_encoder."}


def _random(image_size: int) -> FusionModel:
    return albef_base(image_size, vision_weights=False, text_weights=False)


ALBEF: dict[str, Layout] = {
    "albef/pretrain": Layout(
        build=_random,
        backbone=PLAIN_VIT,
        image_size=256,
        prefixes=CONTRAST
        | {"vision.body.": "visual_encoder.", "text.body.": "text_encoder.bert.", "heads.match.": "itm_head."}
        | word_head("heads.mask.", "text_encoder."),
        stacks=(Stack(r"fusion\.layers\.(\d+)\.", "text_encoder.bert.encoder.layer.", TEXT_LAYERS),),
        momentum=PRETRAINED,
    ),
    "albef/retrieval": Layout(
        build=lambda size: for_retrieval(_random(size)),
        backbone=PLAIN_VIT,
        image_size=384,
        prefixes=TUNED | CONTRAST | {"heads.match.": "itm_head."},
        stacks=ONE_IMAGE,
        momentum=PRETRAINED,
        seed=bert_put_back,
    ),
    "albef/entailment": Layout(
        build=lambda size: for_entailment(_random(size)),
        backbone=PLAIN_VIT,
        image_size=384,
        prefixes=TUNED | {"heads.entail.hidden.": "cls_head.0.", "heads.entail.out.": "cls_head.2."},
        stacks=ONE_IMAGE,
        momentum=CLASSIFIER,
        seed=bert_put_back,
        new=("heads.entail.", *CONTRAST),
    ),
    "albef/vqa": Layout(
        build=lambda size: for_questions(_random(size)),
        backbone=PLAIN_VIT,
        image_size=384,
        prefixes=TUNED
        | {"heads.answer.embeddings.": "text_decoder.bert.embeddings."}
        | word_head("heads.answer.head.", "text_decoder."),
        stacks=(*ONE_IMAGE, Stack(r"heads\.answer\.layers\.(\d+)\.", "text_decoder.bert.encoder.layer.", 0)),
        momentum=("visual_encoder", "text_encoder", "text_decoder"),
        seed=decoder_from_fusion,
        new=tuple(CONTRAST),
    ),
    "albef/nlvr": Layout(
        build=lambda size: for_two_images(_random(size), "nlvr"),
        backbone=PLAIN_VIT,
        image_size=384,
        prefixes=TUNED | {"heads.nlvr.hidden.": "cls_head.0.", "heads.nlvr.out.": "cls_head.2."},
        stacks=TWO_IMAGES,
        momentum=CLASSIFIER,
        seed=halved,
        new=("heads.nlvr.", *CONTRAST),
    ),
    "albef/nlvr_pretrain": Layout(
        build=lambda size: for_two_images(_random(size), "assign"),
        backbone=PLAIN_VIT,
        image_size=256,
        prefixes=TUNED | CONTRAST | {"heads.assign.": "ta_head."},
        stacks=TWO_IMAGES,
        momentum=(),
        seed=halved,
        new=("heads.assign.",),
    ),
}
"""`CONTRAST` under `new`: the model has those parameters, the layout does not."""
