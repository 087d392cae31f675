"""Masking of whole words and runs of words, and RoBERTa's vocabulary."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers

from wordregion.data.tokens import ROBERTA_SPECIAL, SPECIAL, Masking, Tokenizer, WordMasking
from wordregion.errors import UsageError

WORDS = ["dog", "cat", "##s", "un", "##happi", "##ness", "the", "a"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, *WORDS]))
    return Tokenizer(path)


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory):
    """A byte-pair vocabulary learned from a few lines, as RoBERTa's files hold it."""
    folder = tmp_path_factory.mktemp("roberta")
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(ROBERTA_SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    fast.train_from_iterator(["a dog and a cat", "two dogs", "the dog sees the cats"] * 20, trainer)
    content = json.loads(fast.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    return folder


def masked(tokenizer, text, seed=0, **settings):
    ids = tokenizer([text]).ids[0]
    found, labels = WordMasking(**settings)(ids, tokenizer, np.random.default_rng(seed))
    return ids, found, labels


def test_a_word_is_masked_whole(bert):
    text = "the cats a unhappiness the dogs"
    words = bert([text]).word[0]
    for seed in range(60):
        ids, _, labels = masked(bert, text, seed, probability=0.3, most=8, skipgram=0.0)
        chosen = labels != -100
        assert chosen.sum() == round((len(ids) - 1) * 0.3)
        whole = [w for w in words[chosen].unique().tolist() if chosen[words == w].all()]
        broken = len(words[chosen].unique()) - len(whole)
        assert broken <= 2  # what is too much is left out at random
    whole_only = [masked(bert, "the cats a dogs", s, probability=0.01, skipgram=0.0)[2] for s in range(40)]
    assert {int((labels != -100).sum()) for labels in whole_only} == {1}


def test_with_room_every_word_is_whole(bert):
    text = "the cats a unhappiness the dogs a dog"
    encoded = bert([text])
    words = encoded.word[0]
    for seed in range(40):
        _, _, labels = masked(bert, text, seed, probability=1.0, most=100, skipgram=0.0)
        assert torch.equal(labels != -100, words >= 0)


def test_runs_take_two_to_three_tokens_and_their_whole_words(bert):
    text = "the dog a cat the dog a cat the dog a cat"
    runs = set()
    for seed in range(80):
        _, _, labels = masked(bert, text, seed, probability=0.23, most=8, skipgram=1.0, longest=3)
        assert 1 <= int((labels != -100).sum()) <= 3
        chosen = torch.nonzero(labels != -100)[:, 0].tolist()
        runs.add(tuple(b - a for a, b in pairwise(chosen)))
    assert (1, 1) in runs


def test_at_most_so_many_and_at_least_one_and_never_a_special_token(bert):
    for seed in range(30):
        ids, found, labels = masked(
            bert, "the dog a cat the dog a cat the dog a cat the dog", seed, probability=1.0, most=4
        )
        assert int((labels != -100).sum()) == 4
        _, _, labels = masked(bert, "the", seed, probability=0.0)
        assert int((labels != -100).sum()) == 1
        assert labels[0] == labels[-1] == -100
    ids = torch.tensor([bert.cls_id, bert.sep_id, bert.pad_id])
    found, labels = WordMasking()(ids, bert, np.random.default_rng(0))
    assert torch.equal(found, ids)
    assert (labels == -100).all()


def test_eight_of_ten_are_hidden_one_is_another_and_one_stays(bert):
    fates = {"mask": 0, "other": 0, "same": 0}
    for seed in range(300):
        ids, found, labels = masked(bert, "the dog a cat", seed, probability=1.0)
        for i in torch.nonzero(labels != -100)[:, 0].tolist():
            assert labels[i] == ids[i]
            fates["mask" if found[i] == bert.mask_id else "same" if found[i] == ids[i] else "other"] += 1
        assert torch.equal(found[labels == -100], ids[labels == -100])
    total = sum(fates.values())
    assert fates["mask"] / total == pytest.approx(0.8, abs=0.05)
    assert fates["other"] / total == pytest.approx(0.1 * 7 / 8, abs=0.04)


def test_draws_do_not_depend_on_padding(bert):
    short, long = bert(["the dogs a cat"]).ids[0], bert(["the dogs a cat"], pad_to_max=True).ids[0]
    for seed in range(10):
        one = WordMasking()(short, bert, np.random.default_rng(seed))
        other = WordMasking()(long, bert, np.random.default_rng(seed))
        assert torch.equal(one[0], other[0][: len(short)])
        assert torch.equal(one[1], other[1][: len(short)])


@pytest.mark.parametrize(
    "wrong", [{"probability": 1.5}, {"most": 0}, {"longest": 1}, {"mask": 0.8, "random": 0.3}, {"skipgram": -0.1}]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        WordMasking(**wrong)


def test_roberta_reads_words_with_their_offsets_and_writes_them_again(roberta_folder):
    tokenizer = Tokenizer(roberta_folder, clean=False)
    text = "the dogs see a zebra"
    encoded = tokenizer([text, "a"])
    assert tokenizer.decode(encoded.ids[0].tolist()) == text
    assert encoded.ids[0, 0] == tokenizer.cls_id
    assert encoded.ids[1, 2] == tokenizer.sep_id
    assert encoded.ids[1, 3] == tokenizer.pad_id == 0
    dogs = encoded.tokens_of_span(0, (4, 8))
    assert tokenizer.decode(encoded.ids[0][dogs].tolist()) == "dogs"
    begin, end = encoded.offsets[0][dogs][:, 0].min(), encoded.offsets[0][dogs][:, 1].max()
    assert text[int(begin) : int(end)] == "dogs"


def test_roberta_masks_whole_words_too(roberta_folder):
    tokenizer = Tokenizer(roberta_folder)
    text = "the zebra sees a dog"
    words = tokenizer([text]).word[0]
    assert (words == 1).sum() > 1  # "zebra" is several tokens
    for seed in range(30):
        _, _, labels = masked(tokenizer, text, seed, probability=1.0, most=100)
        assert torch.equal(labels != -100, words >= 0)
    ids = tokenizer([text]).ids[0]
    _, labels = Masking(1.0)(ids, tokenizer, np.random.default_rng(0))
    assert torch.equal(labels != -100, words >= 0)


def test_a_broken_roberta_folder_is_one_line(tmp_path):
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UsageError, match="neither tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(UsageError, match=r"unreadable vocab\.json or merges\.txt"):
        Tokenizer(tmp_path)
