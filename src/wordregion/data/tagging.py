"""Parts of speech of captions, by spaCy (an extra: ``pip install 'wordregion[neggen]'``)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from wordregion.errors import UsageError

Tagged = list[tuple[int, int, str]]
"""First and one-past-last character and universal part of speech ("NOUN", "ADJ" ...) of each word of a text."""

Tagger = Callable[[Sequence[str]], list[Tagged]]

_UNUSED = ["parser", "ner", "lemmatizer", "senter", "textcat"]


class SpacyTagger:
    """The tags of a spaCy pipeline.

    Args:
        model: name of an installed pipeline (``"en_core_web_sm"``), or the folder of one.

    Raises:
        UsageError: if spaCy or the pipeline is missing, or the pipeline tags nothing.
    """

    def __init__(self, model: str | Path) -> None:
        try:
            import spacy
        except ImportError as error:
            raise UsageError("tagging needs spaCy. Get it: pip install 'wordregion[neggen]'") from error
        try:
            self._pipeline = spacy.load(model, exclude=_UNUSED)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"spaCy has no pipeline '{model}' here. Get one: python -m spacy download en_core_web_sm; "
                "or name the folder of one with --tagger."
            ) from error
        meta = self._pipeline.meta
        self.name = f"{meta.get('lang')}_{meta.get('name')} {meta.get('version')}"

    def __call__(self, texts: Sequence[str]) -> list[Tagged]:
        """The words of each text with their tags."""
        found = [
            [(token.idx, token.idx + len(token), token.pos_) for token in document]
            for document in self._pipeline.pipe(texts)
        ]
        if any(found) and not any(tag for words in found for _, _, tag in words):
            raise UsageError(f"the spaCy pipeline {self.name} tags no parts of speech. Use one with a tagger.")
        return found
