"""Single predictions for people: where a trained model looks for each word of a text, and what it says of a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tyro.conf import Positional, arg

from wordregion.data.captions import PROMPT, prompt_tokens
from wordregion.data.files import existing_file
from wordregion.data.images import decode
from wordregion.data.loader import Transform
from wordregion.data.tokens import Encoded, Tokenizer
from wordregion.draw import heat_map, labelled_grid
from wordregion.errors import UsageError
from wordregion.evaluate.vqa import written
from wordregion.models.caption import CaptionWriter
from wordregion.models.fusion import FusionModel
from wordregion.models.generate import Limits, beam_search
from wordregion.models.gradcam import check_words_count, match_attention, similarity_maps, text_maps, token_maps
from wordregion.schema import Grounding, Sample

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class HeatmapFlags:
    """Draws where a model looks for each word of a text: Grad-CAM of "these match" on the picture.

    Each map has its own scale; the number under it is its peak over the largest peak of all words.

    Examples: `wordregion predict heatmap boat.jpg "a red boat near a pier" --run runs/mine -o boat.png`,
    `wordregion predict heatmap boat.jpg "the red boat" --run runs/mine --phrase -o boat.png`
    """

    image: Positional[Path]
    """picture file"""
    text: Positional[str]
    """what to look for"""
    run: Path
    """folder of a run, or of a model that `wordregion convert` wrote"""
    out: Annotated[Path, arg(aliases=("-o",))] = Path("heatmap.png")
    """picture to write"""
    layer: int | None = None
    """layer, from 0: of the fusion encoder (itm) or of the image encoder (itc) (default: at ALBEF's depth)"""
    mode: Literal["itm", "itc"] = "itm"
    """itm: what made the match head agree; itc: what made image and text similar (one map for the whole text)"""
    phrase: bool = False
    """one map for the whole text, without those of its words"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model, which has no recipe to name it: a hub name, a folder or a vocab.txt"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


@dataclass(frozen=True)
class WordMap:
    """A map with the words that it belongs to.

    Attributes:
        words: as they stand in the text.
        map: (Y, X) weights of the image's grid.
    """

    words: str
    map: Tensor


def check_heatmap(flags: HeatmapFlags) -> Image.Image:
    """The picture, before anything large is loaded.

    Raises:
        UsageError: for an empty text, a missing picture, or a name that no picture can be written to.
        DataError: for a file that is no sound picture.
    """
    if not flags.text.strip():
        raise UsageError('heatmap: the text is empty. Say what to look for: wordregion predict heatmap IMAGE "a dog"')
    if flags.out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"heatmap: '{flags.out}' is no name of a picture. End it in one of {', '.join(SUFFIXES)}.")
    if flags.out.is_dir() or not flags.out.absolute().parent.is_dir():
        raise UsageError(f"heatmap: '{flags.out}' can't be written, no such folder. Give another --out.")
    return decode(existing_file(flags.image, "a picture").read_bytes(), str(flags.image))


def word_maps(
    model: FusionModel,
    tokenizer: Tokenizer,
    transform: Transform,
    picture: Image.Image,
    text: str,
    *,
    mode: Literal["itm", "itc"] = "itm",
    layer: int | None = None,
    phrase: bool = False,
) -> list[WordMap]:
    """The whole text's map, then, unless `phrase` or itc, one for each word: the mean over its tokens.

    Args:
        model: in evaluation mode.
        tokenizer: of the text.
        transform: makes the picture a normalised tensor of the model's size.
        picture: RGB.
        text: what to look for.
        mode: see `HeatmapFlags`.
        layer: from 0; None = as deep as in ALBEF's paper.
        phrase: the whole text's map alone.

    Raises:
        UsageError: if the text has no words, there is no such layer, or it has no maps of words.
    """
    encoded = tokenizer([text])
    words = words_of(encoded, text)
    if not words:
        raise UsageError(f"heatmap: '{text}' holds no words. Say what to look for, for example \"a dog\".")
    sample = transform(Sample("picture", (picture,), (text,), (Grounding(text=0),)), np.random.default_rng(0))
    device = next(model.parameters()).device
    pixels = torch.as_tensor(sample.images[0])[None].to(device)
    ids, mask = encoded.ids.to(device), encoded.mask.to(device)
    with torch.no_grad():
        hidden = model.encode_text(ids, mask)
        if mode == "itc":
            feature = model.project_text(hidden, mask)
            return [WordMap(text, similarity_maps(model, pixels, feature, torch.zeros(1).long().to(device), layer)[0])]
        attention = match_attention(model, model.encode_image(pixels), hidden, mask, layer=layer)
    maps = token_maps(attention, mask)
    found = [WordMap(text, text_maps(maps, mask)[0])]
    if phrase:
        return found
    check_words_count(model, layer)
    return found + [WordMap(word, text_maps(maps, tokens[None].to(device))[0]) for word, tokens in words]


def words_of(encoded: Encoded, text: str) -> list[tuple[str, Tensor]]:
    """The words of one encoded text, as written, with the (L,) tokens of each."""
    found = []
    for number in range(int(encoded.word[0].max()) + 1):
        tokens = encoded.word[0] == number
        if tokens.any():
            begin, end = encoded.offsets[0][tokens][:, 0].min(), encoded.offsets[0][tokens][:, 1].max()
            found.append((text[int(begin) : int(end)], tokens))
    return found


def draw_heatmap(picture: Image.Image, maps: list[WordMap], side: int = 260) -> Image.Image:
    """The picture beside its maps, each with its words.

    Args:
        picture: RGB; its aspect ratio is kept.
        maps: of `word_maps`, the whole text's first.
        side: pixels of a tile's longer side.
    """
    longer = max(picture.size)
    size = (max(1, round(picture.width * side / longer)), max(1, round(picture.height * side / longer)))
    tiles = [(picture.resize(size, Image.Resampling.LANCZOS), "the picture")]
    peak = max((float(found.map.max()) for found in maps[1:]), default=0.0)
    for index, found in enumerate(maps):
        drawn = heat_map(picture, found.map, side).resize(size, Image.Resampling.LANCZOS)
        strength = f"  {float(found.map.max()) / peak:.2f}" if index and peak > 0 else ""
        tiles.append((drawn, found.words + strength))
    return labelled_grid(tiles)


@dataclass(frozen=True)
class CaptionFlags:
    """Describes a picture, by beam search.

    Examples: `wordregion predict caption boat.jpg --run runs/caption`,
    `wordregion predict caption boat.jpg --run runs/caption --beams 5 --penalty 1.2`
    """

    image: Positional[Path]
    """picture file"""
    run: Path
    """folder of a run, or of a model that `wordregion convert` wrote"""
    beams: int = 3
    """texts followed at the same time; 1 = greedy"""
    max_tokens: int = 20
    """longest caption, [CLS] and prompt counted"""
    min_tokens: int = 5
    """shortest caption, counted likewise"""
    penalty: float = 1.0
    """against repetition: above 1, a word that is there already becomes less probable"""
    prompt: str = PROMPT
    """how captions began in training"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model, which has no recipe to name it: a hub name, a folder or a vocab.txt"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


def check_caption(flags: CaptionFlags) -> Image.Image:
    """The picture, before anything large is loaded.

    Raises:
        UsageError: for a missing picture, or numbers out of range.
        DataError: for a file that is no sound picture.
    """
    if flags.beams < 1 or flags.max_tokens < 1 or flags.min_tokens < 0 or not flags.penalty > 0:
        raise UsageError(
            f"caption: beams={flags.beams}, max_tokens={flags.max_tokens}, min_tokens={flags.min_tokens}, "
            f"penalty={flags.penalty}: beams >= 1, max_tokens >= 1, min_tokens >= 0 and penalty > 0 must hold."
        )
    return decode(existing_file(flags.image, "a picture").read_bytes(), str(flags.image))


def describe(
    model: FusionModel, tokenizer: Tokenizer, transform: Transform, picture: Image.Image, flags: CaptionFlags
) -> str:
    """The caption that beam search finds.

    Args:
        model: with a masked-word head, in evaluation mode.
        tokenizer: of the captions.
        transform: makes the picture a normalised tensor of the model's size.
        picture: RGB.
        flags: how to search.

    Raises:
        UsageError: if the model writes no captions or none so long, or the prompt leaves no room.
    """
    device = next(model.parameters()).device
    sample = transform(Sample("picture", (picture,), ()), np.random.default_rng(0))
    room = getattr(model.text.body.config, "max_position_embeddings", flags.max_tokens)
    if flags.max_tokens > room:
        raise UsageError(f"caption: max_tokens={flags.max_tokens}, but the model reads {room} at most. Give fewer.")
    limits = Limits(tokenizer.sep_id, flags.max_tokens, flags.min_tokens, flags.penalty)
    with torch.no_grad():
        image = model.encode_image(torch.as_tensor(sample.images[0])[None].to(device))
    prompt = prompt_tokens(tokenizer, flags.prompt).to(device)
    found = beam_search(CaptionWriter(model, image), prompt, 1, flags.beams, limits)
    return written(tokenizer.decode(found.ids[0]))
