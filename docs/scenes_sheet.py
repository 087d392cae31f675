"""Draws docs/images/scenes.png: eight validation scenes with a caption each. Run: python docs/scenes_sheet.py"""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from wordregion.data.scenes import Scenes

SIDE, GAP, TEXT, COLUMNS = 192, 12, 66, 4


def main() -> None:
    """Writes the contact sheet beside this file."""
    scenes = Scenes("val", size=8, image_size=SIDE)
    rows = len(scenes) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for index in range(len(scenes)):
        sample = scenes[index]
        x, y = GAP + index % COLUMNS * (SIDE + GAP), GAP + index // COLUMNS * (SIDE + TEXT + GAP)
        sheet.paste(sample.images[0], (x, y))
        pen.text((x, y + SIDE + 4), textwrap.fill(sample.texts[0], 30), fill=(40, 40, 40), font=font, spacing=2)
    sheet.save(Path(__file__).parent / "images" / "scenes.png", optimize=True)


if __name__ == "__main__":
    main()
