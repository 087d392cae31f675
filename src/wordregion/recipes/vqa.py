"""Visual question answering: as ALBEF and X-VLM fine-tune it on VQA v2, and small on the built-in scenes."""

from functools import partial
from pathlib import Path

from wordregion.data.blank import Blank
from wordregion.data.datasets.vqa import open_questions
from wordregion.data.mix import mixed
from wordregion.data.scene_text import ANSWERS
from wordregion.data.scenes import SceneQuestions
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.evaluate.vqa import evaluate_vqa
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_base, albef_tiny_conv, for_questions, xvlm_base
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import albef_adamw, epoch_steps, named_start, new_or_trained, tuned, xvlm_adamw
from wordregion.schema import Dataset
from wordregion.tasks.answer import Answer

CENTRED = (0.5, 0.5, 0.5)
PRETRAINED = {
    "heads.answer.embeddings.": "text.body.embeddings.",
    "heads.answer.layers.": "fusion.layers.",
    "heads.answer.head.": "heads.mask.",
}
"""Parts of a published answer decoder, which has as many blocks as there are fusion blocks, and where they start."""
NARROW = tuple(f"heads.answer.layers.{layer}.cross.kv." for layer in range(6))
"""Parameters of the decoder of which a pre-trained X-VLM has none of the same shape."""


def vqa_v2(
    checkpoint: Path | None = None,
    train: tuple[Path, ...] = (Path("data/vqa_train.json"), Path("data/vqa_val.json"), Path("data/vg_qa.json")),
    val: Path = Path("data/vqa_test.json"),
    images: Path | None = None,
    vg_images: Path | None = None,
    answers: Path = Path("data/answer_list.json"),
    questions: int = 658_111,
    text: str = "bert-base-uncased",
) -> Recipe:
    """VQA v2 as published: 8 epochs at 384 pixels, batch 256, a 6-layer decoder, candidates ranked at k = 128.

    Settings are those of ALBEF's code: AdamW 2e-5 with weight decay 0.02, 400 steps of warm-up from 1e-5, cosine to
    1e-6, distillation rising to 0.4 over the first epoch, crops of at least half the picture.

    Args:
        checkpoint: pre-trained albef_base: the folder of a run, a weight file, or a released checkpoint.
        train: questions to train on: ALBEF's JSON, or VQA v2's files of questions (annotations beside them).
        val: questions to answer in an evaluation, likewise.
        images: folder or tar where the image paths of `train` and `val` begin; see docs/vqa.md.
        vg_images: likewise for Visual Genome, in ALBEF's JSON.
        answers: JSON list of the candidates.
        questions: how many `train` holds; sets the number of steps. The default is VQA v2's train and val.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("vqa_v2", checkpoint, "runs/albef_4m")
    batch = 256
    epoch = epoch_steps("vqa_v2", "questions", questions, batch)
    return Recipe(
        name="vqa_v2",
        model=partial(tuned, albef_base, for_questions, start, seed=before_questions),
        task=Answer(ramp_steps=epoch),
        data=_data(train, val, images, vg_images, text, tokens=25),
        optim=albef_adamw(2e-5, epoch, final=0.05, warmup=4, start=0.5),
        run=Run(steps=8 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=partial(evaluate_vqa, candidates=answers),
    )


def xvlm_vqa_v2(
    checkpoint: Path | None = None,
    train: tuple[Path, ...] = (Path("data/vqa_train.json"), Path("data/vqa_val.json"), Path("data/vg_qa.json")),
    val: Path = Path("data/vqa_test.json"),
    images: Path | None = None,
    vg_images: Path | None = None,
    answers: Path = Path("data/answer_list.json"),
    questions: int = 658_111,
    text: str = "bert-base-uncased",
) -> Recipe:
    """VQA v2 as X-VLM fine-tunes: 10 epochs at 384 pixels, AdamW 5e-5, batch 192, a 6-layer decoder, no distillation.

    Settings are those of its code: see docs/xvlm.md, with what is ours.

    Args:
        checkpoint: pre-trained xvlm_base: the folder of a run, a weight file, or a released checkpoint.
        train: questions to train on: ALBEF's JSON, or VQA v2's files of questions (annotations beside them).
        val: questions to answer in an evaluation, likewise.
        images: folder or tar where the image paths of `train` and `val` begin; see docs/vqa.md.
        vg_images: likewise for Visual Genome, in ALBEF's JSON.
        answers: JSON list of the candidates.
        questions: how many `train` holds; sets the number of steps. The default is VQA v2's train and val.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("xvlm_vqa_v2", checkpoint)
    batch, epochs = 192, 10
    epoch = epoch_steps("xvlm_vqa_v2", "questions", questions, batch)
    return Recipe(
        name="xvlm_vqa_v2",
        model=partial(tuned, xvlm_base, for_questions, start, new=NARROW, seed=before_narrow_questions),
        task=Answer(distill=0.0),
        data=_data(train, val, images, vg_images, text, tokens=40),
        optim=xvlm_adamw(5e-5, epochs * epoch, twice=NARROW),
        run=Run(steps=epochs * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=partial(evaluate_vqa, candidates=answers),
    )


def _data(
    train: tuple[Path, ...], val: Path, images: Path | None, vg_images: Path | None, text: str, tokens: int
) -> Data:
    return Data(
        train=partial(_questions, train, images, vg_images),
        transform=TrainTransform(384, scale=(0.5, 1.0)),
        collator=partial(_published_collator, text, tokens),
        evaluate=partial(open_questions, val, images, vg_images),
        eval_transform=EvalTransform(384),
    )


def _questions(paths: tuple[Path, ...], images: Path | None, vg_images: Path | None) -> Dataset:
    return mixed([open_questions(path, images, vg_images) for path in paths])


def _published_collator(text: str, tokens: int) -> SentenceCollator:
    """Questions as captions are cleaned and cut, without [SEP]; answers as they are, with it."""
    return SentenceCollator(
        Tokenizer(text, max_tokens=tokens, max_words=30, sep=False),
        answers=Tokenizer(text, max_tokens=25, clean=False),
    )


def before_questions(name: str) -> str:
    """The parameter of a pre-trained model from which one of an answer decoder starts; other names are left."""
    for ours, theirs in PRETRAINED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def before_narrow_questions(name: str) -> str:
    """The same on Swin, whose tokens are wider than a question's states: keys and values of the decoder are new."""
    return name if name.startswith(NARROW) else before_questions(name)


def vqa_scenes(questions: int = 200_000, checkpoint: Path | None = None, text_only: bool = False) -> Recipe:
    """A small model learns to answer questions about the built-in scenes, in some minutes on two cores.

    Args:
        questions: number of different training questions.
        checkpoint: the folder of a run of albef_demo or xvlm_scenes to start from; None = from nothing.
        text_only: hide the pictures: the baseline. Half of the questions of each kind repeat the words of the other
            half and have another answer.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes")
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    transform = Blank(plain) if text_only else plain
    return Recipe(
        name="vqa_scenes",
        model=partial(_small, tokenizer.vocab_size, pixels, checkpoint),
        task=Answer(distill=0.0),  # a teacher that averages over a short run from nothing has little to say
        data=Data(
            train=partial(SceneQuestions, "train", questions, image_size=pixels),
            transform=transform,
            collator=partial(SentenceCollator, tokenizer, answers=tokenizer),
            evaluate=partial(SceneQuestions, "val", 1400, image_size=pixels),
            eval_transform=transform,
        ),
        optim=AdamW(lr=1e-3, betas=(0.9, 0.98), warmup=100, final=0.01),
        run=Run(steps=1500, batch=64, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=partial(evaluate_vqa, candidates=ANSWERS),
    )


def _small(vocab_size: int, pixels: int, checkpoint: Path | None) -> FusionModel:
    model = new_or_trained(partial(albef_tiny_conv, vocab_size, pixels, fusion_layers=2), checkpoint)
    return for_questions(model, layers=1)
