"""Tokens, offsets, spans and masking, against small computations done another way."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from wordregion.data.tokens import Masking, Tokenizer
from wordregion.errors import CheckpointError, UsageError

WORDS = """
    a man dog the cat t shirt person is near left right of deja vu play ##ing ##s mans 3 ( ) . ' - sep
""".split()  # noqa: SIM905
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(SPECIAL + WORDS) + "\n")
    return path


def published_cleaning(caption: str, max_words: int) -> str:
    """What the paper's program does to a caption, as a chain of substitutions."""
    caption = re.sub(r"[,.'!?\"()*#:;~]", "", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption.replace("-", " ").replace("/", " ").replace("<person>", "person"))
    return " ".join(caption.rstrip("\n").strip(" ").split(" ")[:max_words])


CAPTIONS = [
    'A man\'s "T-shirt"  is near <person>, (left/right)!',
    "the dog -- the cat",
    "  A   dog.  ",
    "Playing ~ cats; the MAN",
    "#a *dog* : the/cat?",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_cleaning_gives_the_published_words(vocab: Path, caption: str) -> None:
    cleaned = Tokenizer(vocab, max_tokens=60)([caption])
    plain = Tokenizer(vocab, max_tokens=60, clean=False)([published_cleaning(caption, 30)])
    assert cleaned.ids.tolist() == plain.ids.tolist()


@pytest.mark.parametrize("caption", CAPTIONS)
def test_offsets_point_at_the_original_characters(vocab: Path, caption: str) -> None:
    tokenizer = Tokenizer(vocab, max_tokens=60)
    encoded = tokenizer([caption])
    for number, (begin, end), word in zip(encoded.ids[0], encoded.offsets[0].tolist(), encoded.word[0], strict=True):
        if word >= 0:
            piece = tokenizer.token(int(number)).removeprefix("##")
            assert re.sub(r"[^a-z0-9]", "", caption[begin:end].lower()) == piece
        else:
            assert (begin, end) == (0, 0)


@pytest.mark.parametrize("clean", [False, True])
def test_half_a_character_is_refused(vocab: Path, clean: bool) -> None:
    with pytest.raises(UsageError, match=r"text 'a \\udce9' holds half a character"):
        Tokenizer(vocab, clean=clean)(["a \udce9"])


def test_layout_with_and_without_sep(vocab: Path) -> None:
    ids = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    both = Tokenizer(vocab)(["a dog", "the man is playing"])
    expected = [
        ["[CLS]", "a", "dog", "[SEP]", "[PAD]", "[PAD]", "[PAD]"],
        ["[CLS]", "the", "man", "is", "play", "##ing", "[SEP]"],
    ]
    assert both.ids.tolist() == [[ids[word] for word in row] for row in expected]
    assert both.mask.tolist() == [[word != "[PAD]" for word in row] for row in expected]
    assert both.word.tolist() == [[-1, 0, 1, -1, -1, -1, -1], [-1, 0, 1, 2, 3, 3, -1]]
    bare = Tokenizer(vocab, sep=False)(["a dog", "the"])
    assert bare.ids.tolist() == [[2, ids["a"], ids["dog"]], [2, ids["the"], 0]]
    assert bare.mask.sum(1).tolist() == [3, 2]


def test_cut_by_words_then_by_tokens(vocab: Path) -> None:
    text = "a dog the cat is playing near a man"
    assert Tokenizer(vocab, max_words=3).decode(Tokenizer(vocab, max_words=3)([text]).ids[0].tolist()) == "a dog the"
    short = Tokenizer(vocab, max_tokens=5)([text])
    assert short.ids.shape == (1, 5)
    assert short.ids[0, -1] == 3  # [SEP] stays
    assert Tokenizer(vocab, max_tokens=5, sep=False)([text]).word[0].tolist() == [-1, 0, 1, 2, 3]
    assert Tokenizer(vocab, max_tokens=12)(["a"], pad_to_max=True).ids.shape == (1, 12)


def test_span_to_tokens(vocab: Path) -> None:
    tokenizer = Tokenizer(vocab, max_tokens=8)
    text = 'A man, "the T-shirt" is near the cat'
    encoded = tokenizer(["a", text])

    def words(phrase: str) -> list[str]:
        begin = text.index(phrase)
        found = encoded.tokens_of_span(1, (begin, begin + len(phrase)))
        return [tokenizer.token(int(n)) for n in encoded.ids[1][found]]

    assert words('"the T-shirt"') == ["the", "t", "shirt"]
    assert words("T-shirt") == ["t", "shirt"]
    assert words("shirt") == ["shirt"]
    assert words("man,") == ["man"]
    assert words(", ") == []  # cleaned away
    assert words("the cat") == []  # cut off
    assert not encoded.tokens_of_span(1, (0, len(text)))[0]  # never [CLS]


def test_accents_and_letters_whose_lower_case_is_longer(vocab: Path) -> None:
    tokenizer = Tokenizer(vocab)
    text = "İ man near DÉJÀ vu"
    encoded = tokenizer([text])
    found = encoded.tokens_of_span(0, (11, 15))
    assert [tokenizer.token(int(n)) for n in encoded.ids[0][found]] == ["deja"]
    found = encoded.tokens_of_span(0, (2, 5))
    assert [tokenizer.token(int(n)) for n in encoded.ids[0][found]] == ["man"]


def test_texts_that_hold_nothing_or_special_names(vocab: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(vocab)
    assert tokenizer(["?!", "a"]).mask.sum(1).tolist() == [2, 3]
    assert tokenizer([]).ids.shape[0] == 0
    tokenizer._fast.save(str(tmp_path / "tokenizer.json"))
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    raw["added_tokens"] = [{"id": n, "content": s, "special": True, **flags} for n, s in enumerate(SPECIAL)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    again = Tokenizer(tmp_path)  # a folder: tokenizer.json comes first
    assert again(["a dog is playing"]).ids.tolist() == tokenizer(["a dog is playing"]).ids.tolist()
    said = Tokenizer(tmp_path, clean=False)(["a [SEP] dog"]).ids[0]
    assert said.tolist().count(tokenizer.sep_id) == 1  # the one that ends the text


def test_pickles(vocab: Path) -> None:
    tokenizer = Tokenizer(vocab, max_tokens=7, sep=False)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again(CAPTIONS).ids.equal(tokenizer(CAPTIONS).ids)


def test_built_in_vocabulary_has_every_word_of_the_scenes() -> None:
    from wordregion.data.scenes import Scenes

    tokenizer, scenes = Tokenizer("scenes", max_tokens=64, max_words=60), Scenes("val", 20, image_size=32)
    texts = [text for i in range(20) for text in scenes[i].texts]
    assert not (tokenizer(texts).ids == tokenizer.unk_id).any()


def test_random_words_may_be_any_ordinary_one_wherever_the_special_ones_stand(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["a", "dog", *SPECIAL, "cat"]))
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer(["a dog " * 14]).ids[0]
    masked, _ = Masking(1.0, mask=0, random=1)(ids, tokenizer, np.random.default_rng(0))
    assert set(masked[1:-1].tolist()) == {0, 1, 7}


def test_masking_shares(vocab: Path) -> None:
    tokenizer = Tokenizer(vocab, max_tokens=202, max_words=200)
    ids = tokenizer(["dog " * 200] * 50, pad_to_max=True).ids
    rng = np.random.default_rng(0)
    rows = [Masking(0.15, 0.8, 0.1)(row, tokenizer, rng) for row in ids]
    masked, labels = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])
    chosen = labels != -100
    dog = tokenizer(["dog"]).ids[0, 1]
    assert labels[chosen].unique().tolist() == [dog]
    assert torch.equal(masked[~chosen], ids[~chosen])
    n, m = 200 * 50, int(chosen.sum())
    assert abs(m / n - 0.15) < 4 * (0.15 * 0.85 / n) ** 0.5
    hidden = (masked[chosen] == tokenizer.mask_id).float().mean().item()
    kept = (masked[chosen] == dog).float().mean().item()
    assert abs(hidden - 0.8) < 4 * (0.8 * 0.2 / m) ** 0.5
    assert abs(kept - (0.1 + 0.1 / len(WORDS))) < 4 * (0.1 * 0.9 / m) ** 0.5
    assert (masked[chosen] >= len(SPECIAL)).logical_or(masked[chosen] == tokenizer.mask_id).all()


def test_masking_leaves_special_tokens_and_padding(vocab: Path) -> None:
    tokenizer = Tokenizer(vocab)
    ids = tokenizer(["a dog", "the man is playing"]).ids
    masked, labels = Masking(1.0, mask=1, random=0)(ids[0], tokenizer, np.random.default_rng(0))
    assert masked.tolist() == [2, 4, 4, 3, 0, 0, 0]
    assert labels.tolist() == [-100, *ids[0, 1:3].tolist(), -100, -100, -100, -100]


def test_masking_does_not_see_padding(vocab: Path) -> None:
    tokenizer, text = Tokenizer(vocab), "the man is playing near a dog"
    short, long = tokenizer([text]).ids[0], tokenizer([text], pad_to_max=True).ids[0]
    for seed in range(20):
        one = Masking(0.5)(short, tokenizer, np.random.default_rng(seed))
        other = Masking(0.5)(long, tokenizer, np.random.default_rng(seed))
        assert all(torch.equal(a, b[: len(a)]) for a, b in zip(one, other, strict=True))
        assert (other[1][len(short) :] == -100).all()


@pytest.mark.parametrize("shares", [(1.5, 0.8, 0.1), (-0.1, 0.8, 0.1), (0.15, 0.8, 0.3), (0.15, -0.1, 0.1)])
def test_bad_shares(shares: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="shares"):
        Masking(*shares)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.txt", None),
        ("empty.txt", ""),
        ("lacks.txt", "[PAD]\n[UNK]\n[CLS]\na"),
        ("wordless.txt", "\n".join(SPECIAL)),
        ("binary.txt", b"\xff\xfe\x00\x80"),
        ("broken.json", '{"version": '),
        ("other.json", '{"a": 1}'),
        ("folder/", None),
        ("no-such-user/no-such-model", None),
    ],
)
def test_bad_vocabulary_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if name.endswith("/"):
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((UsageError, CheckpointError)) as caught:
        Tokenizer(name)
    assert name.rstrip("/") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limits(vocab: Path) -> None:
    with pytest.raises(UsageError):
        Tokenizer(vocab, max_tokens=2)
    with pytest.raises(UsageError):
        Tokenizer(vocab, max_words=0)
