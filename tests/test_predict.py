"""The word-by-word heat map: its parts, the command, and one clear line for each mistake."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import wordregion.data.tokens
from wordregion.cli import main
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.draw import labelled_grid
from wordregion.models.store import save_model
from wordregion.models.zoo import albef_tiny
from wordregion.predict import WordMap, draw_heatmap, word_maps, words_of

RECIPE = """
from dataclasses import replace
from wordregion.recipes.refer import refer_scenes
from tests.test_predict import tiny_model
def tiny():
    return replace(refer_scenes(10), model=tiny_model)
"""


def tiny_model():
    torch.manual_seed(0)
    return albef_tiny(
        Tokenizer("scenes").vocab_size,
        64,
        patch=16,
        width=64,
        vision_layers=1,
        text_layers=1,
        fusion_layers=2,
        embed=16,
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    (folder / "my.py").write_text(RECIPE)
    for run in ("run", "model"):
        save_model(tiny_model(), folder / run)
    (folder / "run" / "recipe.json").write_text(json.dumps({"source": f"{folder}/my.py:tiny", "arguments": {}}))
    Image.new("RGB", (80, 40), "green").save(folder / "wide.png")
    (folder / "broken.png").write_bytes(b"\x89PNG but no picture")
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_words_are_those_of_the_text_as_written():
    text = "The RED circle, left-of a  unicyclist!"
    encoded = Tokenizer("scenes")([text])
    found = words_of(encoded, text)
    assert [word for word, _ in found] == ["The", "RED", "circle", "left", "of", "a", "unicyclist"]
    together = torch.stack([tokens for _, tokens in found]).sum(0)
    assert together.tolist() == [0, *[1] * int(encoded.mask.sum() - 2), 0]  # every token but [CLS] and [SEP], once


def test_maps_for_the_text_and_for_each_word():
    model, picture = tiny_model().eval(), Image.effect_noise((64, 64), 90).convert("RGB")
    transform = EvalTransform(64)
    maps = word_maps(model, Tokenizer("scenes"), transform, picture, "a red circle")
    assert [found.words for found in maps] == ["a red circle", "a", "red", "circle"]
    assert all(found.map.shape == (4, 4) for found in maps)
    # of five tokens, [CLS] and [SEP] are no words: the words' maps cannot exceed the text's sum
    assert (sum(found.map for found in maps[1:]) <= maps[0].map * 5 + 1e-7).all()
    (one,) = word_maps(model, Tokenizer("scenes"), transform, picture, "a red circle", mode="itc")
    assert one.words == "a red circle"
    last = word_maps(model, Tokenizer("scenes"), transform, picture, "a red circle", layer=1, phrase=True)
    assert [found.words for found in last] == ["a red circle"]


def test_the_picture_has_a_tile_for_each_map_and_keeps_the_aspect_ratio():
    hot = torch.zeros(4, 4)
    hot[0, 0] = 1
    maps = [WordMap("two words", hot), WordMap("two", hot.flip(1)), WordMap("words" * 30, hot / 2)]
    picture = Image.new("RGB", (300, 150), (120, 120, 120))
    whole, phrase = draw_heatmap(picture, maps, side=200), draw_heatmap(picture, maps[:1], side=200)
    assert whole.size == (4 * 212 + 12, 136 + 12)
    assert phrase.size == (2 * 212 + 12, 136 + 12)

    def brightness(x: int, y: int) -> int:
        return sum(whole.getpixel((x, y)))  # type: ignore[arg-type]

    assert brightness(212 + 12 + 8, 12 + 8) > brightness(212 + 12 + 190, 12 + 90) + 100  # upper left of the first map
    assert (
        brightness(2 * 212 + 12 + 190, 12 + 8) > brightness(2 * 212 + 12 + 8, 12 + 8) + 100
    )  # upper right of the next


def test_rows_wrap():
    tiles = [(Image.new("RGB", (50, 30)), str(i)) for i in range(5)]
    assert labelled_grid(tiles, columns=2, margin=10).size == (2 * 60 + 10, 3 * 64 + 10)


@pytest.mark.parametrize("flags", [["--run", "run"], ["--run", "model", "--vocab", "scenes", "--phrase"]])
def test_the_command_writes_a_picture(places, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(places)
    out = tmp_path / "map.png"
    assert main(["predict", "heatmap", "wide.png", "a red circle", *flags, "-o", str(out)]) == 0, capsys.readouterr()
    assert Image.open(out).width > Image.open(out).height


MISTAKES = [
    (["wide.png", ""], "the text is empty"),
    (["wide.png", "!!"], "holds no words"),
    (["broken.png", "a dog"], "is damaged|is no picture"),
    (["empty.png", "a dog"], "empty file"),
    (["nothing.png", "a dog"], "no such file"),
    (["run", "a dog"], "is a directory"),
    (["wide.png", "a dog", "--layer", "2"], "layer 2: the fusion encoder has layers 0 to 1"),
    (["wide.png", "a dog", "--layer", "1"], "layer 1 is the last of the fusion encoder: words have no maps"),
    (["wide.png", "a dog", "--layer", "-1"], "layers 0 to 1"),
    (["wide.png", "a dog", "--mode", "itc", "--layer", "7"], "the image encoder has layers 0 to 0"),
    (["wide.png", "a dog", "--out", "map.xyz"], "no name of a picture"),
    (["wide.png", "a dog", "--out", "nowhere/map.png"], "no such folder"),
    (["wide.png", "a dog", "--run", "my.py"], "no such folder"),
    (["wide.png"], "(?i)text"),
]


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_one_clear_line_for_each_mistake(places, arguments, told, monkeypatch, capsys):
    monkeypatch.chdir(places)
    run = [] if "--run" in arguments else ["--run", "run"]
    assert main(["predict", "heatmap", *arguments, *run]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert error.count("\n") == 1


def test_other_actions_are_named(capsys):
    assert main(["predict", "future"]) == 2
    told = capsys.readouterr().err
    assert "heatmap, caption" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("run", ["run", "model"])
def test_a_picture_is_described(places, run, monkeypatch, capsys):
    monkeypatch.chdir(places)
    vocab = str(Path(wordregion.data.tokens.__file__).parent / "scenes_vocab.txt")
    flags = ["--run", run, "--vocab", vocab, "--max-tokens", "9", "--min-tokens", "7", "--device", "cpu"]
    assert main(["predict", "caption", "wide.png", *flags]) == 0, capsys.readouterr()
    words = capsys.readouterr().out.split()
    assert len(words) <= 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["wide.png", "--beams", "0"], "beams >= 1"),
        (["wide.png", "--max-tokens", "4"], "no room behind a prompt of 4 tokens"),
        (["none.png"], "no such file"),
        (["broken.png"], "no picture"),
    ],
)
def test_one_clear_line_for_each_mistake_about_captions(places, arguments, told, monkeypatch, capsys):
    monkeypatch.chdir(places)
    assert main(["predict", "caption", *arguments, "--run", "run", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
