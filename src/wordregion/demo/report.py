"""The demo's report: one HTML page that holds its pictures and styles and asks nothing of a network or of scripts."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from wordregion import __version__
from wordregion.draw import curves_svg, data_uri, heat_map, thumbnail
from wordregion.evaluate.retrieval import Retrieval
from wordregion.recipes.recipe import Recipe
from wordregion.schema import Sample

Curves = dict[str, tuple[list[float], list[float]]]
QUERIES, FOUND, SHOWN_CAPTIONS = 6, 5, 4
NAMES = {"contrast": "contrast (ITC)", "match": "match (ITM)", "masked_words": "masked words (MLM)"}

STYLE = (resources.files("wordregion.demo") / "style.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Facts:
    """What the report tells.

    Attributes:
        recipe: what was trained.
        parameters: of the model.
        minutes: that the training took (of its last attempt).
        cores: of the machine.
        curves: (steps, values) of each logged metric.
        retrieval: measured on the held-out scenes, one caption each.
        pictures: of the held-out scenes.
        negatives: (right, asked) by kind of hard negative.
        attention: scenes with (phrase, weights on the patch grid).
    """

    recipe: Recipe
    parameters: int
    minutes: float
    cores: int
    curves: Curves
    retrieval: Retrieval
    pictures: tuple[Image, ...]
    negatives: dict[str, tuple[int, int]]
    attention: tuple[tuple[Sample, list[tuple[str, Tensor]]], ...]


def read_curves(path: Path) -> Curves:
    """Curves by name from a run's ``metrics.jsonl``."""
    curves: Curves = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name != "step":
                steps, values = curves.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return curves


def write_report(facts: Facts, path: Path) -> Path:
    """Writes the page and returns its path."""
    path.write_text(page(facts), encoding="utf-8")
    return path


def page(facts: Facts) -> str:
    """The whole report as HTML."""
    sections = (
        _figures(facts), _curves(facts), _text_to_image(facts), _image_to_text(facts), _attention(facts),
        _negatives(facts), _next(),
    )  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>wordregion demo</title><style>{STYLE}</style></head><body><main>{_head(facts)}"
        f'{"".join(sections)}<p class="soft small" style="margin-top:24px">wordregion {__version__}. Every picture on '
        f"this page was drawn by the program; queries are evenly spread over the held-out scenes, not picked.</p>"
        f"</main></body></html>\n"
    )


def _head(facts: Facts) -> str:
    run, scenes = facts.recipe.run, len(facts.pictures)
    way = _best(facts)
    best = facts.retrieval.metrics[f"{way}/TR@1"]
    rates = facts.curves.get("pairs_per_second", ([], [0.0]))[1]
    tiles = (
        (
            "key",
            f"{best:.1f} %",
            f"of {scenes} unseen scenes find their caption first ({_told(way)}; chance {100 / scenes:.1f} %)",
        ),
        ("", f"{facts.parameters / 1e6:.1f} M", "parameters, from random values"),
        ("", f"{run.steps * run.batch:,}", f"scenes seen: {run.steps:,} steps of {run.batch}"),
        (
            "",
            f"{facts.minutes:.1f} min",
            f"of training, {sorted(rates)[len(rates) // 2]:.0f} pairs/s, {facts.cores} cores",
        ),
    )
    shown = "".join(
        f'<div class="tile {kind}"><b>{value}</b><span>{escape(what)}</span></div>' for kind, value, what in tiles
    )
    return (
        "<h1>A small ALBEF, trained on this machine</h1>"
        '<p class="soft">It has learnt from drawn scenes and their captions which words go with which picture: two '
        "encoders brought together by contrast, a fusion encoder that looks at the picture while it reads, and a "
        "slowly moving teacher. The scenes below were not in training, and neither were their combinations of "
        f'things.</p><div class="tiles">{shown}</div>'
    )


def _ways(facts: Facts) -> list[str]:
    """Ways of scoring, as the metrics name them; re-ranking last."""
    return sorted({name.rpartition("/")[0] for name in facts.retrieval.metrics}, key=lambda way: "rerank" in way)


def _best(facts: Facts) -> str:
    """The way of scoring that finds most captions first: after a short training, the contrast alone."""
    return max(_ways(facts), key=lambda way: facts.retrieval.metrics[f"{way}/TR@1"])


def _told(way: str) -> str:
    return (
        "contrast alone" if way.endswith("/itc") else f"re-ranked by the fusion encoder, k = {way.rpartition('k')[2]}"
    )


def _figures(facts: Facts) -> str:
    measures = [f"{way}@{depth}" for way in ("TR", "IR") for depth in (1, 5, 10)]
    rows = ""
    for way in _ways(facts):
        label = _told(way)
        cells = "".join(
            f"<td{' class=best' if way == _best(facts) else ''}>{facts.retrieval.metrics[f'{way}/{m}']:.1f}</td>"
            for m in measures
        )
        rows += f"<tr><td>{label}</td>{cells}</tr>"
    chance = "".join(f"<td>{100 * int(m.rpartition('@')[2]) / len(facts.pictures):.1f}</td>" for m in measures)
    heads = "".join(f"<th>{m}</th>" for m in measures)
    return (
        f"<section><h2>Retrieval against chance</h2><p class='soft'>{len(facts.pictures)} held-out scenes, one caption "
        f"each. TR@n: the right caption is among the best n for its picture; IR@n: the right picture is among the "
        f"best n for its caption. In percent.</p><table><tr><th></th>{heads}</tr>{rows}"
        f'<tr class="chance"><td>chance</td>{chance}</tr></table></section>'
    )


def _curves(facts: Facts) -> str:
    losses = {label: facts.curves[name] for name, label in NAMES.items() if name in facts.curves}
    right = {
        label: (facts.curves[f"{name}_accuracy"][0], [100 * v for v in facts.curves[f"{name}_accuracy"][1]])
        for name, label in NAMES.items()
        if f"{name}_accuracy" in facts.curves
    }
    return (
        "<section><h2>Training</h2><p class='soft'>The three losses, and how often each is right on its training "
        "batch. Thin: every logged step; thick: running mean. "
        "A contrast is right if the own caption comes first in the batch.</p>"
        f'<div class="curves"><div>{curves_svg(losses, "loss")}</div><div>{curves_svg(right, "right, %")}</div></div>'
        "</section>"
    )


def _text_to_image(facts: Facts) -> str:
    found = facts.retrieval
    ranking = found.rankings[_best(facts).partition("/")[2]]
    rows = ""
    for text in _spread(len(found.captions), QUERIES):
        own = found.caption_image[text]
        cells = ""
        for place, image in enumerate(ranking.images[text][:FOUND], 1):
            true = image == own
            cells += (
                f"<div{' class=true' if true else ''}>{_img(thumbnail(facts.pictures[image]), f'scene {image}')}"
                f'<div class="mark">{place}{" · right" if true else ""}</div></div>'
            )
        rows += f'<div class="query"><div>“{escape(found.captions[text])}”</div><div class="found">{cells}</div></div>'
    return (
        "<section><h2>Text to image</h2><p class='soft'>A caption, and the five scenes that fit it best "
        f"({_told(_best(facts))}); its own has a green frame.</p>{rows}</section>"
    )


def _image_to_text(facts: Facts) -> str:
    found = facts.retrieval
    ranking = found.rankings[_best(facts).partition("/")[2]]
    rows = ""
    for image in _spread(len(found.image_ids), SHOWN_CAPTIONS):
        items = "".join(
            f"<li{' class=true' if found.caption_image[text] == image else ''}>{escape(found.captions[text])}</li>"
            for text in ranking.texts[image][:FOUND]
        )
        rows += (
            f'<div class="query wide"><div>{_img(thumbnail(facts.pictures[image], 160), f"scene {image}")}</div>'
            f"<ol>{items}</ol></div>"
        )
    return (
        "<section><h2>Image to text</h2><p class='soft'>A scene, and the five captions that fit it best "
        f"({_told(_best(facts))}); its own is green.</p>{rows}</section>"
    )


def _attention(facts: Facts) -> str:
    rows = ""
    for sample, phrases in facts.attention:
        picture = sample.images[0]
        assert not isinstance(picture, Tensor)
        figures = (
            f"<figure>{_img(thumbnail(picture, 160), 'scene')}<figcaption class=soft>the scene</figcaption></figure>"
        )
        for phrase, weight in phrases:
            figures += (
                f"<figure>{_img(heat_map(picture, weight, 160), f'attention of {phrase}')}"
                f"<figcaption>{escape(phrase)}</figcaption></figure>"
            )
        rows += f'<div class="scene">{figures}</div>'
    return (
        "<section><h2>Where words look</h2><p class='soft'>Cross-attention of the last fusion layer, mean over its "
        "heads and over the words of a phrase: bright is where the phrase draws from. No box was ever "
        f"shown in training.</p>{rows}</section>"
    )


def _negatives(facts: Facts) -> str:
    told = {
        "attribute": "two things have exchanged a colour, shape, size or texture",
        "relation": "two things have changed places",
    }
    rows = ""
    for kind, (right, asked) in facts.negatives.items():
        share = 100 * right / asked
        rows += (
            f"<tr><td><b>{escape(kind)}</b> <span class='soft small'>{told.get(kind, '')}</span></td>"
            f'<td style="width:34%"><div class="bar"><i style="width:{share:.1f}%"></i><u></u></div></td>'
            f"<td>{share:.1f} %</td><td>{asked}</td></tr>"
        )
    return (
        "<section><h2>Same words, another meaning</h2><p class='soft'>A true and a false caption made of exactly the "
        "same words: how often the match head prefers the true one. A bag of words stays at 50 % (dashed). This is the "
        "hard part, and needs longer training than the demo's.</p>"
        f"<table><tr><th>exchanged</th><th></th><th>right</th><th>asked</th></tr>{rows}</table></section>"
    )


def _next() -> str:
    commands = (
        (
            "The same recipe for longer",
            "wordregion train albef_demo --steps 6000 --out runs/longer\nwordregion eval runs/longer",
        ),
        ("Look at a data set of your own", "wordregion data check captions.jsonl --images photos/ --picture check.png"),
        (
            "Train on it with a recipe of your own (see the README)",
            "wordregion train my_recipes.py:small --data captions.jsonl --out runs/mine",
        ),
        (
            "On several processes",
            "torchrun --nproc-per-node 2 -m wordregion.cli train albef_demo --parallel ddp --out runs/two",
        ),
    )
    shown = "".join(f"<p>{what}</p><pre>{escape(command)}</pre>" for what, command in commands)
    return f"<section><h2>What to try next</h2>{shown}</section>"


def _img(image: Image, text: str) -> str:
    return f'<img src="{data_uri(image)}" alt="{escape(text)}">'


def _spread(total: int, count: int) -> Iterable[int]:
    return [i * total // min(count, total) for i in range(min(count, total))]
