"""X-VLM's fine-tuning as published: settings; from a run and from a released checkpoint at 224 pixels, one step and one
evaluation of each recipe on its files, on a Swin of a few channels."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from wordregion import cli
from wordregion.data.loader import StepLoader
from wordregion.data.tokens import SPECIAL
from wordregion.engine import optim
from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.models.official import official_checkpoint
from wordregion.models.store import save_model
from wordregion.models.zoo import (
    albef_tiny,
    for_boxes,
    for_captioning,
    for_locating,
    for_questions,
    for_retrieval,
    for_two_images,
    xvlm_tiny,
)
from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.vision import TimmVision
from wordregion.recipes import BUILTIN
from wordregion.recipes.caption import caption_pretrain, caption_scenes
from wordregion.recipes.nlvr import nlvr_scenes, xvlm_nlvr2, xvlm_nlvr2_pretrain
from wordregion.recipes.refer import (
    refer_boxes_pretrain,
    refer_boxes_refcoco_plus,
    refer_boxes_scenes,
    xvlm_refer_refcoco_plus,
)
from wordregion.recipes.retrieval import retrieval_scenes, xvlm_retrieval_coco, xvlm_retrieval_flickr
from wordregion.recipes.vqa import vqa_scenes, xvlm_vqa_v2

WORDS = ("a", "red", "dog", "cat", "man", "what", "is", "it", "yes", "no")


def tiny_xvlm(image_size, vision_weights=False, text_weights=False):
    """The architecture of `xvlm_base` with Swin's windows, 6 + 6 layers, and hardly any width."""
    words = len(SPECIAL) + len(WORDS)
    whole = albef_tiny(words, 32, width=32, vision_layers=1, text_layers=6, fusion_layers=1, embed=16)
    small = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": image_size // 32}
    vision = TimmVision("swin_base_patch4_window7_224", image_size, settings=small)
    fusion = FusionEncoder(whole.text.width, vision.width, layers=6, heads=1)
    return for_boxes(FusionModel(vision, whole.text, fusion, dict(whole.heads.items()), embed=16))


def small(recipe):
    """The recipe on `tiny_xvlm`; every model is a function of its architecture first."""
    assert recipe.model.args[0].__name__ == "xvlm_base"
    model = partial(recipe.model.func, tiny_xvlm, *recipe.model.args[1:], **recipe.model.keywords)
    return replace(recipe, model=model, run=replace(recipe.run, batch=2, workers=0, parallel="none", precision="fp32"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """The folder of a run at 224 pixels, and a released checkpoint of the same model."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(0)
    model = tiny_xvlm(224)
    save_model(model, folder / "run")
    torch.save({"model": official_checkpoint(model, "xvlm/pretrain_swin")}, folder / "released.th")
    return {"run": folder / "run", "released": folder / "released.th"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two photos, and each task's files about them."""
    folder = tmp_path_factory.mktemp("files")
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 20), colour).save(folder / name)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    refs = [{"ref_id": n, "ann_id": n, "image_id": n, "split": split} for n, split in ((1, "testA"), (2, "val"))]
    content = {
        "captions": [
            {"image": "a.png", "caption": "a red dog"},
            {"image": "a.png", "caption": "it is a dog"},
            {"image": "b.png", "caption": "a cat"},
        ],
        "questions": [
            {"dataset": "vqa", "image": "a.png", "question": "is it a dog", "answer": ["yes", "no"], "question_id": 1},
            {"dataset": "vqa", "image": "b.png", "question": "is it red", "answer": ["no"], "question_id": 2},
        ],
        "answers": ["yes", "no"],
        "statements": [
            {"images": ["a.png", "b.png"], "sentence": "a dog", "label": "True"},
            {"images": ["b.png", "a.png"], "sentence": "a red man", "label": "False"},
        ],
        "expressions": [
            {"image": "a.png", "text": "red dog", "ref_id": 1},
            {"image": "a.png", "text": "it", "ref_id": 1},
            {"image": "b.png", "text": "cat", "ref_id": 2},
        ],
        "refs": refs,
        "instances": {
            "images": [{"id": n, "width": 40, "height": 20} for n in (1, 2)],
            "annotations": [{"id": 1, "bbox": [0, 0, 20, 20]}, {"id": 2, "bbox": [10, 5, 20, 10]}],
        },
        "dets": {"1": [[0, 0, 20, 20], [20, 0, 20, 20]], "2": [[10, 5, 20, 10]]},
    }
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    lines = [
        {"image_rpath": "a.png", "caption": "a dog", "elems": [{"caption": "dog", "bb": [0, 0, 20, 20]}]},
        {"image_rpath": "b.png", "elems": [{"caption": "cat", "attributes": "red", "bb": [10, 5, 20, 10]}]},
    ]
    (folder / "regions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def made(recipe, checkpoint, files):
    """The recipe on the fixtures' files."""
    path = {name: files / f"{name}.json" for name in ("captions", "questions", "statements", "expressions")}
    boxes = {"images": files, "refs": files / "refs.json", "instances": files / "instances.json"}
    given = {
        xvlm_retrieval_flickr: {"train": str(path["captions"]), "val": str(path["captions"])},
        xvlm_retrieval_coco: {"train": str(path["captions"]), "val": str(path["captions"])},
        xvlm_vqa_v2: {
            "train": (path["questions"],), "val": path["questions"], "images": files, "answers": files / "answers.json",
        },
        xvlm_nlvr2_pretrain: {"data": (str(path["captions"]),)},
        xvlm_nlvr2: {"train": path["statements"], "val": path["statements"], "images": files},
        xvlm_refer_refcoco_plus: {
            "train": path["expressions"], "val": (path["expressions"],), **boxes, "proposals": files / "dets.json",
        },
        refer_boxes_pretrain: {"regions": (str(files / "regions.jsonl"),), "val": str(files / "regions.jsonl")},
        refer_boxes_refcoco_plus: {"train": path["expressions"], "val": (path["expressions"],), **boxes},
        caption_pretrain: {"data": (str(path["captions"]),), "val": str(path["captions"])},
    }  # fmt: skip
    return recipe(checkpoint=checkpoint, text=str(files / "vocab.txt"), **given[recipe])


MADE_BY = {
    xvlm_retrieval_flickr: ("match", "heads.match.hidden.weight", "heads.match.hidden.weight"),
    xvlm_retrieval_coco: ("match", "image_proj.weight", "image_proj.weight"),
    xvlm_vqa_v2: ("answer", "heads.answer.layers.5.attention.qkv.weight", "fusion.layers.5.attention.qkv.weight"),
    xvlm_nlvr2_pretrain: ("assign", "fusion.layers.3.second.cross.q.weight", "fusion.layers.3.cross.q.weight"),
    xvlm_nlvr2: ("nlvr", "fusion.layers.3.second.cross.q.weight", "fusion.layers.3.cross.q.weight"),
    xvlm_refer_refcoco_plus: ("match", "heads.match.out.weight", "heads.match.out.weight"),
    refer_boxes_pretrain: ("box_giou", "heads.box.mlp.out.weight", "heads.box.mlp.out.weight"),
    refer_boxes_refcoco_plus: ("box_giou", "heads.box.mlp.out.weight", "heads.box.mlp.out.weight"),
    caption_pretrain: ("caption", "heads.mask.dense.weight", "heads.mask.dense.weight"),
}
"""The loss of each recipe, a parameter of its model, and the one of pre-training that it starts from."""


@pytest.mark.parametrize("kind", ["run", "released"])
@pytest.mark.parametrize("recipe", MADE_BY, ids=lambda recipe: recipe.__name__)
def test_a_step_from_a_pretrained_model(recipe, kind, starts, files):
    made_recipe = small(made(recipe, starts[kind], files))
    loss, ours, theirs = MADE_BY[recipe]
    torch.manual_seed(1)
    model = made_recipe.model()
    torch.manual_seed(0)
    before = tiny_xvlm(224).state_dict()
    assert torch.equal(model.state_dict()[ours], before[theirs])
    side = 2 * (model.image_size // 32) - 1
    assert len(model.vision.body.layers[0].blocks[0].attn.relative_position_bias_table) == side**2
    data = made_recipe.data
    loader = StepLoader(data.train(), data.transform, data.collator(), batch=2, seed=0)
    (batch,) = next(iter(loader))
    assert batch.image.shape[1:] == (3, model.image_size, model.image_size)
    task = made_recipe.task.build(model).train()
    output = task(batch, task.counts(batch))
    assert loss in output.metrics
    output.loss.backward()
    assert output.loss.isfinite()
    kept = model.vision.body.patch_embed.proj.weight.detach().clone()
    optimiser = optim.build(model, made_recipe.optim)  # names that the recipe gives a rate must be there
    optim.set_rate(optimiser, 1e-3)
    optimiser.step()
    assert not torch.equal(model.vision.body.patch_embed.proj.weight, kept)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (xvlm_retrieval_flickr, {"raw/itc/TR@1", "raw/rerank_k128/IR@1"}),
        (xvlm_vqa_v2, {"raw/rank_k2/accuracy"}),
        (xvlm_nlvr2, {"raw/accuracy", "raw/consistency"}),
        (xvlm_refer_refcoco_plus, {"raw/itm_layer3_alone/testA_acc@0.5", "raw/itm_layer3_alone/val_acc@0.5"}),
        (refer_boxes_pretrain, {"raw/box/acc@0.5"}),
        (refer_boxes_refcoco_plus, {"raw/box/testA_acc@0.5", "raw/box/val_acc@0.5"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_is_measured(recipe, expected, starts, files):
    made_recipe = small(made(recipe, starts["run"], files))
    data = made_recipe.data
    found = made_recipe.evaluation(
        made_recipe.model().eval(), data.evaluate(), data.collator(), data.eval_transform, batch=2, progress=False
    )
    assert expected <= found.metrics.keys(), sorted(found.metrics)


@pytest.mark.parametrize(
    ("layout", "heads", "recipe"),
    [
        ("xvlm/retrieval", for_retrieval, xvlm_retrieval_flickr),
        ("xvlm/retrieval", for_retrieval, xvlm_refer_refcoco_plus),
        ("xvlm/bbox", for_locating, refer_boxes_refcoco_plus),
        ("xvlm/vqa", for_questions, xvlm_vqa_v2),
        ("xvlm/nlvr_pretrain", partial(for_two_images, head="assign"), xvlm_nlvr2),
        ("xvlm/nlvr", partial(for_two_images, head="nlvr"), xvlm_nlvr2),
        ("xvlm/captioning", for_captioning, caption_pretrain),
    ],
)
def test_a_released_fine_tuned_checkpoint_is_a_start_too(layout, heads, recipe, files, tmp_path):
    torch.manual_seed(3)
    released = heads(tiny_xvlm(384))
    torch.save({"model": official_checkpoint(released, layout)}, tmp_path / "released.pth")
    model = small(made(recipe, tmp_path / "released.pth", files)).model()
    lost = ("image_proj.", "text_proj.", "temperature", "heads.assign.")  # of another layout, or in none
    for name, value in released.state_dict().items():
        if not name.startswith(lost) and value.shape == model.state_dict()[name].shape:
            assert torch.equal(model.state_dict()[name], value), name


def test_a_run_of_a_stage_is_the_start_of_the_next(starts, files, tmp_path):
    for first, second in ((xvlm_nlvr2_pretrain, xvlm_nlvr2), (refer_boxes_pretrain, refer_boxes_refcoco_plus)):
        torch.manual_seed(4)
        trained = small(made(first, starts["run"], files)).model()
        torch.nn.init.normal_(trained.fusion.layers[0].get_parameter(_query(trained)))
        save_model(trained, tmp_path / first.__name__)
        model = small(made(second, tmp_path / first.__name__, files)).model()
        assert (trained.image_size, model.image_size) == (224, 384)
        name = f"fusion.layers.0.{_query(trained)}"
        assert torch.equal(model.get_parameter(name), trained.get_parameter(name))


def _query(model):
    return next(name for name, _ in model.fusion.layers[0].named_parameters() if name.endswith("cross.q.weight"))


def test_a_vqa_decoder_starts_new_where_swin_is_too_wide(starts, files):
    torch.manual_seed(5)
    recipe = small(made(xvlm_vqa_v2, starts["run"], files))
    decoder, fresh = recipe.model().heads["answer"], recipe.model().heads["answer"]
    for block, other in zip(decoder.layers, fresh.layers, strict=True):
        assert not torch.equal(block.cross.kv.weight, other.cross.kv.weight)  # drawn anew, not read
        assert torch.equal(block.cross.q.weight, other.cross.q.weight)
    groups = optim.parameter_groups(recipe.model(), recipe.optim)
    assert sum(len(group["params"]) for group in groups if group["lr_scale"] == 2) == 2 * len(decoder.layers)


@pytest.mark.parametrize(
    ("recipe", "batch", "steps", "rate", "pixels", "tokens", "words", "clip"),
    [
        (xvlm_retrieval_flickr, 160, 10 * (145_000 // 160), 3e-5, 384, 40, 30, None),
        (xvlm_retrieval_coco, 160, 10 * (566_747 // 160), 3e-5, 384, 40, 30, None),
        (xvlm_vqa_v2, 192, 10 * (658_111 // 192), 5e-5, 384, 40, 30, None),
        (xvlm_nlvr2_pretrain, 1024, 2 * (5_114_489 // 1024), 3e-5, 224, 40, 40, 1.0),
        (xvlm_nlvr2, 80, 10 * (86_373 // 80), 3e-5, 384, 64, 30, None),
        (xvlm_refer_refcoco_plus, 160, 5 * (120_191 // 160), 2e-5, 384, 40, 30, None),
        (refer_boxes_pretrain, 72, 2 * (318_547 // 192), 3e-5, 224, 40, 40, 1.0),
        (refer_boxes_refcoco_plus, 160, 10 * (120_191 // 160), 3e-5, 384, 40, 30, None),
        (caption_pretrain, 1024, 2 * (5_114_489 // 1024), 3e-5, 224, 40, 40, 1.0),
    ],
)
def test_the_published_settings(recipe, batch, steps, rate, pixels, tokens, words, clip, files):
    found = made(recipe, files, files)
    assert (found.run.batch, found.run.steps, found.run.clip) == (batch, steps, clip)
    assert found.name == recipe.__name__
    assert BUILTIN[found.name] is recipe
    rates = [found.optim.lr * found.optim.factor(step, steps) for step in (steps // 10 - 1, steps)]
    assert rates == pytest.approx([rate, 0])
    assert (found.optim.betas, found.optim.weight_decay, found.optim.no_decay) == ((0.9, 0.98), 0.01, ("bias",))
    assert found.data.transform.image_size == pixels
    tokenizer = found.data.collator().tokenizer
    assert (tokenizer.max_tokens, tokenizer.max_words) == (tokens, words)
    assert tokenizer.sep is (recipe is caption_pretrain)
    assert getattr(found.task, "distill", 0) == 0


def test_what_learns_at_twice_the_rate(files):
    assert made(xvlm_nlvr2, files, files).optim.lr_scale == (("heads.nlvr.", 2.0),)
    assert made(xvlm_nlvr2_pretrain, files, files).optim.lr_scale == (("heads.assign.", 2.0),)
    assert made(xvlm_retrieval_flickr, files, files).optim.lr_scale == ()
    assert made(xvlm_vqa_v2, files, files).optim.lr_scale[5] == ("heads.answer.layers.5.cross.kv.", 2.0)


@pytest.mark.parametrize("recipe", MADE_BY, ids=lambda recipe: recipe.__name__)
def test_what_is_missing_is_named(recipe, tmp_path):
    with pytest.raises(UsageError, match=rf"{recipe.__name__}: no checkpoint.*--checkpoint"):
        recipe()
    if recipe in (xvlm_nlvr2_pretrain, caption_pretrain, refer_boxes_pretrain):
        with pytest.raises(UsageError, match=f"{recipe.__name__}: no data"):
            recipe(checkpoint=tmp_path)


def test_counts_and_processes_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UsageError, match="captions=159 is less than one batch of 160"):
        xvlm_retrieval_coco(checkpoint=tmp_path, captions=159)
    with pytest.raises(UsageError, match="processes=5 does not divide 72 images and 192 pairs"):
        refer_boxes_pretrain(checkpoint=tmp_path, regions=("a.jsonl",), processes=5)


def test_captions_of_a_photo_are_one_sample_though_the_file_lists_them_apart(starts, files):
    dataset = made(xvlm_retrieval_flickr, starts["run"], files).data.train()
    assert [dataset[i].texts for i in range(len(dataset))] == [("a red dog", "it is a dog"), ("a cat",)]


def test_each_expression_is_cropped_around_its_own_box(starts, files):
    data = made(refer_boxes_refcoco_plus, starts["run"], files).data
    dataset = data.train()
    assert [dataset[i].texts for i in range(len(dataset))] == [("red dog",), ("it",), ("cat",)]
    for index in range(3):
        rng = np.random.default_rng(index)
        batch = data.collator()([(index, data.transform(dataset[index], rng), rng)])
        (box,) = batch.regions().box.tolist()
        assert min(box[2] - box[0], box[3] - box[1]) > 0
    assert [s for i in range(2) for s in data.evaluate()[i].target["splits"]] == ["testA", "testA", "val"]


def test_captions_are_learned_whole_and_without_a_prompt(starts, files):
    data = made(caption_pretrain, starts["run"], files).data
    loader = StepLoader(data.train(), data.transform, data.collator(), batch=3, seed=0)
    (batch,) = next(iter(loader))
    assert torch.equal(batch.labels[:, 1:], torch.where(batch.token_mask, batch.token_ids, -100)[:, 1:])
    assert (batch.token_ids[:, 0] == 2).all()
    assert (batch.labels[:, 0] == -100).all()


RECIPE_FILE = """
from dataclasses import replace
from pathlib import Path
from tests.recipes.test_xvlm_tuning import made, refer_boxes_refcoco_plus, small


def tiny(checkpoint: Path, files: Path):
    recipe = small(made(refer_boxes_refcoco_plus, checkpoint, files))
    return replace(recipe, run=replace(recipe.run, steps=2, log_every=1))
"""


def test_trained_and_evaluated_from_the_command_line(starts, files, tmp_path):
    (tmp_path / "recipes.py").write_text(RECIPE_FILE)
    out = tmp_path / "run"
    given = ["--checkpoint", str(starts["released"]), "--files", str(files)]
    assert cli.main(["train", f"{tmp_path / 'recipes.py'}:tiny", *given, "--out", str(out)]) == 0
    assert cli.main(["eval", str(out), "--protocol", "finetuned_on_refcoco+"]) == 0
    metrics = json.loads((out / "eval.json").read_text())["metrics"]
    assert {f"finetuned_on_refcoco+/box/{split}_acc@0.5" for split in ("val", "testA")} <= metrics.keys()


@pytest.mark.parametrize("recipe", [retrieval_scenes, vqa_scenes, nlvr_scenes, caption_scenes, refer_boxes_scenes])
def test_the_scenes_tasks_start_from_a_run_of_xvlm_scenes(recipe, tmp_path):
    torch.manual_seed(0)
    before = BUILTIN["xvlm_scenes"](8).model()
    save_model(before, tmp_path)
    found = recipe(checkpoint=tmp_path)
    model = found.model()
    assert torch.equal(model.image_proj.weight, before.image_proj.weight)
    assert len(model.fusion.layers) == len(before.fusion.layers)
    assert torch.equal(model.places, before.places)
    data = found.data
    (batch,) = next(iter(StepLoader(data.train(), data.transform, data.collator(), batch=2, seed=0)))
    task = found.task.build(model).train()
    assert task(batch, task.counts(batch)).loss.isfinite()


def test_boxes_alone_are_learned_on_a_few_scenes():
    recipe = refer_boxes_scenes()
    torch.manual_seed(0)
    model = recipe.model()
    assert model.heads.keys() == for_locating(xvlm_tiny(recipe.data.collator().tokenizer.vocab_size)).heads.keys()
    data = recipe.data
    (batch,) = next(iter(StepLoader(data.train(), data.transform, data.collator(), batch=8, seed=0)))
    task = recipe.task.build(model).train()
    optimiser = optim.build(model, recipe.optim)
    optim.set_rate(optimiser, recipe.optim.lr)
    losses = []
    for _ in range(40):
        output = task(batch, task.counts(batch))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        task.after_step()
        losses.append(float(output.loss))
    assert losses[-1] < 0.6 * losses[0], losses
