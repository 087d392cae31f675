"""One text's box in one picture, drawn: ``wordregion predict locate``."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tyro.conf import Positional

from wordregion.data.files import existing_file
from wordregion.data.images import decode
from wordregion.data.loader import Transform
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.losses.boxes import to_corners
from wordregion.models.fusion import FusionModel
from wordregion.predict import SUFFIXES
from wordregion.schema import Box, Sample


@dataclass(frozen=True)
class LocateFlags:
    """Draws the box of what a text describes, with the probability that text and picture match.

    Example: `wordregion predict locate street.jpg "the man with the red bag" --run runs/xvlm -o found.png`
    """

    image: Positional[Path]
    """picture file"""
    text: Positional[str]
    """what to find"""
    run: Path
    """folder of a run, or of a model that `wordregion convert` wrote; its model needs a box head"""
    out: Path = Path("located.png")
    """picture to write"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model, which has no recipe to name it: a hub name, a folder or a vocab.txt"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


@dataclass(frozen=True)
class Place:
    """Where a text is.

    Attributes:
        box: xyxy in [0, 1].
        score: probability in [0, 1] that the text fits the inside of the box, or None without a match head.
    """

    box: Box
    score: float | None

    def caption(self, text: str) -> str:
        """The text with the score, if there is one."""
        return text if self.score is None else f"{text}  {self.score:.2f}"


def check_locate(flags: LocateFlags) -> Image.Image:
    """The picture, before anything large is loaded.

    Raises:
        UsageError: for an empty text, a missing picture, or a name that no picture can be written to.
        DataError: for a file that is no sound picture.
    """
    if not flags.text.strip():
        raise UsageError('locate: the text is empty. Say what to find: wordregion predict locate IMAGE "a red bag"')
    if flags.out.suffix.lower() not in SUFFIXES or not flags.out.absolute().parent.is_dir():
        raise UsageError(
            f"locate: '{flags.out}' can't be written. Name a {', '.join(SUFFIXES)} in a folder that exists."
        )
    return decode(existing_file(flags.image, "a picture").read_bytes(), str(flags.image))


@torch.no_grad()
def locate(model: FusionModel, tokenizer: Tokenizer, transform: Transform, picture: Image.Image, text: str) -> Place:
    """The box that the model predicts for a text, and how well the text fits its inside.

    Args:
        model: in evaluation mode, with a head ``box``.
        tokenizer: of the text.
        transform: makes the picture a normalised tensor of the model's size.
        picture: RGB.
        text: what to find.

    Raises:
        UsageError: if the model has no box head.
    """
    if "box" not in model.heads:
        raise UsageError(
            f"locate: the model has no box head (it has {', '.join(model.heads)}). Use one of X-VLM's kind."
        )
    device = next(model.parameters()).device
    sample = transform(Sample("picture", (picture,), (text,)), np.random.default_rng(0))
    pixels, encoded = torch.as_tensor(sample.images[0])[None].to(device), tokenizer([text])
    ids, mask = encoded.ids.to(device), encoded.mask.to(device)
    image, words = model.encode_image(pixels), model.encode_text(ids, mask)
    box = to_corners(model.heads["box"](model.fuse(words, mask, image).cls)).clamp(0, 1)
    score = None
    if "match" in model.heads:
        first = torch.zeros(1, dtype=torch.long, device=device)
        views = model.encode_views(pixels, box, first)
        fused = model.fuse(words, mask, views.tokens, first + 1, image_mask_IN=views.mask, shared=views.shared)
        score = float(model.heads["match"](fused.cls).float().softmax(1)[0, 1])
    x0, y0, x1, y1 = box[0].tolist()
    return Place((x0, y0, x1, y1), score)


def draw_place(picture: Image.Image, place: Place, text: str) -> Image.Image:
    """The picture with the box and the text in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OpenCV")
        import supervision as sv
    width, height = picture.size
    found = sv.Detections(xyxy=np.array([place.box]) * [width, height, width, height], class_id=np.array([0]))
    thickness = sv.calculate_optimal_line_thickness(picture.size)
    scale = sv.calculate_optimal_text_scale(picture.size)
    drawn = sv.BoxAnnotator(thickness=thickness).annotate(picture.convert("RGB"), found)
    return sv.LabelAnnotator(text_scale=scale, smart_position=True).annotate(drawn, found, [place.caption(text)])
