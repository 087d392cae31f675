"""The demo, very short: its report is complete and asks nothing of a network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from wordregion import cli
from wordregion.demo.report import read_curves
from wordregion.draw import curves_svg, heat_map, smooth

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Counts elements and fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href") and "#" not in str(value)[:1]
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a demo of two steps."""
    out = tmp_path_factory.mktemp("demo") / "run"
    assert cli.main(["demo", "--steps", "2", "--held-out", "12", "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_report_is_complete_and_self_contained(demo: Path) -> None:
    text = (demo / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    for title in ("Retrieval against chance", "Training", "Text to image", "Image to text", "Where words look",
                  "Same words, another meaning", "What to try next"):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    assert page.count["svg"] == 2
    assert page.count["img"] >= 6 * 5 + 4 + 4 * 2
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not page.count.keys() & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert "chance" in text
    assert "wordregion train albef_demo" in text


def test_report_marks_right_answers_and_gives_every_figure(demo: Path) -> None:
    text = (demo / "report.html").read_text(encoding="utf-8")
    assert all(f"<th>{side}@{n}</th>" in text for side in ("TR", "IR") for n in (1, 5, 10))
    assert "re-ranked by the fusion encoder, k = 12" in text
    assert 'class="true"' in text or "class=true" in text


def test_a_finished_demo_starts_afresh(demo: Path) -> None:
    before = (demo / "model.safetensors").stat().st_mtime_ns
    assert cli.main(["demo", "--steps", "1", "--held-out", "12", "--out", str(demo), "--device", "cpu"]) == 0
    assert (demo / "model.safetensors").stat().st_mtime_ns != before


def test_curves_are_read_by_name(tmp_path: Path) -> None:
    lines = [{"step": 5, "match": 0.7}, {"step": 10, "match": 0.6, "contrast": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curves(tmp_path / "metrics.jsonl") == {"match": ([5, 10], [0.7, 0.6]), "contrast": ([10], [2.0])}


def test_running_mean_starts_at_the_first_value_and_is_unbiased() -> None:
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([0.0, 1.0])[1] == pytest.approx(1 / 1.9)


def test_heat_map_is_bright_where_the_weight_is() -> None:
    weight = torch.zeros(4, 4)
    weight[0, 3] = 1
    picture = heat_map(Image.new("RGB", (40, 40), "white"), weight, 80)
    assert picture.size == (80, 80)
    assert sum(picture.getpixel((75, 5))) > 2 * sum(picture.getpixel((5, 75)))  # type: ignore[arg-type]
    assert heat_map(Image.new("RGB", (40, 40)), torch.ones(2, 2), 16).size == (16, 16)


def test_curves_are_one_svg_element_with_text_kept_as_text() -> None:
    svg = curves_svg({"contrast (ITC)": ([1, 2, 3], [3.0, 2.0, 1.0])}, "loss")
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert "contrast (ITC)" in svg
