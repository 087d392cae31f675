"""The evaluation of a whole (tiny) model: against single pairs, on a model that sees colours, over two processes."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.data.collate import Collator
from wordregion.data.phrases import PhraseCollator
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.evaluate.grounding import Located, evaluate_grounding, locate, phrase_maps, summary
from wordregion.models.gradcam import match_attention, text_maps, token_maps
from wordregion.models.zoo import albef_tiny
from wordregion.schema import Grounding, Sample

TOKENIZER = Tokenizer("scenes", max_tokens=12)
LEFT, RIGHT, CORNER = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.75, 0.75, 1.0, 1.0)


@dataclass(frozen=True)
class Noise:
    """Random pictures with phrases; picture 2 has none, every other one has proposals."""

    size: int = 7
    name: str = "noise"

    def __len__(self):
        return self.size

    def where(self, index):
        return f"noise, record {index}"

    def __getitem__(self, index):
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        texts = ("a red circle left of a blue square", "a green star")
        groundings = [Grounding(text=0), Grounding(text=0, span=(2, 12), boxes=(LEFT, CORNER))]
        groundings += [Grounding(text=1, boxes=(RIGHT,))] * (1 + index % 2)
        target = {"splits": ("val", "testA" if index % 3 else "val")}
        if index % 2:
            target["proposals"] = (LEFT, RIGHT, CORNER)
        return Sample(f"n{index}", (image,), texts, tuple(groundings) if index != 2 else (), target)


def tiny_model():
    torch.manual_seed(0)
    model = albef_tiny(
        TOKENIZER.vocab_size, 32, patch=8, width=64, vision_layers=2, text_layers=1, fusion_layers=2, embed=16
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def unchanged(sample, rng):
    return sample


def run(data=None, **settings):
    arguments = {"batch": 2, "progress": False, **settings}
    return evaluate_grounding(tiny_model(), data or Noise(), Collator(TOKENIZER), unchanged, **arguments)


def test_every_phrase_is_scored_once_with_names_for_all_ways():
    result = run()
    assert result.items == "15 phrases in 6 images"
    assert [found.image for found in result.located] == sorted(found.image for found in result.located)
    assert [found.choice >= 0 for found in result.located] == [bool(f.image % 2) for f in result.located]
    assert set(result.metrics) == {
        f"raw/{way}/{split}_{measure}"
        for way in ("itm_layer0_alone", "centre", "random")
        for split in ("val", "testA")
        for measure in ("pointing", "acc@0.5")
    }
    assert json.loads(result.to_json())["metrics"] == result.metrics


def test_maps_of_a_batch_are_those_of_single_pairs():
    model = tiny_model().eval()
    for phrases in ("alone", "in_caption"):
        items = [(i, Noise()[i], np.random.default_rng(0)) for i in range(4)]
        batch = PhraseCollator(TOKENIZER, phrases)(items)
        with torch.no_grad():
            found = phrase_maps(model, batch, layer=0)
        caption = TOKENIZER(["a red circle left of a blue square"])
        encoded = TOKENIZER(["red circle"]) if phrases == "alone" else caption
        tokens = encoded.mask if phrases == "alone" else caption.tokens_of_span(0, (2, 12))[None]
        image = model.encode_image(Noise()[3].images[0][None])
        hidden = model.encode_text(encoded.ids, encoded.mask)
        expected = text_maps(
            token_maps(match_attention(model, image, hidden, encoded.mask, layer=0), encoded.mask), tokens
        )
        at = next(g for g, row in enumerate(batch.grounding_text) if batch.text_image[row] == 3)
        torch.testing.assert_close(found[at], expected[0], atol=1e-7, rtol=1e-3)
        assert found[at].max() > 0


def test_hits_and_shares_by_hand():
    """Two phrases: a map in the lower right corner, and one on the left."""
    maps = torch.zeros(2, 4, 4)
    maps[0, 3, 3], maps[1, :, :2] = 1, 0.5
    maps[1, 1, 1] = 0.6
    sample = replace(Noise()[1], groundings=(Grounding(0, (LEFT, CORNER)), Grounding(1, (RIGHT,))))
    batch = PhraseCollator(TOKENIZER)([(5, sample, np.random.default_rng(0))])
    ((first, second),) = locate(maps, batch)
    assert first.pointing == (1.0, 0.0, pytest.approx(0.5 + 1 / 16))
    assert second.pointing == (0.0, 1.0, pytest.approx(0.5))  # the centre belongs to the right half
    assert (first.choice, second.choice) == (2, 0)
    assert first.accuracy == (1.0, 1.0, pytest.approx(2 / 3))
    assert second.accuracy[0] == 0.0
    assert (first.image, first.phrase, first.split) == (5, sample.texts[0], "val")


def test_maps_that_are_not_finite_are_refused():
    model = tiny_model()
    torch.nn.init.constant_(model.fusion.layers[0].cross.q.weight, float("nan"))
    with pytest.raises(UsageError, match="maps are not finite"):
        evaluate_grounding(model, Noise(), Collator(TOKENIZER), unchanged, batch=2, progress=False)


def test_summary_by_hand():
    def found(split, pointing, accuracy):
        return Located(0, "x", split, (0.5, 0.5), pointing, 0, accuracy)

    rows = [
        found("val", (1, 0, 0.25), ()),
        found("val", (0, 0, 0.75), (1, 0, 0.5)),
        found("testA", (1, 1, 0.5), (0, 1, 0.25)),
    ]
    metrics = summary(rows, "raw/itm", "raw")
    assert metrics["raw/itm/val_pointing"] == 50
    assert metrics["raw/itm/val_acc@0.5"] == 100
    assert metrics["raw/itm/testA_acc@0.5"] == 0
    assert metrics["raw/centre/testA_acc@0.5"] == 100
    assert metrics["raw/random/val_pointing"] == 50
    assert metrics["raw/random/testA_acc@0.5"] == 25
    assert "raw/itm/pointing" in summary([found("", (1, 0, 0), ())], "raw/itm", "raw")


def test_modes_and_bad_arguments():
    assert any(
        name.startswith("finetuned_on_x/itc_layer1_alone")
        for name in run(mode="itc", protocol="finetuned_on_x", layer=1).metrics
    )
    assert any("itm_layer0_in_caption" in name for name in run(phrases="in_caption").metrics)
    with pytest.raises(UsageError, match="layer 1 is the last of the fusion encoder: words have no maps there"):
        run(layer=1, phrases="in_caption")
    with pytest.raises(UsageError, match="one map for a whole text"):
        run(mode="itc", phrases="in_caption")
    with pytest.raises(UsageError, match="fusion encoder has layers 0 to 1"):
        run(layer=8)
    with pytest.raises(UsageError, match="finetuned_on_X"):
        run(protocol="zero-shot")

    @dataclass(frozen=True)
    class Bare(Noise):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), groundings=(Grounding(text=0),))

    with pytest.raises(UsageError, match="no phrase has a box"):
        run(Bare())


def test_mode_is_restored_and_nothing_is_learned():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (
        evaluate_grounding(model, Noise(), Collator(TOKENIZER), unchanged, progress=False) for _ in range(2)
    )
    assert model.training
    assert first == second
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _process(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    Path(folder, f"{rank}.json").write_text(json.dumps(asdict(run())))
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = json.loads(run().to_json())
    torch.set_num_threads(threads)
    in_two_processes(_process, 2, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
