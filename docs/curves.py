"""The loss curves of a run as a picture: python docs/curves.py RUN OUT.png"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from wordregion.draw import INK, SERIES, smooth

NAMES = {
    "contrast": "contrast (ITC)",
    "match": "matching (ITM)",
    "masked_words": "masked words (MLM)",
    "word_region": "words against places",
    "word_region_box": "their boxes",
}


def main(run: Path, out: Path) -> None:
    """One panel a loss: every logged step faint, the running mean on top."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shown = [name for name in NAMES if any(name in row for row in rows)]
    figure, panels = plt.subplots(1, len(shown), figsize=(3.4 * len(shown), 2.6), layout="constrained", squeeze=False)
    for axes, name, colour in zip(panels[0], shown, SERIES, strict=False):
        steps, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
        axes.plot(steps, values, color=colour, alpha=0.3)
        axes.plot(steps, smooth(values, 0.7), color=colour)
        axes.set_title(NAMES[name], fontsize=9, color=INK)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
