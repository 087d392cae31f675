"""X-VLM's checkpoints: pre-trained on Swin-B or CLIP's ViT-B/16, and fine-tuned (on Swin-B).

As with ALBEF, a fine-tuning model starts from a pre-training checkpoint. Swin's relative position tables are resized to
the windows of the larger image. There is no momentum copy.
"""

from wordregion.models.fusion import FusionModel
from wordregion.models.layout import (
    CONTRAST,
    ONE_IMAGE,
    TEXT_LAYERS,
    TWO_IMAGES,
    Layout,
    Stack,
    bert_put_back,
    decoder_from_fusion,
    halved,
    word_head,
)
from wordregion.models.zoo import (
    for_captioning,
    for_locating,
    for_questions,
    for_retrieval,
    for_two_images,
    xvlm_base,
    xvlm_clip,
)

SWIN = r"swin.*"
SWIN_NAMES = {
    **{f"vision.body.layers.{n}.downsample.": f"vision_encoder.layers.{n - 1}.downsample." for n in (1, 2, 3)},
    "vision.body.": "vision_encoder.",
}
"""timm counts the merging of patches to the stage behind it, the original to the stage before it."""
CLIP_NAMES = {
    "vision.body.cls_token": "vision_encoder.class_embedding",
    "vision.body.pos_embed": "vision_encoder.pos_embed.weight",
    "vision.body.patch_embed.proj.weight": "vision_encoder.patch_embed.weight",
    "vision.body.norm_pre.": "vision_encoder.pre_layrnorm.",
    "vision.body.norm.": "vision_encoder.post_layernorm.",
}
CLIP_BLOCKS = Stack(
    r"vision\.body\.blocks\.(\d+)\.",
    "vision_encoder.encoder.layers.",
    0,
    parts={
        "norm1": ("layer_norm1",),
        "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.proj": ("self_attn.out_proj",),
        "norm2": ("layer_norm2",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
)
PRETRAINED_BERT = Stack(r"fusion\.layers\.(\d+)\.", "text_encoder.bert.encoder.layer.", TEXT_LAYERS)
TUNED = SWIN_NAMES | {"text.body.": "text_encoder."}


def _random(image_size: int) -> FusionModel:
    return xvlm_base(image_size, vision_weights=False, text_weights=False)


def _mlp(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}hidden.": f"{theirs}0.", f"{ours}norm.": f"{theirs}1.", f"{ours}out.": f"{theirs}3."}


def _encoder_from_decoder(key: str) -> str:
    """The captioning model is the pre-trained one, with its text encoder called a decoder."""
    return key.replace("text_decoder.", "text_encoder.", 1)


def _decoder_of_questions(key: str) -> str:
    """As in ALBEF; but a question's states are narrower than Swin's tokens, so their keys and values have no seed."""
    if key.startswith("text_decoder.") and ".crossattention.self.query." not in key and ".crossattention.self." in key:
        return key
    return decoder_from_fusion(key)


HEADS = _mlp("heads.match.", "itm_head.") | _mlp("heads.box.mlp.", "bbox_head.")
XVLM: dict[str, Layout] = {
    "xvlm/pretrain_swin": Layout(
        build=_random,
        backbone=SWIN,
        image_size=224,
        prefixes=CONTRAST
        | SWIN_NAMES
        | {"text.body.": "text_encoder.bert."}
        | HEADS
        | word_head("heads.mask.", "text_encoder."),
        stacks=(PRETRAINED_BERT,),
        momentum=(),
    ),
    "xvlm/pretrain_clip": Layout(
        build=lambda size: xvlm_clip(size, vision_weights=False, text_weights=False),
        backbone=r"vit.*clip.*",
        image_size=224,
        prefixes=CONTRAST
        | CLIP_NAMES
        | {"text.body.": "text_encoder.bert."}
        | HEADS
        | word_head("heads.mask.", "text_encoder."),
        stacks=(PRETRAINED_BERT, CLIP_BLOCKS),
        momentum=(),
    ),
    "xvlm/retrieval": Layout(
        build=lambda size: for_retrieval(_random(size)),
        backbone=SWIN,
        image_size=384,
        prefixes=TUNED | CONTRAST | _mlp("heads.match.", "itm_head."),
        stacks=ONE_IMAGE,
        momentum=(),
        seed=bert_put_back,
    ),
    "xvlm/bbox": Layout(
        build=lambda size: for_locating(_random(size)),
        backbone=SWIN,
        image_size=384,
        prefixes=TUNED | _mlp("heads.box.mlp.", "bbox_head."),
        stacks=ONE_IMAGE,
        momentum=(),
        seed=bert_put_back,
        new=tuple(CONTRAST),
    ),
    "xvlm/vqa": Layout(
        build=lambda size: for_questions(_random(size)),
        backbone=SWIN,
        image_size=384,
        prefixes=TUNED
        | {"heads.answer.embeddings.": "text_decoder.bert.embeddings."}
        | word_head("heads.answer.head.", "text_decoder."),
        stacks=(*ONE_IMAGE, Stack(r"heads\.answer\.layers\.(\d+)\.", "text_decoder.bert.encoder.layer.", 0)),
        momentum=(),
        seed=_decoder_of_questions,
        new=(*CONTRAST, *(f"heads.answer.layers.{layer}.cross.kv." for layer in range(TEXT_LAYERS))),
    ),
    "xvlm/nlvr": Layout(
        build=lambda size: for_two_images(_random(size), "nlvr"),
        backbone=SWIN,
        image_size=384,
        prefixes=TUNED | _mlp("heads.nlvr.", "cls_head."),
        stacks=TWO_IMAGES,
        momentum=(),
        seed=halved,
        new=("heads.nlvr.", *CONTRAST),
    ),
    "xvlm/nlvr_pretrain": Layout(
        build=lambda size: for_two_images(_random(size), "assign"),
        backbone=SWIN,
        image_size=384,
        prefixes=TUNED | {"image_proj.": "vision_proj.", "heads.assign.": "ta_head."},
        stacks=TWO_IMAGES,
        momentum=(),
        seed=halved,
        new=("heads.assign.", "temperature", "text_proj."),
    ),
    "xvlm/captioning": Layout(
        build=lambda size: for_captioning(_random(size)),
        backbone=SWIN,
        image_size=384,
        prefixes=SWIN_NAMES | {"text.body.": "text_decoder.bert."} | word_head("heads.mask.", "text_decoder."),
        stacks=(Stack(r"fusion\.layers\.(\d+)\.", "text_decoder.bert.encoder.layer.", TEXT_LAYERS),),
        momentum=(),
        seed=_encoder_from_decoder,
        new=tuple(CONTRAST),
    ),
}
