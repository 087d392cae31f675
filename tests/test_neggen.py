"""`wordregion data neggen` on built-in scenes: judged by a trained model, on two processes as on one."""

import json
import sys

import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion import cli
from wordregion.data.masked_lm import open_lm, train_lm
from wordregion.data.negatives import NegGen, WithNegatives, alike, read_parts
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.models.zoo import albef_tiny, for_entailment
from wordregion.neggen import MatchJudge, all_captions, run_neggen

SIZES = {"width": 32, "vision_layers": 1, "text_layers": 1, "fusion_layers": 1, "embed": 16}
ADJECTIVES = {"red", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "white", "small", "large"}
NOUNS = {"circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond", "hexagon", "moon", "picture"}


def tagger(texts):
    found = []
    for text in texts:
        words, at = [], 0
        for word in text.split():
            begin = text.index(word, at)
            at = begin + len(word)
            plain = word.rstrip(",")
            tag = "ADJ" if plain in ADJECTIVES else "NOUN" if plain in NOUNS else "X"
            words.append((begin, begin + len(plain), tag))
        found.append(words)
    return found


def judge():
    torch.manual_seed(0)
    model = albef_tiny(Tokenizer("scenes").vocab_size, image_size=32, **SIZES).eval()
    torch.nn.init.normal_(model.heads["match"].weight)
    return MatchJudge(model, Tokenizer("scenes"), EvalTransform(32))


def scenes():
    return Scenes("train", 130, image_size=32, captions=1)


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "lm"
    train_lm(all_captions(scenes()), folder, steps=30, batch=16, width=64, layers=1, lr=5e-3)
    return folder


def make(folder, lm_folder):
    return run_neggen(
        scenes(), folder, NegGen(count=2), tagger, "test", open_lm(lm_folder), judge(), "judge", progress=False
    )


def test_the_judges_probability_is_the_match_heads():
    sample = scenes()[0]
    texts = ["a red circle", "a blue square left of a star"]
    [found] = judge()([sample], [texts])
    own = judge()
    encoded = own.tokenizer(texts)
    image = own.model.encode_image(EvalTransform(32)(sample).images[0][None])
    states = own.model.encode_text(encoded.ids, encoded.mask)
    expected = own.model.heads["match"](own.model.fuse(states, encoded.mask, image).cls).softmax(1)[:, 1]
    torch.testing.assert_close(torch.tensor(found), expected.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="match"):
        MatchJudge(for_entailment(own.model), own.tokenizer, EvalTransform(32))


def _process(rank, world, folder, lm_folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    made = make(folder / "two", lm_folder)
    assert (made is not None) == (rank == 0)
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_make_the_files_that_one_makes(tmp_path, lm_folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = make(tmp_path / "one", lm_folder)
    torch.set_num_threads(threads)
    in_two_processes(_process, 2, tmp_path, lm_folder)
    ours, theirs = (sorted((tmp_path / name).glob("*.parquet")) for name in ("one", "two"))
    assert len(ours) == 3
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    assert json.loads((tmp_path / "two" / "report.json").read_text())["summary"]["kept"] == made.kept
    rows, _ = read_parts(tmp_path / "one")
    assert made.kept + made.dropped > 200
    assert sum(made.histogram) == made.kept + made.dropped
    assert all(alike(text) != alike(row.text) for row in rows for text in (*row.kept, *row.dropped))
    data = WithNegatives(scenes(), tmp_path / "one")
    assert any(data[i].negatives for i in range(10))


def test_the_command_says_what_is_missing(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["data", "neggen", "scenes", *out, "--tagger", str(tmp_path / "none")]) == 2
    assert "spacy" in capsys.readouterr().err.lower()
    assert cli.main(["data", "neggen", "scenes", *out, "--share", "2"]) == 2
    assert "share" in capsys.readouterr().err
    assert cli.main(["data", "nonsense"]) == 2
    assert cli.main(["data"]) == 0
    assert "neggen" in capsys.readouterr().out
