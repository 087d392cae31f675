"""Models to disk and back, and starting from a trained one."""

import json

import pytest
import torch
from torch import nn

from wordregion.errors import CheckpointError
from wordregion.models.report import resize_positions
from wordregion.models.store import build, describe, image_size_of, load_model, save_model, start_from
from wordregion.models.zoo import albef_tiny, albef_tiny_conv, for_word_regions
from wordregion.nn.word_prior import WordPrior

TINY = {"width": 32, "vision_layers": 1, "text_layers": 1, "fusion_layers": 2, "embed": 16, "patch": 8}


def model(seed=0, image_size=32, **more):
    torch.manual_seed(seed)
    return albef_tiny(40, image_size=image_size, **TINY, **more)


def with_prior(found):
    found.heads["prior"] = WordPrior(32, 4, 2).fit([39, 7], torch.randn(4, 32), [[7], [8, 9], [7], [39]])
    return found


MADE = [
    model,
    lambda: albef_tiny_conv(40, 32, width=32, embed=16),
    lambda: for_word_regions(model(), embed=24, dropout=0.2),
    lambda: with_prior(model()),
]


@pytest.mark.parametrize("made", MADE)
def test_a_saved_model_comes_back_from_its_folder_alone(tmp_path, made):
    own = made().eval()
    save_model(own, tmp_path / "m")
    back = load_model(tmp_path / "m")
    assert not back.training
    assert back.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in own.state_dict().items())
    assert describe(back)["heads"] == describe(own)["heads"]
    assert back.heads["mask"].decoder.weight is back.text.word_embeddings.weight
    ids = torch.randint(2, 40, (2, 5))
    image = torch.randn(2, 3, 32, 32)
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        ours, theirs = (m.fuse(m.encode_text(ids, mask), mask, m.encode_image(image)).cls for m in (own, back))
    assert torch.equal(ours, theirs)


def test_the_image_size_is_read_from_the_description_alone(tmp_path):
    save_model(model(image_size=48), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert image_size_of(tmp_path) == 48
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model\.json: damaged \(KeyError: 'vision'\)"):
        image_size_of(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model\.json"):
        image_size_of(tmp_path / "nowhere")


def test_a_description_is_json_and_holds_every_setting():
    own = describe(model())
    assert describe(build(json.loads(json.dumps(own)))) == own
    assert own["fusion"]["layers"] == 2
    assert own["heads"] == {"match": {"kind": "MatchHead", "width": 32}, "mask": {"kind": "MaskHead", "eps": 1e-12}}


def test_starting_from_a_run_of_other_heads_and_size(tmp_path):
    before = model(seed=1)
    save_model(before, tmp_path)
    after = model(seed=2, image_size=48)
    del after.heads["mask"]
    after.heads["entail"] = nn.Linear(32, 3)
    untouched = after.heads["entail"].weight.clone()
    report = start_from(after, tmp_path, new=("heads.entail.",))
    table = before.vision.body.pos_embed
    assert report.resized == {"vision.body.pos_embed": (tuple(table.shape), (1, 37, 32))}
    torch.testing.assert_close(after.vision.body.pos_embed, resize_positions(table, 36))
    assert report.new == ("heads.entail.weight", "heads.entail.bias")
    assert torch.equal(after.heads["entail"].weight, untouched)
    assert set(report.ignored) == {f"heads.mask.{n}" for n in (
        "dense.weight", "dense.bias", "norm.weight", "norm.bias", "decoder.bias",
    )}  # fmt: skip
    assert torch.equal(after.fusion.layers[1].cross.kv.weight, before.fusion.layers[1].cross.kv.weight)
    assert "resized: vision.body.pos_embed (1, 17, 32) -> (1, 37, 32)" in str(report)
    assert set(report.loaded) | set(report.new) == {n for n, _ in after.named_parameters()}


def test_parts_can_be_seeded_from_others(tmp_path):
    before = model(seed=1)
    save_model(before, tmp_path)
    after = model(seed=2)
    after.fusion.layers.append(model(seed=3).fusion.layers[0])
    report = start_from(after, tmp_path, seed=lambda name: name.replace("fusion.layers.2.", "fusion.layers.0."))
    assert torch.equal(after.fusion.layers[2].cross.q.weight, before.fusion.layers[0].cross.q.weight)
    assert report.renamed["fusion.layers.2.cross.q.weight"] == ("fusion.layers.0.cross.q.weight",)
    assert len(report.renamed) == sum(1 for _ in after.fusion.layers[2].parameters())


def test_what_does_not_fit_is_an_error_and_changes_nothing(tmp_path):
    save_model(model(seed=1), tmp_path)
    wider = model(seed=2)
    wider.heads["match"] = nn.Linear(32, 5)
    wider.heads["entail"] = nn.Linear(32, 3)
    kept = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"2 missing \(heads\.entail\.weight.*2 of another shape \(heads\.match"):
        start_from(wider, tmp_path)
    assert all(torch.equal(value, kept[name]) for name, value in wider.state_dict().items())
    assert "heads.match.weight" in start_from(wider, tmp_path, new=("heads.",)).new


def test_broken_folders_and_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        start_from(model(), tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model\.json"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder nor a repository"):
        load_model(tmp_path / "absent")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="refused, not plain tensors"):
        start_from(model(), tmp_path / "code.pth")
    odd = model()
    odd.heads["odd"] = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="Linear"):
        save_model(odd, tmp_path / "odd")
