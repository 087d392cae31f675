"""Tags of a spaCy pipeline that is made on the spot."""

import sys

import pytest

from wordregion.data.tagging import SpacyTagger
from wordregion.errors import UsageError

spacy = pytest.importorskip("spacy")


def pipeline(folder, tags):
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for word, tag in tags.items():
        ruler.add([[{"LOWER": word}]], {"POS": tag})
    nlp.to_disk(folder)
    return folder


def test_words_with_their_places_and_tags(tmp_path):
    tagger = SpacyTagger(pipeline(tmp_path / "tagger", {"dog": "NOUN", "red": "ADJ"}))
    first, second = tagger(["The red dog, no cat.", ""])
    text = "The red dog, no cat."
    assert [(text[b:e], tag) for b, e, tag in first if tag] == [("red", "ADJ"), ("dog", "NOUN")]
    assert second == []
    assert tagger.name.startswith("en_")


def test_a_pipeline_that_tags_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no parts of speech"):
        SpacyTagger(pipeline(tmp_path / "blank", {}))(["a dog"])


def test_a_missing_pipeline_is_named_with_the_way_to_get_one(tmp_path):
    with pytest.raises(UsageError, match="spacy download"):
        SpacyTagger(tmp_path / "nothing")


def test_a_missing_spacy_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UsageError, match=r"wordregion\[neggen\]"):
        SpacyTagger("en_core_web_sm")
