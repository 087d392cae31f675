"""The released checkpoints: how their parameters are called, and how they become ours and theirs again.

Tables only: a `Layout` for each kind of checkpoint. ALBEF's layers hold queries, keys and values as separate matrices;
ours stack them, so one of our tensors is the concatenation of one to three of theirs, along dimension 0.

A fine-tuning model of ALBEF starts from a pre-training checkpoint: its tensors are taken from there under other names
(`Layout.seed`), and its new head keeps its constructor value. Files were never at hand: the names come from the
programs that write and read them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordregion.errors import CheckpointError, UsageError
from wordregion.models.fusion import FusionModel
from wordregion.models.report import LoadReport, fill
from wordregion.models.zoo import albef_base, for_entailment, for_questions, for_retrieval, for_two_images
from wordregion.nn.weights import read_weights

TEXT_LAYERS = 6
BLOCK = {
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
"""The parts of one of our fusion or decoder blocks, and of their BERT layer."""

CONTRAST = {"temperature": "temp", "image_proj.": "vision_proj.", "text_proj.": "text_proj."}


@dataclass(frozen=True)
class Stack:
    """A stack of our blocks: block i is their layer ``first + step * i``.

    Attributes:
        ours: pattern of a block's prefix, with the number as its group.
        theirs: prefix of their layers.
        first: their number of our block 0.
        step: distance of the next one.
    """

    ours: str
    theirs: str
    first: int
    step: int = 1


@dataclass(frozen=True)
class Layout:
    """The names of one kind of checkpoint.

    Attributes:
        build: (image size) to a model with random values.
        image_size: at which it is used.
        prefixes: beginnings of our names and of theirs.
        stacks: blocks by number.
        momentum: modules of theirs that have a momentum copy, under the module's name and ``_m``.
        seed: their name to the name in a pre-training checkpoint that the value comes from, if the file lacks the name.
        new: beginnings of our names that pre-training has no value for.
    """

    build: Callable[[int], FusionModel]
    image_size: int
    prefixes: Mapping[str, str]
    stacks: tuple[Stack, ...]
    momentum: tuple[str, ...]
    seed: Callable[[str], str] = lambda key: key
    new: tuple[str, ...] = ()

    def names(self, ours: str, momentum: bool = False) -> tuple[str, ...]:
        """Their names of our parameter, in the order of concatenation; none if the layout does not hold it."""
        return tuple(_copied(key, self.momentum) if momentum else key for key in self._student(ours))

    def seeds(self, ours: str, momentum: bool = False) -> tuple[str, ...]:
        """The names in a pre-training checkpoint from which our parameter is made."""
        keys = tuple(map(self.seed, self._student(ours)))
        return tuple(_copied(key, PRETRAINED) if momentum else key for key in keys)

    def heads(self) -> set[str]:
        """The heads of our model."""
        patterns = (*self.prefixes, *(stack.ours.replace("\\", "") for stack in self.stacks))
        return {pattern.split(".")[1] for pattern in patterns if pattern.startswith("heads.")}

    def _student(self, ours: str) -> tuple[str, ...]:
        for stack in self.stacks:
            if found := re.fullmatch(stack.ours + r"(\w+\.\w+)\.(weight|bias)", ours):
                layer = f"{stack.theirs}{stack.first + stack.step * int(found[1])}"
                return tuple(f"{layer}.{part}.{found[3]}" for part in BLOCK[found[2]])
        for mine, theirs in self.prefixes.items():
            if ours == mine or (ours.startswith(mine) and mine.endswith(".")):
                return (theirs + ours.removeprefix(mine),)
        return ()


def _copied(key: str, modules: tuple[str, ...]) -> str:
    """The momentum copy's name of a parameter, or the name itself where its module has no copy."""
    module, _, rest = key.partition(".")
    return f"{module}_m.{rest}" if module in modules else key


def _word_head(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}dense.": f"{theirs}cls.predictions.transform.dense.",
        f"{ours}norm.": f"{theirs}cls.predictions.transform.LayerNorm.",
        f"{ours}decoder.": f"{theirs}cls.predictions.decoder.",
    }


def _bert_put_back(key: str) -> str:
    """Fine-tuned models have no head on their text encoder, and so lack the ``bert.`` in its names."""
    return re.sub(r"^text_encoder\.(embeddings|encoder)\.", r"text_encoder.bert.\1.", key)


def _decoder_from_fusion(key: str) -> str:
    """The answer decoder starts as the fusion half with the masked-word head."""
    if found := re.match(r"text_decoder\.bert\.encoder\.layer\.(\d+)\.", key):
        return f"text_encoder.bert.encoder.layer.{TEXT_LAYERS + int(found[1])}.{key[found.end() :]}"
    return re.sub(r"^text_decoder\.", "text_encoder.", _bert_put_back(key))


def _halved(key: str) -> str:
    """Of a model for two images, layers 6 and 7 come from layer 6, 8 and 9 from layer 7, and so on."""
    found = re.match(r"text_encoder\.encoder\.layer\.(\d+)\.", key)
    if found and int(found[1]) >= TEXT_LAYERS:
        layer = TEXT_LAYERS + (int(found[1]) - TEXT_LAYERS) // 2
        key = f"text_encoder.encoder.layer.{layer}.{key[found.end() :]}"
    return _bert_put_back(key)


PRETRAINED = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
CLASSIFIER = ("visual_encoder", "text_encoder", "cls_head")
TUNED = {"vision.body.": "visual_encoder.", "text.body.": "text_encoder."}
ONE_IMAGE = (Stack(r"fusion\.layers\.(\d+)\.", "text_encoder.encoder.layer.", TEXT_LAYERS),)
TWO_IMAGES = (
    Stack(r"fusion\.layers\.(\d+)\.first\.", "text_encoder.encoder.layer.", TEXT_LAYERS, 2),
    Stack(r"fusion\.layers\.(\d+)\.second\.", "text_encoder.encoder.layer.", TEXT_LAYERS + 1, 2),
)


def _random(image_size: int) -> FusionModel:
    return albef_base(image_size, vision_weights=False, text_weights=False)


LAYOUTS: dict[str, Layout] = {
    "albef/pretrain": Layout(
        build=_random,
        image_size=256,
        prefixes=CONTRAST
        | {"vision.body.": "visual_encoder.", "text.body.": "text_encoder.bert.", "heads.match.": "itm_head."}
        | _word_head("heads.mask.", "text_encoder."),
        stacks=(Stack(r"fusion\.layers\.(\d+)\.", "text_encoder.bert.encoder.layer.", TEXT_LAYERS),),
        momentum=PRETRAINED,
    ),
    "albef/retrieval": Layout(
        build=lambda size: for_retrieval(_random(size)),
        image_size=384,
        prefixes=TUNED | CONTRAST | {"heads.match.": "itm_head."},
        stacks=ONE_IMAGE,
        momentum=PRETRAINED,
        seed=_bert_put_back,
    ),
    "albef/entailment": Layout(
        build=lambda size: for_entailment(_random(size)),
        image_size=384,
        prefixes=TUNED | {"heads.entail.hidden.": "cls_head.0.", "heads.entail.out.": "cls_head.2."},
        stacks=ONE_IMAGE,
        momentum=CLASSIFIER,
        seed=_bert_put_back,
        new=("heads.entail.", *CONTRAST),
    ),
    "albef/vqa": Layout(
        build=lambda size: for_questions(_random(size)),
        image_size=384,
        prefixes=TUNED
        | {"heads.answer.embeddings.": "text_decoder.bert.embeddings."}
        | _word_head("heads.answer.head.", "text_decoder."),
        stacks=(*ONE_IMAGE, Stack(r"heads\.answer\.layers\.(\d+)\.", "text_decoder.bert.encoder.layer.", 0)),
        momentum=("visual_encoder", "text_encoder", "text_decoder"),
        seed=_decoder_from_fusion,
        new=tuple(CONTRAST),
    ),
    "albef/nlvr": Layout(
        build=lambda size: for_two_images(_random(size), "nlvr"),
        image_size=384,
        prefixes=TUNED | {"heads.nlvr.hidden.": "cls_head.0.", "heads.nlvr.out.": "cls_head.2."},
        stacks=TWO_IMAGES,
        momentum=CLASSIFIER,
        seed=_halved,
        new=("heads.nlvr.", *CONTRAST),
    ),
    "albef/nlvr_pretrain": Layout(
        build=lambda size: for_two_images(_random(size), "assign"),
        image_size=256,
        prefixes=TUNED | CONTRAST | {"heads.assign.": "ta_head."},
        stacks=TWO_IMAGES,
        momentum=(),
        seed=_halved,
        new=("heads.assign.",),
    ),
}
"""A new kind of checkpoint adds a row. `CONTRAST` under `new`: the model has those parameters, the layout does not."""


def load_official(
    source: str | Path | Mapping[str, Any], layout: str, image_size: int | None = None, momentum: bool = False
) -> tuple[FusionModel, LoadReport]:
    """The model of a released checkpoint, and what became of every tensor of it.

    A pre-training checkpoint fills the fine-tuning models too, as the original programs do it: position embeddings are
    resized to `image_size`, and what it has no value for (a new head) is reported as new.

    Args:
        source: a file (opened safely) or a state dict; the tensors may sit under ``"model"``.
        layout: ``"albef/pretrain"``, ``"albef/retrieval"``, ... : see `LAYOUTS`.
        image_size: pixels; 384 if None, for the pre-trainings 256.
        momentum: load the momentum copy; modules without one come from the student.

    Returns:
        the model, in evaluation mode, and the report; queues, the other copy and unused heads are in its `ignored`.

    Raises:
        UsageError: for an unknown layout.
        CheckpointError: if the file is missing, damaged or lacks a parameter.
    """
    found = layout_named(layout)
    model = found.build(image_size or found.image_size)
    if isinstance(source, Mapping):
        state, name = source.get("model", source), "the state dict"
    else:
        state, name = read_weights(source), str(source)
    return model.eval(), fill_official(model, state, layout, name, momentum=momentum)


def fill_official(
    model: FusionModel,
    state: Mapping[str, Tensor],
    layout: str,
    source: str,
    new: tuple[str, ...] = (),
    momentum: bool = False,
) -> LoadReport:
    """Fills a model from the tensors of a released checkpoint; see `load_official`.

    Args:
        model: takes the values.
        state: of this layout, or of pre-training.
        layout: of the model.
        source: the file, for errors.
        new: further beginnings of our names that may keep their constructor value.
        momentum: read the momentum copy.

    Raises:
        CheckpointError: if a parameter is missing or has another shape.
    """
    found = layout_named(layout)
    names: dict[str, tuple[str, ...]] = {}
    for ours in model.state_dict():
        every = (found.names(ours, momentum), found.seeds(ours, momentum), _contrast(ours, momentum))
        ways = [theirs for theirs in every if theirs]
        present = [theirs for theirs in ways if all(key in state for key in theirs)]
        if ways:
            names[ours] = (present or ways)[0]
    return fill(model, state, names, source, (*found.new, *new))


def to_official(tensors: Mapping[str, Tensor], layout: str, momentum: bool = False) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under the released names, bit by bit; stacked ones are split again.

    Args:
        tensors: a model's ``state_dict()``, or a part of it.
        layout: of the model.
        momentum: under the names of the momentum copy.

    Raises:
        CheckpointError: if the layout has no such parameter. The contrast's parameters, which every model of ours has,
            are left out where the layout has none.
    """
    found = layout_named(layout)
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        theirs = found.names(name, momentum)
        if not theirs and not name.startswith(tuple(CONTRAST)):
            raise CheckpointError(f"'{name}': {layout} has no such parameter. Use the layout of the model's heads.")
        for key, part in zip(theirs, value.chunk(len(theirs)) if theirs else (), strict=True):
            result[key] = part.reshape(()) if key == "temp" else part
    return result | _doubles(result)


def official_checkpoint(model: FusionModel, layout: str, teacher: FusionModel | None = None) -> dict[str, Tensor]:
    """A whole checkpoint as the originals save it, but for queues: student and, if given, its momentum copy."""
    state = to_official(model.state_dict(), layout)
    if teacher is not None:  # modules without a copy have one name only: the student's values
        state = to_official(teacher.state_dict(), layout, momentum=True) | state
    positions = {
        key.replace("position_embeddings.weight", "position_ids"): torch.arange(len(value))[None]
        for key, value in state.items()
        if key.endswith("embeddings.position_embeddings.weight")
    }
    return {key: value.clone() for key, value in (state | positions).items()}


def layout_of(model: FusionModel) -> str:
    """The layout that has the model's heads.

    Raises:
        CheckpointError: if there is none.
    """
    for name, layout in LAYOUTS.items():
        if layout.heads() == set(model.heads):
            return name
    raise CheckpointError(
        f"a model with the heads {', '.join(model.heads)} has no released layout. Convert a part of it."
    )


def layout_named(name: str) -> Layout:
    """The row of `LAYOUTS`.

    Raises:
        UsageError: if there is none.
    """
    if name not in LAYOUTS:
        raise UsageError(f"unknown checkpoint layout '{name}'. There is: {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a released checkpoint."""
    return any(key.startswith("visual_encoder.") for key in state)


def _contrast(ours: str, momentum: bool) -> tuple[str, ...]:
    """Names of the contrast's parameters, which our models have though some layouts do not."""
    theirs = (key + ours.removeprefix(mine) for mine, key in CONTRAST.items() if ours.startswith(mine))
    return tuple(_copied(key, PRETRAINED) if momentum else key for key in theirs)


def _doubles(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The bias of a word head, which the originals save under two names."""
    decoder = "cls.predictions.decoder.bias"
    return {
        key.replace(decoder, "cls.predictions.bias"): value for key, value in state.items() if key.endswith(decoder)
    }
