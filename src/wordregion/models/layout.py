"""How a released checkpoint calls the parameters of a model: the words in which `official` writes its tables.

The originals' layers hold queries, keys and values as separate matrices; ours stack them, so one of our tensors is the
concatenation of one to three of theirs, along dimension 0.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wordregion.models.fusion import FusionModel

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

PRETRAINED = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
"""The modules of which ALBEF's pre-training keeps a momentum copy."""
CONTRAST = {"temperature": "temp", "image_proj.": "vision_proj.", "text_proj.": "text_proj."}


@dataclass(frozen=True)
class Stack:
    """A stack of our blocks: block i is their layer ``first + step * i``.

    Attributes:
        ours: pattern of a block's prefix, with the number as its group.
        theirs: prefix of their layers.
        first: their number of our block 0.
        step: distance of the next one.
        parts: the parts of a block by our name, with their names in order.
    """

    ours: str
    theirs: str
    first: int
    step: int = 1
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: BLOCK)


@dataclass(frozen=True)
class Layout:
    """The names of one kind of checkpoint.

    Attributes:
        build: (image size) to a model with random values.
        backbone: pattern of the timm architectures that it is for.
        image_size: at which it is used.
        prefixes: beginnings of our names and of theirs.
        stacks: blocks by number.
        momentum: modules of theirs that have a momentum copy, under the module's name and ``_m``.
        seed: their name to the name in a pre-training checkpoint that the value comes from, if the file lacks the name.
        new: beginnings of our names that pre-training has no value for.
    """

    build: Callable[[int], FusionModel]
    backbone: str
    image_size: int
    prefixes: Mapping[str, str]
    stacks: tuple[Stack, ...]
    momentum: tuple[str, ...]
    seed: Callable[[str], str] = lambda key: key
    new: tuple[str, ...] = ()

    def names(self, ours: str, momentum: bool = False) -> tuple[str, ...]:
        """Their names of our parameter, in the order of concatenation; none if the layout does not hold it."""
        return tuple(copied(key, self.momentum) if momentum else key for key in self._student(ours))

    def seeds(self, ours: str, momentum: bool = False) -> tuple[str, ...]:
        """The names in a pre-training checkpoint from which our parameter is made."""
        keys = tuple(map(self.seed, self._student(ours)))
        return tuple(copied(key, PRETRAINED) if momentum else key for key in keys)

    def heads(self) -> set[str]:
        """The heads of our model."""
        patterns = (*self.prefixes, *(stack.ours.replace("\\", "") for stack in self.stacks))
        return {pattern.split(".")[1] for pattern in patterns if pattern.startswith("heads.")}

    def _student(self, ours: str) -> tuple[str, ...]:
        for stack in self.stacks:
            found = re.fullmatch(stack.ours + r"([\w.]+)\.(weight|bias)", ours)
            if found and found[2] in stack.parts:
                layer = f"{stack.theirs}{stack.first + stack.step * int(found[1])}"
                return tuple(f"{layer}.{part}.{found[3]}" for part in stack.parts[found[2]])
        for mine, theirs in self.prefixes.items():
            if ours == mine or (ours.startswith(mine) and mine.endswith(".")):
                return (theirs + ours.removeprefix(mine),)
        return ()


def copied(key: str, modules: tuple[str, ...]) -> str:
    """The momentum copy's name of a parameter, or the name itself where its module has no copy."""
    module, _, rest = key.partition(".")
    return f"{module}_m.{rest}" if module in modules else key


def word_head(ours: str, theirs: str) -> dict[str, str]:
    """Prefixes of a masked-word head."""
    return {
        f"{ours}dense.": f"{theirs}cls.predictions.transform.dense.",
        f"{ours}norm.": f"{theirs}cls.predictions.transform.LayerNorm.",
        f"{ours}decoder.": f"{theirs}cls.predictions.decoder.",
    }


def bert_put_back(key: str) -> str:
    """Fine-tuned models have no head on their text encoder, and so lack the ``bert.`` in its names."""
    return re.sub(r"^text_encoder\.(embeddings|encoder)\.", r"text_encoder.bert.\1.", key)


def decoder_from_fusion(key: str) -> str:
    """The answer decoder starts as the fusion half with the masked-word head."""
    if found := re.match(r"text_decoder\.bert\.encoder\.layer\.(\d+)\.", key):
        return f"text_encoder.bert.encoder.layer.{TEXT_LAYERS + int(found[1])}.{key[found.end() :]}"
    return re.sub(r"^text_decoder\.", "text_encoder.", bert_put_back(key))


def halved(key: str) -> str:
    """Of a model for two images, layers 6 and 7 come from layer 6, 8 and 9 from layer 7, and so on."""
    found = re.match(r"text_encoder\.encoder\.layer\.(\d+)\.", key)
    if found and int(found[1]) >= TEXT_LAYERS:
        layer = TEXT_LAYERS + (int(found[1]) - TEXT_LAYERS) // 2
        key = f"text_encoder.encoder.layer.{layer}.{key[found.end() :]}"
    return bert_put_back(key)


ONE_IMAGE = (Stack(r"fusion\.layers\.(\d+)\.", "text_encoder.encoder.layer.", TEXT_LAYERS),)
TWO_IMAGES = (
    Stack(r"fusion\.layers\.(\d+)\.first\.", "text_encoder.encoder.layer.", TEXT_LAYERS, 2),
    Stack(r"fusion\.layers\.(\d+)\.second\.", "text_encoder.encoder.layer.", TEXT_LAYERS + 1, 2),
)
