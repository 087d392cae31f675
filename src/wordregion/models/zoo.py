"""Builders; the size is in the name."""

import copy
from pathlib import Path
from typing import Literal

from torch import nn

from wordregion.models.fusion import FusionModel
from wordregion.models.grounder import Grounder, assemble
from wordregion.nn.decoder import AnswerDecoder
from wordregion.nn.fusion import FusionBlock, FusionEncoder
from wordregion.nn.heads import AssignHead, BoxHead, ClassHead, MaskHead, MatchHead, MlpHead, ReplacedHead
from wordregion.nn.pair_fusion import PairFusion
from wordregion.nn.places import sine_places
from wordregion.nn.pyramid import TimmPyramid
from wordregion.nn.regions import check_places
from wordregion.nn.text import TextEncoder, bert_config, split_bert
from wordregion.nn.vision import TimmVision
from wordregion.nn.word_region import WordRegionHead


def albef_base(
    image_size: int = 256,
    vision_weights: bool | str | Path = True,
    text_weights: bool = True,
    text: str | Path = "bert-base-uncased",
) -> FusionModel:
    """ALBEF as published: ViT-B/16 (DeiT), BERT-base split into 6 text and 6 fusion layers; 210 M parameters.

    Args:
        image_size: pixels; 256 for pre-training, 384 for fine-tuning.
        vision_weights: True = DeiT-B from the hub, a path = a local file in timm's layout, False = random.
        text_weights: False = random values in the architecture of `text`.
        text: hub name or local folder of the BERT. With ``text_weights=False`` and the default name nothing is read.
    """
    vision = TimmVision("deit_base_patch16_224", image_size, vision_weights)
    return _on_split_bert(vision, text_weights, text)


def albef_tiny(
    vocab_size: int,
    image_size: int = 64,
    patch: int = 8,
    width: int = 192,
    vision_layers: int = 6,
    text_layers: int = 3,
    fusion_layers: int = 3,
    embed: int = 128,
) -> FusionModel:
    """The architecture of ALBEF at a size that trains in minutes on two cores; random initialisation."""
    heads = max(1, width // 64)
    vision = TimmVision(
        "vit_tiny_patch16_224",
        image_size,
        settings={"patch_size": patch, "embed_dim": width, "depth": vision_layers, "num_heads": heads},
    )
    text = TextEncoder(bert_config(vocab_size, width, text_layers, heads, max_tokens=64))
    fusion = FusionEncoder(width, width, fusion_layers, heads)
    return _with_heads(vision, text, fusion, embed)


def albef_tiny_conv(
    vocab_size: int,
    image_size: int = 64,
    width: int = 128,
    text_layers: int = 1,
    fusion_layers: int = 1,
    embed: int = 128,
    pool: Literal["cls", "mean"] = "mean",
) -> FusionModel:
    """`albef_tiny` with a small ConvNeXt (8 x 8 tokens at 64 pixels) for the ViT: learns from far fewer images."""
    vision = TimmVision(
        "convnext_atto",
        image_size,
        settings={
            "depths": (2, 2, 2, 1),
            "dims": (32, 64, width, width),
            "output_stride": 8,
            "conv_mlp": False,
            "ls_init_value": None,
            "kernel_sizes": 3,
        },
    )
    heads = max(1, width // 64)
    text = TextEncoder(bert_config(vocab_size, width, text_layers, heads, max_tokens=64, dropout=0.0), pool)
    fusion = FusionEncoder(width, width, fusion_layers, heads, dropout=0.0)
    return _with_heads(vision, text, fusion, embed)


def albef_cnn(
    vision: str,
    vision_weights: str | Path | tuple[str | Path, ...],
    text: str | Path,
    image_size: int = 224,
    fusion_layers: int = 2,
    pool: Literal["cls", "mean"] = "mean",
    embed: int = 256,
    dropout: float = 0.1,
    subsample_first: bool = False,
    fold_norms: bool = False,
) -> FusionModel:
    """ALBEF on a CNN's grid and a small whole BERT: every BERT layer is the text half, the fusion layers are seeded
    with copies of the last of them. For small data with strong pretrained encoders.

    Args:
        vision: timm architecture, or several, see `TimmVision`.
        vision_weights: local file in timm's layout, of several architectures one each.
        text: hub name or local folder of the BERT.
        image_size: pixels.
        fusion_layers: at most as many as the BERT has layers.
        pool: what stands for a whole text, see `TextEncoder`.
        embed: width of the contrast.
        dropout: rate in [0, 1) in text and fusion layers. On a CPU, drawing it costs more than a GELU sixteen times.
        subsample_first: see `TimmVision`.
        fold_norms: see `TimmVision`.
    """
    image = TimmVision(vision, image_size, vision_weights, subsample_first=subsample_first, fold_norms=fold_norms)
    encoder, _, config = split_bert(text, text_layers=None, pool=pool, dropout=dropout)
    fusion = FusionEncoder(
        encoder.width,
        image.width,
        fusion_layers,
        config.num_attention_heads,
        config.intermediate_size,
        dropout=dropout,
    )
    fusion.seed_from_bert([layer.state_dict() for layer in encoder.body.encoder.layer[-fusion_layers:]])
    return _with_heads(image, encoder, fusion, embed)


def xvlm_base(
    image_size: int = 224,
    vision_weights: bool | str | Path = True,
    text_weights: bool = True,
    text: str | Path = "bert-base-uncased",
) -> FusionModel:
    """X-VLM as published: Swin-B (ImageNet-22k), BERT-base split into 6 text and 6 fusion layers; 216 M parameters.

    Args:
        image_size: pixels, a multiple of 32; 224 for pre-training, 384 for fine-tuning. The window is a 32nd of it.
        vision_weights: True = Swin-B from the hub, a path = a local file in timm's layout, False = random.
        text_weights: see `albef_base`.
        text: see `albef_base`.
    """
    vision = TimmVision(
        "swin_base_patch4_window7_224.ms_in22k",
        image_size,
        vision_weights,
        drop_path=0.1,
        settings={"window_size": image_size // 32},
    )
    return for_boxes(_on_split_bert(vision, text_weights, text))


def xvlm_clip(
    image_size: int = 224,
    vision_weights: bool | str | Path = True,
    text_weights: bool = True,
    text: str | Path = "bert-base-uncased",
) -> FusionModel:
    """X-VLM on CLIP's ViT-B/16, whose last four layers run again for each region (X-VLM's code).

    Args:
        image_size: pixels; 224 as published.
        vision_weights: True = OpenAI's CLIP from the hub, a path = a local file in timm's layout, False = random.
        text_weights: see `albef_base`.
        text: see `albef_base`.
    """
    vision = TimmVision("vit_base_patch16_clip_quickgelu_224.openai", image_size, vision_weights)
    return for_boxes(_on_split_bert(vision, text_weights, text))


def xvlm_tiny(
    vocab_size: int, image_size: int = 64, width: int = 128, text_layers: int = 1, fusion_layers: int = 2
) -> FusionModel:
    """The parts of X-VLM at a size that trains in minutes on two cores: `albef_tiny_conv` with X-VLM's heads."""
    return for_boxes(with_places(albef_tiny_conv(vocab_size, image_size, width, text_layers, fusion_layers)))


def with_places(model: FusionModel) -> FusionModel:
    """Lets a model tell places of its image tokens apart, for boxes on a CNN's grid; see `FusionModel`; in place."""
    model.places = nn.Parameter(sine_places(model.vision.grid, model.vision.width))
    return model


def for_boxes(model: FusionModel) -> FusionModel:
    """Gives a model for pre-training X-VLM's heads: a box head beside the others, and an MLP to match; in place."""
    width = model.text.width
    model.heads["match"] = MlpHead(width, 2)
    model.heads["box"] = BoxHead(width)
    return model


def for_word_regions(model: FusionModel, embed: int = 512, dropout: float = 0.0) -> FusionModel:
    """Gives a model a head that compares words with places of the image beside its others (`WordRegionHead`); in place.

    Args:
        model: new or trained.
        embed: width in which they are compared.
        dropout: rate in [0, 1) at which image tokens miss channels in training.

    Raises:
        UsageError: if the image encoder gives tokens without places.
    """
    check_places(model.vision.grid, "for_word_regions")
    model.heads["word_region"] = WordRegionHead(model.text.width, model.vision.width, embed, dropout)
    return model


def for_locating(model: FusionModel) -> FusionModel:
    """Leaves a model its box head only, as X-VLM fine-tunes on RefCOCO+; changed in place."""
    model.heads = nn.ModuleDict({"box": model.heads["box"]})
    return model


def for_retrieval(model: FusionModel) -> FusionModel:
    """Leaves a model its match head only, as in ALBEF's retrieval and grounding; changed in place."""
    model.heads = nn.ModuleDict({"match": model.heads["match"]})
    return model


def for_captioning(model: FusionModel) -> FusionModel:
    """Leaves a model its masked-word head only: run from left to right, it writes captions (`models.caption`)."""
    model.heads = nn.ModuleDict({"mask": model.heads["mask"]})
    return model


def for_replaced_words(model: FusionModel) -> FusionModel:
    """Turns a model for pre-training into VL-Match's: a generator on the text encoder (``generate``) and a detector of
    replaced words on the fusion encoder (``replaced``) in the place of the masked-word head; changed in place.
    """
    heads = {"generate": MaskHead(model.text.word_embeddings), "replaced": ReplacedHead(model.text.width)}
    model.heads = nn.ModuleDict({**{n: h for n, h in model.heads.items() if n != "mask"}, **heads})
    return model


def for_entailment(model: FusionModel, classes: int = 3) -> FusionModel:
    """Turns a model, new or trained, into one that names the relation of a text to an image; changed in place.

    Args:
        model: keeps its encoders and projections, and loses its heads.
        classes: number of relations (entailment, neutral, contradiction).
    """
    model.heads = nn.ModuleDict({"entail": ClassHead(model.text.width, classes)})
    return model


def albef_nlvr_base(
    image_size: int = 384,
    head: Literal["nlvr", "assign"] = "nlvr",
    vision_weights: bool | str | Path = True,
    text_weights: bool = True,
    text: str | Path = "bert-base-uncased",
) -> FusionModel:
    """ALBEF for two images as published: `albef_base` with 12 fusion layers for its 6.

    Args:
        image_size: pixels; 384 for fine-tuning, 256 for text-assignment pre-training.
        head: see `for_two_images`.
        vision_weights: see `albef_base`.
        text_weights: see `albef_base`.
        text: see `albef_base`.
    """
    return for_two_images(albef_base(image_size, vision_weights, text_weights, text), head)


def for_statements(model: FusionModel) -> FusionModel:
    """Turns a model of one image into one that says whether a text is true of it (the head ``nlvr``: 2 classes).

    Args:
        model: new or trained; changed in place: it keeps its encoders and projections, and loses its heads.
    """
    model.heads = nn.ModuleDict({"nlvr": ClassHead(model.text.width, 2)})
    return model


def for_two_images(model: FusionModel, head: Literal["nlvr", "assign"]) -> FusionModel:
    """Turns a model of one image, new or trained, into one of two: each fusion block becomes a `PairBlock`.

    Args:
        model: changed in place; it keeps its encoders and projections, and loses its heads. A model of two images gets
            the new head alone.
        head: ``"nlvr"`` (is the text true of the two images? 2 classes; by an MLP as in X-VLM where the model had one
            to match) or ``"assign"`` (text-assignment pre-training: the text belongs to the first image, the second, or
            neither).
    """
    width = model.text.width
    classes = MlpHead if isinstance(dict(model.heads.items()).get("match"), MlpHead) else ClassHead
    if isinstance(model.fusion, FusionEncoder):
        model.fusion = PairFusion(model.fusion)
    model.heads = nn.ModuleDict({head: classes(width, 2) if head == "nlvr" else AssignHead(width)})
    return model


def albef_vqa_base(
    image_size: int = 384,
    vision_weights: bool | str | Path = True,
    text_weights: bool = True,
    text: str | Path = "bert-base-uncased",
) -> FusionModel:
    """ALBEF for visual questions as published: `albef_base` with an answer decoder of 6 layers.

    Args:
        image_size: pixels; 384 for fine-tuning.
        vision_weights: see `albef_base`.
        text_weights: see `albef_base`.
        text: see `albef_base`.
    """
    return for_questions(albef_base(image_size, vision_weights, text_weights, text))


def for_questions(model: FusionModel, layers: int | None = None) -> FusionModel:
    """Turns a model, new or trained, into one that answers questions: its heads give way to an answer decoder, which
    starts with the weights of its embeddings, its last fusion blocks and its masked-word head, as published.

    Args:
        model: changed in place; it keeps its encoders and projections, and loses its heads.
        layers: of the decoder; as many as fusion blocks if None.
    """
    assert isinstance(model.fusion, FusionEncoder)
    fusion, words = model.fusion, dict(model.heads.items()).get("mask")
    assert words is None or isinstance(words, MaskHead)
    block = fusion.layers[0]
    assert isinstance(block, FusionBlock)
    decoder = AnswerDecoder(
        copy.deepcopy(model.text.body.embeddings),
        question_width=model.text.width,
        layers=layers or len(fusion.layers),
        heads=block.attention.heads,
        inner=block.feed_forward.up.out_features,
        eps=block.attention.norm.eps,
        dropout=block.attention.dropout,
    )
    decoder.seed(model.text, fusion, words)
    model.heads = nn.ModuleDict({"answer": decoder})
    return model


def glip_tiny_a(
    vision_weights: bool | str | Path = True, text_weights: bool = True, text: str | Path = "bert-base-uncased"
) -> Grounder:
    """GLIP-T (A) as published: Swin-T, DyHead of 6 layers, BERT-base, without deep fusion; 151 M parameters.

    Args:
        vision_weights: True = Swin-T from the hub, a path = a local file in timm's layout, False = random.
        text_weights: see `albef_base`.
        text: see `albef_base`.
    """
    vision = TimmPyramid("swin_tiny_patch4_window7_224.ms_in1k", vision_weights, drop_path=0.2)
    return assemble(vision, _whole_bert(text_weights, text), layers=6, attention=None)


def glip_tiny(
    vision_weights: bool | str | Path = True, text_weights: bool = True, text: str | Path = "bert-base-uncased"
) -> Grounder:
    """GLIP-T as published (B, C and T differ in their data): `glip_tiny_a` with deep fusion; 232 M parameters."""
    vision = TimmPyramid("swin_tiny_patch4_window7_224.ms_in1k", vision_weights, drop_path=0.2)
    return assemble(vision, _whole_bert(text_weights, text), layers=6)


def glip_large(
    vision_weights: bool | str | Path = True, text_weights: bool = True, text: str | Path = "bert-base-uncased"
) -> Grounder:
    """GLIP-L as published: Swin-L (ImageNet-22k, windows of 12) and 8 layers with deep fusion; see `glip_tiny_a`."""
    vision = TimmPyramid("swin_large_patch4_window12_384.ms_in22k", vision_weights, drop_path=0.4)
    return assemble(vision, _whole_bert(text_weights, text), layers=8)


def glip_mini(
    vision: str,
    vision_weights: bool | str | Path,
    text: str | Path,
    text_weights: bool = True,
    layers: int = 2,
    channels: int = 128,
    attention: int = 512,
    dropout: float = 0.0,
    subsample_first: bool = False,
) -> Grounder:
    """The architecture of `glip_tiny` on a small CNN and a small whole BERT: trains on two cores.

    Args:
        vision: timm architecture with maps of strides 8, 16 and 32, for example ``"mobilenetv2_100"``.
        vision_weights: see `TimmPyramid`.
        text: hub name or local folder of the BERT.
        text_weights: False = random values in the architecture of `text`.
        layers: of the tower.
        channels: of the pyramid; 32 or more in steps of 16.
        attention: width of the fusion, all 8 heads together.
        dropout: rate in [0, 1) in text and fusion layers.
        subsample_first: see `TimmVision`.
    """
    encoder, _, _ = split_bert(text, text_layers=None, weights=text_weights, dropout=dropout)
    body = TimmPyramid(vision, vision_weights, subsample_first=subsample_first)
    return assemble(body, encoder, layers, channels, attention, dropout=dropout)


def glip_micro(vocab_size: int, width: int = 64, layers: int = 2, separator: int | None = None) -> Grounder:
    """The parts of `glip_tiny` at a size that trains from nothing in minutes on one core; random initialisation.

    Args:
        vocab_size: of the text encoder, which has one layer and reads up to 128 tokens.
        width: of text, pyramid and head; a multiple of 32.
        layers: of the tower.
        separator: see `Grounder`.
    """
    vision = TimmPyramid(
        "convnext_atto",
        settings={
            "depths": (2, 2, 2, 1),
            "dims": (32, 64, 96, 128),
            "conv_mlp": False,
            "ls_init_value": None,
            "kernel_sizes": 3,
        },
    )
    text = TextEncoder(bert_config(vocab_size, width, 1, width // 32, max_tokens=128, dropout=0.0))
    return assemble(vision, text, layers, width, 4 * width, heads=4, dropout=0.0, separator=separator)


def _whole_bert(weights: bool, text: str | Path) -> TextEncoder:
    if weights or str(text) != "bert-base-uncased":
        return split_bert(text, text_layers=None, weights=weights)[0]
    return TextEncoder(bert_config(vocab_size=30522, width=768, layers=12, heads=12))


def _on_split_bert(vision: TimmVision, text_weights: bool, text: str | Path) -> FusionModel:
    if text_weights or str(text) != "bert-base-uncased":
        encoder, upper, config = split_bert(text, text_layers=6, weights=text_weights)
    else:
        config = bert_config(vocab_size=30522, width=768, layers=6, heads=12)
        encoder, upper = TextEncoder(config), []
    fusion = FusionEncoder(encoder.width, vision.width, layers=6, heads=config.num_attention_heads)
    if upper:
        fusion.seed_from_bert(upper)
    return _with_heads(vision, encoder, fusion)


def _with_heads(vision: TimmVision, text: TextEncoder, fusion: FusionEncoder, embed: int = 256) -> FusionModel:
    heads = {"match": MatchHead(text.width), "mask": MaskHead(text.word_embeddings)}
    return FusionModel(vision, text, fusion, heads, embed)
