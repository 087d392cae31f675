"""Pictures for people: attention on an image, frames, curves. PIL images in and out; needs no training code."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

INK = "#1f2430"
SERIES = ("#2f6fde", "#d1495b", "#2a9d6f", "#b8860b", "#7a5cc9", "#4a5568")


def heat_map(image: Image.Image, weight_HW: Float[Tensor, "H W"], size: int = 192) -> Image.Image:
    """Weights on a coarse grid, over an image: bright where the weight is large, dark where it is small.

    Args:
        image: RGB picture.
        weight_HW: weights of the grid's cells, 0 or more, on any scale.
        size: pixels of a side of the result.
    """
    weight = weight_HW.detach().float().cpu().numpy()
    low, high = float(weight.min()), float(weight.max())
    level = (weight - low) / (high - low) if high > low else np.zeros_like(weight)
    grey = Image.fromarray(np.round(255 * level).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    share = np.asarray(grey, dtype=np.float32)[..., None] / 255
    base = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32)
    colour = np.asarray(mpl.colormaps["inferno"](share[..., 0])[..., :3], dtype=np.float32) * 255
    mixed = (0.25 + 0.75 * share) * base * 0.75 + 0.35 * share * colour
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def thumbnail(image: Image.Image, size: int = 128) -> Image.Image:
    """The whole image, fitted into a square of `size` pixels."""
    return ImageOps.pad(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS, color="#ffffff")


def data_uri(image: Image.Image, quality: int = 85) -> str:
    """An image as text that an HTML page can hold."""
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(memory.getvalue()).decode()}"


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential running mean without the bias towards the first value."""
    smoothed: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smoothed.append(total / weight)
    return smoothed


def curves_svg(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str, width: float = 5.2) -> str:
    """Curves over steps as an SVG element: raw values faint, their running mean on top.

    Args:
        curves: (steps, values) by name.
        ylabel: what the values are.
        width: inches.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wordregion", "font.family": "sans-serif"}):
        figure = Figure(figsize=(width, 0.58 * width), layout="constrained")
        axes = figure.add_subplot()
        for (name, (steps, values)), colour in zip(curves.items(), SERIES * 3, strict=False):
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label=name)
        axes.set_xlabel("step", color=INK)
        axes.set_ylabel(ylabel, color=INK)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        if curves:
            axes.legend(frameon=False)
        memory = io.StringIO()
        figure.savefig(memory, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = memory.getvalue()
    return svg[svg.index("<svg") :]


def labelled_grid(tiles: Sequence[tuple[Image.Image, str]], columns: int = 4, margin: int = 12) -> Image.Image:
    """Pictures in rows on white, each with its label under it; a label that is too long ends in an ellipsis.

    Args:
        tiles: pictures of one size, with labels.
        columns: pictures a row, at most.
        margin: pixels around each.
    """
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 14)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0][0].size
    step_x, step_y = width + margin, height + 24 + margin
    sheet = Image.new("RGB", (columns * step_x + margin, rows * step_y + margin), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, label) in enumerate(tiles):
        x, y = margin + index % columns * step_x, margin + index // columns * step_y
        sheet.paste(picture, (x, y))
        shown = label
        while len(shown) > 1 and pen.textlength(shown, font) > width:
            shown = shown.rstrip("…")[:-1] + "…"
        pen.text((x + width / 2, y + height + 4), shown, INK, font, anchor="ma")
    return sheet
