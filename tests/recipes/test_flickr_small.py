"""The recipe on a stand-in with the layout of the real data and weights: three drawn pictures, random weights."""

import json
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, AutoModel

from wordregion.cli import find_recipe
from wordregion.data.loader import StepLoader
from wordregion.data.tokens import SPECIAL, Masking
from wordregion.data.transforms import EvalTransform
from wordregion.engine.optim import freeze, parameter_groups
from wordregion.engine.trainer import train
from wordregion.errors import CheckpointError, UsageError
from wordregion.models.store import load_model, save_model
from wordregion.objectives import Contrast, MaskedWords, Match, ReplacedWords, WordRegion
from wordregion.recipes.flickr_small import flickr_frozen, flickr_small, flickr_tuned
from wordregion.recipes.xvlm_small import caption_flickr_small, xvlm_flickr_small
from wordregion.tasks.image_tokens import encoder_name

WORDS = ["a", "red", "green", "blue", "square", "on", "paper", "the", "picture", "shows", "something"]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, BytesIO(content))


def _photos(root: Path, split: str, names: list[str]) -> None:
    (root / f"{split}.txt").write_text("\n".join(names) + "\n")
    with (
        tarfile.open(root / f"images_{split}.tar", "w") as images,
        tarfile.open(root / f"annotations_{split}.tar.gz", "w:gz") as annotations,
    ):
        for number, name in enumerate(names):
            stream = BytesIO()
            Image.fromarray(np.full((224, 224, 3), 60 * number, np.uint8)).save(stream, "JPEG")
            _add(images, f"{name}.jpg", stream.getvalue())
            lines = "".join(
                f"[/EN#{number + 1}/other a {colour} square] on paper\n" for colour in ("red", "green", "blue", "paper")
            )
            _add(annotations, f"Sentences/{name}.txt", lines.encode())
            xml = "<annotation><size><width>224</width><height>224</height><depth>3</depth></size><object>"
            xml += f"<name>{number + 1}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>112</xmax><ymax>112</ymax>"
            xml += "</bndbox></object></annotation>"
            _add(annotations, f"Annotations/{name}.xml", xml.encode())


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    data, weights = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("weights")
    _photos(data, "train", ["1", "2", "3"])
    _photos(data, "val", ["4"])
    for name, file in (("resnet50", "resnet50_keras"), ("mobilenetv2_100", "mobilenetv2")):
        save_file(timm.create_model(name, pretrained=False).state_dict(), weights / f"{file}.safetensors")
    vocabulary = [*SPECIAL, *WORDS]
    settings = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    settings |= {"vocab_size": len(vocabulary), "model_type": "bert", "max_position_embeddings": 32}
    folder = weights / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    text = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    save_file(text.state_dict(), folder / "model.safetensors")
    return data, weights


def test_the_baseline_trains_two_heads_and_encodes_each_photo_once(places: tuple[Path, Path]) -> None:
    recipe = flickr_frozen(*places)
    torch.manual_seed(0)
    model = recipe.model()
    task = recipe.task.build(model)
    freeze(model, recipe.optim)
    moving = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moving == {"image_proj", "text_proj", "temperature"}
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
    steps = iter(loader)
    for _ in range(2):
        (batch,) = next(steps)
        output = task.train()(batch, task.counts(batch))
        output.loss.backward()
        task.after_step()
    assert len(task._image_tokens) == 3


def test_a_step_trains_heads_and_fusion(places: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    baseline = flickr_frozen(*places).model()
    save_model(baseline, tmp_path)
    recipe = flickr_small(tmp_path, *places)
    model = recipe.model()
    torch.testing.assert_close(model.text_proj.weight, baseline.text_proj.weight)
    task = recipe.task.build(model)
    freeze(model, recipe.optim)
    assert parameter_groups(model, recipe.optim)
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
    (batch,) = next(iter(loader))
    assert batch.image.shape == (3, 3, 224, 224)
    assert len(batch.token_ids) == 9  # three captions a photo share its encoding
    assert set(task.train()(batch, task.counts(batch)).metrics) == {"match", "match_accuracy"}  # alone at first
    task.step += recipe.task.first_alone
    output = task.train()(batch, task.counts(batch))
    output.loss.backward()
    assert {"contrast", "match", "masked_words"} <= set(output.metrics)
    assert all(parameter.grad is None for encoder in (model.vision, model.text) for parameter in encoder.parameters())
    assert model.fusion.layers[0].cross.kv.weight.grad.abs().sum() > 0
    task.after_backward()
    task.after_step()
    assert int(task.queue.pointer) == 18  # of both passes


def test_the_wide_recipes_see_photos_through_two_backbones(places: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    for recipe in (flickr_frozen(*places, wide=True), flickr_small(tmp_path, *places, wide=True)):
        model = recipe.model()
        assert (model.vision.width, model.image_size, model.image_proj.out_features) == (2048 + 1280, 320, 1024)
        task = recipe.task.build(model).train()
        freeze(model, recipe.optim)
        loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
        for (batch,), _ in zip(loader, range(2), strict=False):
            task(batch, task.counts(batch)).loss.backward()
            task.after_step()
        assert len(task._image_tokens) == 3
        save_model(model, tmp_path)
    task.step += recipe.task.first_alone
    assert [type(o) for o, _ in recipe.task.build(model).objectives()] == [WordRegion, Match]
    assert [type(o) for o, _ in task.objectives()] == [WordRegion, Match, Contrast, MaskedWords]
    metrics = task(batch, task.counts(batch)).metrics
    assert {"word_region", "word_region_box", "match", "contrast", "masked_words"} <= set(metrics)
    measured = recipe.evaluation(
        model, recipe.data.evaluate(), recipe.data.collator(), recipe.data.eval_transform, k=2, progress=False
    )
    assert {"raw/rerank_k2_words+itc/TR@1", "raw/rerank_k2+words+itc/TR@1"} <= set(measured.metrics)
    opened = load_model(tmp_path)
    torch.testing.assert_close(opened.vision(batch.image), model.vision(batch.image))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_reads_each_photo_once_learns_the_same(places, tmp_path: Path, monkeypatch, workers: int) -> None:
    losses = []
    read: list[str] = []
    resize = EvalTransform.__call__
    monkeypatch.setattr(EvalTransform, "__call__", lambda self, s, rng=None: read.append(s.id) or resize(self, s, rng))
    for keep in (False, True):
        recipe = flickr_frozen(*places)
        run = replace(recipe.run, steps=7, batch=3, workers=workers, precision="fp32", log_every=1)
        task = replace(recipe.task, keep_image_tokens=keep)
        out = tmp_path / str(keep)
        train(replace(recipe, task=task, run=run), out)
        losses.append([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == losses[1]
    if not workers:  # the transform runs in this process
        assert len(read) == 7 * 3 + 3


def test_photos_are_encoded_once_for_all_runs_that_share_a_folder(places, tmp_path: Path) -> None:
    lengths = []
    for _ in range(2):
        torch.manual_seed(0)
        recipe = flickr_frozen(*places, tokens=tmp_path)
        model = recipe.model()
        freeze(model, recipe.optim)
        task = recipe.task.build(model).train()
        calls: list[int] = []
        encode = model.encode_image
        model.encode_image = lambda image, e=encode, c=calls: c.append(len(image)) or e(image)  # type: ignore[method-assign]
        (batch,) = next(
            iter(StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0))
        )
        lengths.append((task(batch, task.counts(batch)).loss.item(), sum(calls)))
    assert [count for _, count in lengths] == [3, 0]
    assert lengths[0][0] == lengths[1][0]
    assert len(list(tmp_path.glob("*-float32/*.safetensors"))) == 3
    next(tmp_path.glob("*-float32/*.safetensors")).write_bytes(b"broken")
    task = recipe.task.build(model).train()
    with pytest.raises(CheckpointError, match=r"damaged.*Delete it"):
        task(batch, task.counts(batch))


def test_the_last_stage_learns_from_kept_maps_as_from_the_photos(places, tmp_path: Path) -> None:
    results = []
    for keep in (False, tmp_path, tmp_path):
        torch.manual_seed(0)
        recipe = flickr_tuned(*places)
        model = recipe.model()
        freeze(model, recipe.optim)
        moving = {name.split(".layer4.")[0] for name, value in model.named_parameters() if value.requires_grad}
        assert moving == {
            "vision.body",
            *(f"{t}_proj.{p}" for t in ("image", "text") for p in ("weight", "bias")),
            "temperature",
        }
        task = replace(recipe.task, keep_image_tokens=keep).build(model).train()
        seen: list[int] = []
        model.vision.body.layer1.register_forward_hook(lambda part, given, made, s=seen: s.append(len(made)))
        loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
        steps, losses = iter(loader), []
        for _ in range(2):
            (batch,) = next(steps)
            loss = task(batch, task.counts(batch)).loss
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for value in model.vision.body.layer4.parameters():
                    value -= 0.01 * value.grad
        results.append((losses, sum(seen)))
    (plain, every), (kept, once), (found, never) = results
    assert (every, once, never) == (6, 3, 0)
    assert plain == pytest.approx(kept, abs=1e-5)
    assert kept == found
    assert plain[0] != pytest.approx(plain[1], abs=1e-4)  # the stage above the maps has moved
    model.vision.__class__ = type("Sharded", (FSDPModule, type(model.vision)), {})
    with pytest.raises(UsageError, match="keep_image_tokens needs the whole encoder"):
        task(batch, task.counts(batch))


def test_other_weights_find_no_tokens_of_theirs(places, tmp_path: Path) -> None:
    model = flickr_frozen(*places).model()
    before = encoder_name(model.vision)
    assert encoder_name(model.vision) == before
    with torch.no_grad():
        next(model.vision.parameters()).add_(1e-3)
    assert encoder_name(model.vision) != before


def test_another_structure_with_the_same_weights_finds_no_tokens_of_theirs() -> None:
    first, second = (nn.Conv2d(1, 1, 3, stride=stride) for stride in (1, 2))
    second.load_state_dict(first.state_dict())
    assert encoder_name(first) != encoder_name(second)


def test_phrases_and_boxes_join_the_captions_and_a_captioner_starts_there(places, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(flickr_frozen(*places).model(), tmp_path / "frozen")
    for regions in (3, 0):
        recipe = xvlm_flickr_small(tmp_path / "frozen", *places, regions=regions)
        model = recipe.model()
        task = recipe.task.build(model)
        freeze(model, recipe.optim)
        assert parameter_groups(model, recipe.optim)
        loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
        (batch,) = next(iter(loader))
        assert len(batch.regions().text) == (3 if regions else 0)  # each photo has one box, said in three ways
        output = task.train()(batch, task.counts(batch))
        output.loss.backward()
        assert ("box_giou" in output.metrics) == bool(regions)
        if regions:
            assert model.places.grad.abs().sum() > 0
            save_model(model, tmp_path / "located")
        measured = recipe.evaluation(
            model, recipe.data.evaluate(), recipe.data.collator(), recipe.data.eval_transform, progress=False
        )
        assert ("raw/box/acc@0.5" in measured.metrics) == bool(regions)
        assert "raw/itc/TR@1" in measured.metrics
        assert json.loads(measured.to_json())
    recipe = caption_flickr_small(tmp_path / "located", *places)
    task = recipe.task.build(recipe.model())
    freeze(task.model, recipe.optim)
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
    (batch,) = next(iter(loader))
    task.train()(batch, task.counts(batch)).loss.backward()
    assert task.model.fusion.layers[0].cross.kv.weight.grad.abs().sum() > 0


def test_regions_may_begin_untrained_at_a_higher_rate(places, tmp_path: Path) -> None:
    save_model(flickr_frozen(*places).model(), tmp_path)
    rates = []
    for start in (tmp_path, None):
        recipe = xvlm_flickr_small(start, *places, region_weight=0.1)
        model = recipe.model()
        freeze(model, recipe.optim)
        of = {id(p): group["lr_scale"] for group in parameter_groups(model, recipe.optim) for p in group["params"]}
        rates.append([of[id(part)] for part in (model.image_proj.weight, model.text_proj.weight, model.places)])
        assert [objective.region_weight for objective in recipe.task.objectives[:2]] == [0.1, 0.1]
    assert rates == [[0.5, 0.5, 4.0], [5.0, 5.0, 4.0]]


def test_the_example_of_vl_matchs_open_settings_sets_them(places, tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "examples" / "vl_match" / "unknowns.py"
    settings = {"detect": 5.0, "temperature": 0.5, "mask_rate": 0.3, "negatives": 2}
    recipe = find_recipe(f"{file}:unknowns")(tmp_path, *places, **settings)
    words = next(o for o in recipe.task.objectives if isinstance(o, ReplacedWords))
    match = next(o for o in recipe.task.objectives if isinstance(o, Match))
    collator = recipe.data.collator()
    assert (words.weight / words.generator_weight, words.temperature) == (5.0, 0.5)
    assert (match.generated, collator.negatives) == (2, 2)
    assert collator.masking == Masking(0.3, mask=1.0, random=0.0)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"resnet50_keras\.safetensors is missing.*prepare\.py"):
        flickr_small(tmp_path, tmp_path, tmp_path)
