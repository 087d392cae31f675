"""Weights by hub name, through the hub's own code: from a cache as it lays one out, without the network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from wordregion.models.store import save_model
from wordregion.models.zoo import albef_tiny

COMMIT = "0" * 40
LOADS = """
import json, sys
import torch
from safetensors.torch import save_file
from wordregion.data.masked_lm import open_lm
from wordregion.data.tokens import Tokenizer
from wordregion.models.store import load_model
from wordregion.nn.text import split_bert
from wordregion.nn.vision import TimmVision

text, upper, _ = split_bert("me/bert", text_layers=1)
found = {f"vision.{n}": v for n, v in TimmVision("test_vit", 160, weights=True).body.state_dict().items()}
found |= {f"text.{n}": v for n, v in text.body.state_dict().items()}
found |= {f"model.{n}": v for n, v in load_model("me/albef").state_dict().items()}
save_file({n: v.contiguous().clone() for n, v in found.items()}, sys.argv[1])
open_lm("me/bert")
print(json.dumps({"upper": len(upper), "ids": Tokenizer("me/bert", max_tokens=8)(["a dog"]).ids.tolist()}))
"""


def publish(cache: Path, name: str) -> Path:
    """The folder of a repository in a cache of the hub."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    return repository / "snapshots" / COMMIT


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    """What a process without network loads by names alone, and what was published."""
    home = tmp_path_factory.mktemp("hub")
    cache = home / "hub"
    torch.manual_seed(0)
    vision = timm.create_model("test_vit")
    save_file(vision.state_dict(), publish(cache, "timm/test_vit.r160_in1k") / "model.safetensors")
    folder = publish(cache, "me/bert")
    config = BertConfig(vocab_size=7, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    bert = BertForMaskedLM(config)
    bert.save_pretrained(folder)
    (home / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    BertTokenizerFast(str(home / "vocab.txt")).save_pretrained(folder)
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=8)
    save_model(model, publish(cache, "me/albef"))
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(home / "found.safetensors")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(home / "found.safetensors"), json.loads(done.stdout.splitlines()[-1]), vision, bert, model


def assert_holds(found: dict, prefix: str, wanted: dict) -> None:
    own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    assert own
    for name, value in own.items():
        assert torch.equal(value, wanted[name]), name


def test_an_image_encoder_comes_by_its_name(loaded):
    found, _, vision, _, _ = loaded
    assert_holds(found, "vision.", vision.state_dict())


def test_a_text_encoder_and_its_vocabulary_come_by_name(loaded):
    found, said, _, bert, _ = loaded
    assert_holds(found, "text.", bert.bert.state_dict())
    assert said == {"upper": 1, "ids": [[2, 5, 6, 3]]}


def test_a_model_of_ours_comes_by_name(loaded):
    found, _, _, _, model = loaded
    assert_holds(found, "model.", model.state_dict())
