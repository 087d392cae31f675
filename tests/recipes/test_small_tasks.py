"""The recipes on small real data, on stand-ins of their formats: one step each, from a saved model."""

import json
import tarfile
from dataclasses import replace

import pytest
import torch
from PIL import Image

from wordregion.data.loader import StepLoader
from wordregion.data.tokens import SPECIAL, Tokenizer
from wordregion.engine.optim import freeze, parameter_groups
from wordregion.models.questions import encode_for_prior
from wordregion.models.store import save_model
from wordregion.models.zoo import albef_tiny_conv
from wordregion.recipes.small_tasks import entail_small, nlvr_small, vqa_small

WORDS = ("a", "dog", "cat", "what", "is", "on", "the", "table", "in", "image", "box", "there", "red")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    (root / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    torch.manual_seed(0)
    save_model(albef_tiny_conv(len(SPECIAL) + len(WORDS), width=64, fusion_layers=2), root / "start")
    (root / "photos").mkdir()
    pictures = {"photos/1.jpg": (224, 90), "image1.jpg": (96, 90), "image2.jpg": (96, 9), "image5.jpg": (96, 90)}
    for name, (size, red) in pictures.items():
        Image.new("RGB", (size, size), (red, 120, 30)).save(root / name)
    pairs = [
        {"Flickr30K_ID": "1", "sentence1": "a dog", "sentence2": text, "gold_label": label, "pairID": text}
        for text, label in (("a dog", "entailment"), ("a cat", "contradiction"))
    ]
    for name in ("snli_ve_train.jsonl", "snli_ve_dev.jsonl"):
        (root / name).write_text("\n".join(map(json.dumps, pairs)))
    questions = [
        "what is on the table in the image1 ?",
        "box",
        "what is in the image5 ?",
        "cat",
        "what is in image1 ?",
        "dog",
        "what is in image2 ?",
        "dog",
    ]
    (root / "qa_train.txt").write_text("\n".join(questions))
    with tarfile.open(root / "images_train.tar", "w") as tar:
        for name in ("image1.jpg", "image2.jpg", "image5.jpg"):
            tar.add(root / name, name)
    for split in ("train", "dev"):
        line = {"identifier": "1-0", "sentence": "there is a red box", "label": "true"}
        (root / f"{split}.json").write_text(json.dumps(line))
    return root


def recipes(root, **settings):
    common = {"start": root / "start", "vocab": root / "vocab.txt", **settings}
    yield entail_small(data=root, images=root / "photos", **common)
    yield vqa_small(data=root, components=1, **common)


@pytest.mark.parametrize("text_only", [False, True])
def test_one_step_moves_all_but_the_image_encoder(places, text_only):
    for recipe in recipes(places, text_only=text_only):
        model = recipe.model()
        freeze(model, recipe.optim)
        assert parameter_groups(model, recipe.optim)
        task = recipe.task.build(model).train()
        loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=2, seed=0)
        (batch,) = next(iter(loader))
        assert batch.image.shape[-1] == model.image_size  # of the start
        assert bool(batch.image.abs().sum() == 0) == text_only
        output = task(batch, task.counts(batch))
        output.loss.backward()
        assert all(p.grad is None for p in model.vision.parameters())
        blind = text_only and recipe.name == "vqa_small"
        assert (model.fusion.layers[0].cross.kv.weight.grad is None) == blind
        assert ("prior" in model.heads) == (recipe.name == "vqa_small" and not text_only)


def test_questions_go_on_with_photos_where_a_run_without_ended(places, tmp_path):
    first = list(recipes(places, text_only=True))[1].model()
    with torch.no_grad():
        for block in first.fusion.layers:
            block.cross.out.bias.normal_()
    save_model(first, tmp_path)
    recipe = vqa_small(start=tmp_path, data=places, vocab=places / "vocab.txt")
    second = recipe.model()
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=2, seed=0)
    (batch,) = next(iter(loader))
    hidden = replace(batch, image=torch.zeros_like(batch.image))
    losses = []
    for model, given in ((first, hidden), (second, batch)):
        model.vision.requires_grad_(False)
        task = recipe.task.build(model).eval()
        losses.append(task(given, task.counts(given)).loss)
    torch.testing.assert_close(losses[0], losses[1])  # photos change nothing before the first step


def test_the_baseline_has_no_prior_though_the_run_before_had_one(places, tmp_path):
    save_model(list(recipes(places))[1].model(), tmp_path)
    settings = {"start": tmp_path, "data": places, "vocab": places / "vocab.txt"}
    assert "prior" in vqa_small(**settings).model().heads
    assert "prior" not in vqa_small(**settings, text_only=True).model().heads


def test_what_photos_tell_of_words_is_fitted_before_the_first_step(places):
    recipe = list(recipes(places))[1]
    model = recipe.model()
    prior = model.heads["prior"]
    assert not prior.rate.any()
    recipe.prepare(model)
    tokens = Tokenizer(places / "vocab.txt")
    box, dog = (int(tokens([word]).ids[0, 1]) for word in ("box", "dog"))
    assert prior.word.tolist() == sorted([box, dog])  # of the answers about the two photos that are not held out
    column = {int(word): number for number, word in enumerate(prior.word)}
    assert prior.rate[[column[box], column[dog]]].tolist() == pytest.approx([1 / 2, 1])
    photos = [recipe.data.eval_transform(recipe.data.train()[i]).images[0] for i in (0, 2)]
    with torch.no_grad():
        red, dark = prior(encode_for_prior(model.eval(), torch.stack(photos))[1])
    assert red[column[box]] > 0 > dark[column[box]]
    assert red[column[dog]] == dark[column[dog]] == 0
    assert list(recipes(places, text_only=True))[1].prepare is None


def test_the_evaluations_run(places):
    for recipe in recipes(places):
        result = recipe.evaluation(
            recipe.model(), recipe.data.evaluate(), recipe.data.collator(), recipe.data.eval_transform, progress=False
        )
        assert all(0 <= value <= 100 for value in result.metrics.values())


def test_a_drawing_becomes_a_batch(places, tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.json").write_text((places / f"{split}.json").read_text())
        (tmp_path / f"images_{split}").mkdir()
        Image.new("RGB", (400, 100), (200, 200, 200)).save(tmp_path / f"images_{split}" / f"{split}-1-0-0.png")
    recipe = nlvr_small(start=places / "start", data=tmp_path, vocab=places / "vocab.txt")
    task = recipe.task.build(recipe.model()).eval()
    task.model.vision.requires_grad_(False)
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=1, seed=0)
    (batch,) = next(iter(loader))
    assert batch.image.shape == (1, 3, 64, 64)
    assert torch.isfinite(task(batch, task.counts(batch)).loss)
