"""Says what is in a `Scene`: captions of varied grammar with the span of every phrase, and when they are true.

A caption is a `Claim` (template, mentions, relation words) put into words by `say`. Because a claim can be changed
and said again, a hard negative is the true claim with two attributes or two mentions exchanged: the same words.
"""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random

from wordregion.data.scene_graph import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing, may_hold, relations

MAX_TOKENS = 25  # of a caption, with [CLS] and [SEP]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PUNCTUATION = (",", ".", "?", "!", "'", "-")

RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "inside": ("inside", "in"),
    "around": ("around",),
    "on": ("on top of", "in front of"),
    "behind": ("behind",),
    "near": ("near", "close to"),
    "far": ("far from",),
}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
# {0} is a mention with its article, {the0} a short reference to it, {01} the relation of mention 0 to mention 1
CAPTIONS: dict[int, tuple[str, ...]] = {
    2: (
        "{0} {01} {1}",
        "{0} is {01} {1}",
        "there is {0} {01} {1}",
        "a picture of {0} {01} {1}",
        "we see {0} and {1}, the first is {01} the second",
        "{01} {1} there is {0}",
        "{0} and {1}",
    ),
    3: (
        "{0} is {01} {1} and {02} {2}",
        "{0}, which is {02} {2}, is {01} {1}",
        "{0} {01} {1}, and {2} {20} {the0}",
        "there are {0}, {1} and {2}, {the0} is {01} {the1}",
        "{0} is {01} {1}, there is also {2}",
        "{0}, {1} and {2}",
    ),
    4: (
        "{0} {01} {1} and {2} {23} {3}",
        "{0} is {01} {1}, and {2} is {23} {3}",
        "we see {0} {01} {1}, and {2} {23} {3}",
        "there is {0}, {1}, {2} and {3}",
    ),
}
# {c}, {s}: a colour and a shape; {a}, {b}: "red circle"; {p}, {q}: attributes of {s}, {t}; {r}: words of a relation
QUESTIONS: dict[str, tuple[str, ...]] = {
    "colour": ("what colour is the {s}?", "which colour does the {s} have?"),
    "shape": ("what shape is the {c} thing?", "which shape does the {c} thing have?"),
    "count": ("how many things are {c}?", "how many {c} things are there?"),
    "exists": ("is there a {a}?", "does the picture show a {a}?"),
    "relation": ("is the {a} {r} the {b}?", "is there a {a} {r} the {b}?"),
    "binding": ("is the {s} {p} and the {t} {q}?", "is the {t} {q} and the {s} {p}?"),
    "spatial": (
        "what colour is the thing nearest the {side}?",
        "which colour is nearest the {side}?",
    ),
}
SIDES = ("left", "right", "top", "bottom")
ANSWERS = ("yes", "no", "0", "1", "2", "3", "4", "5", *COLOURS, *SHAPES)
"""Every answer to a question about a scene."""

HYPOTHESES: dict[str, tuple[str, ...]] = {
    "exists": ("there is a {a}.", "a {a} is in the picture."),
    "relation": ("the {a} is {r} the {b}.", "there is a {a} {r} the {b}."),
    "nothing": ("nothing is {c}.", "there is nothing {c} in the picture."),
}
PREMISE_BOX = ", with a closed box"
STATEMENTS: dict[str, tuple[str, ...]] = {
    "both": ("both pictures show a {a} {r} a {b}.", "in both pictures a {a} is {r} a {b}."),
    "one": ("only one picture shows a {a} {r} a {b}.", "in just one picture a {a} is {r} a {b}."),
    "count": ("the {side} picture shows more things than the {other} picture.",),
    "order": ("the left picture shows a {a} and the right picture shows a {b}.",),
}
SLOT = re.compile(r"\{(\w+)\}")
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Mention:
    """One thing as a text names it: the words used, None for what is left unsaid."""

    thing: int
    colour: str
    shape: str
    size: str | None = None
    texture: str | None = None

    def words(self) -> str:
        """Its noun phrase without an article."""
        return " ".join(word for word in (self.size, self.texture, self.colour, self.shape) if word)

    def fits(self, thing: Thing) -> bool:
        """Whether the words are true of a thing."""
        return (
            self.colour == thing.colour
            and self.shape == thing.shape
            and (self.size is None or self.size in SIZE_WORDS[thing.size])
            and (self.texture is None or self.texture == thing.texture)
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """What a caption says: a template, its mentions, and (a, b, relation, its words) for each relation it states."""

    template: str
    mentions: tuple[Mention, ...]
    stated: tuple[tuple[int, int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Said:
    """A claim in words, with the character span of each phrase and the index of its thing."""

    text: str
    spans: tuple[tuple[tuple[int, int], int], ...]


def words_of(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return WORD.findall(text)


def say(claim: Claim) -> Said:
    """The claim as an English sentence."""
    relation_words = {f"{a}{b}": words for a, b, _, words in claim.stated}
    text, spans, end = "", [], 0
    for slot in SLOT.finditer(claim.template):
        text += claim.template[end : slot.start()]
        end, name = slot.end(), slot[1]
        if name in relation_words:
            text += relation_words[name]
            continue
        mention = claim.mentions[int(name[-1])]
        phrase = f"the {mention.colour} {mention.shape}" if name.startswith("the") else f"a {mention.words()}"
        spans.append(((len(text), len(text) + len(phrase)), mention.thing))
        text += phrase
    return Said(text + claim.template[end:], tuple(spans))


def true_of(claim: Claim, scene: Scene) -> bool:
    """Whether a generous reader could call the claim true of the scene (some choice of things fits all of it)."""
    things = scene.things
    fitting = [[i for i, thing in enumerate(things) if mention.fits(thing)] for mention in claim.mentions]
    if not all(fitting):
        return False
    for chosen in permutations(range(len(things)), len(claim.mentions)):
        if all(thing in fits for thing, fits in zip(chosen, fitting, strict=True)) and all(
            may_hold(scene, chosen[a], relation, chosen[b]) for a, b, relation, _ in claim.stated
        ):
            return True
    return False


def mention(rng: Random, scene: Scene, index: int, detail: float = 0.5) -> Mention:
    """Names a thing by colour and shape, and with chance `detail` each by size and texture."""
    thing = scene.things[index]
    size = rng.choice(SIZE_WORDS[thing.size]) if rng.random() < detail else None
    texture = thing.texture if thing.texture != "plain" and rng.random() < detail else None
    return Mention(index, thing.colour, thing.shape, size, texture)


def draw_claim(rng: Random, scene: Scene, count: int | None = None) -> Claim:
    """A true claim about the scene, of at most 25 tokens, that names `count` of its things (None: all, up to four)."""
    count = min(len(scene.things), 4) if count is None else count
    while True:
        claim = _try_claim(rng, scene, count)
        if claim is not None and len(words_of(say(claim).text)) + 2 <= MAX_TOKENS:
            return claim


def _try_claim(rng: Random, scene: Scene, count: int) -> Claim | None:
    chosen = rng.sample(range(len(scene.things)), count)
    mentions = tuple(mention(rng, scene, i, detail=0.6 if count < 4 else 0.35) for i in chosen)
    template = rng.choice(CAPTIONS[count])
    stated = []
    for slot in SLOT.finditer(template):
        if len(slot[1]) == 2:
            a, b = int(slot[1][0]), int(slot[1][1])
            clear = relations(scene, chosen[a], chosen[b])
            if not clear:
                return None
            relation = clear[0] if rng.random() < 0.85 else rng.choice(clear)
            stated.append((a, b, relation, rng.choice(RELATION_WORDS[relation])))
    if not stated and rng.random() < 0.6:  # mere lists are the exception
        return None
    return Claim(template, mentions, tuple(stated))


def draw_captions(rng: Random, scene: Scene, count: int) -> tuple[Claim, ...]:
    """`count` true claims about a scene, all in different words."""
    claims: dict[str, Claim] = {}
    while len(claims) < count:
        claim = draw_claim(rng, scene)
        claims.setdefault(say(claim).text, claim)
    return tuple(claims.values())


def negatives(claim: Claim, scene: Scene) -> Iterator[tuple[str, Claim]]:
    """False claims in exactly the words of a true one: ("attribute" | "relation", claim).

    An attribute (colour, shape, size, texture) is exchanged between two mentions, or two mentions change places.
    """
    truth = sorted(words_of(say(claim).text))
    for a in range(len(claim.mentions)):
        for b in range(a):
            for kind, changed in _exchanges(claim, a, b):
                if not true_of(changed, scene) and sorted(words_of(say(changed).text)) == truth:
                    yield kind, changed


def _exchanges(claim: Claim, a: int, b: int) -> Iterator[tuple[str, Claim]]:
    first, second = claim.mentions[a], claim.mentions[b]

    def put(new_first: Mention, new_second: Mention) -> Claim:
        mentions = list(claim.mentions)
        mentions[a], mentions[b] = new_first, new_second
        return replace(claim, mentions=tuple(mentions))

    for field in ("colour", "shape", "size", "texture"):
        mine, other = getattr(first, field), getattr(second, field)
        if mine != other:
            yield "attribute", put(replace(first, **{field: other}), replace(second, **{field: mine}))
    if claim.stated:
        yield "relation", put(second, first)


def templates() -> tuple[str, ...]:
    """Every fixed piece of text that the scenes can say."""
    tables = (*CAPTIONS.values(), *QUESTIONS.values(), *HYPOTHESES.values(), *STATEMENTS.values())
    return (*(t for group in tables for t in group), PREMISE_BOX)


def build_vocab() -> tuple[str, ...]:
    """The WordPiece vocabulary of the scenes: special tokens, every word they can say, letters and digits."""
    said = [SLOT.sub(" ", text) for text in templates()]
    said += [" ".join(words) for words in (*RELATION_WORDS.values(), *SIZE_WORDS.values())]
    said += [" ".join(words) for words in (COLOURS, SHAPES, SIZES, TEXTURES, SIDES, ANSWERS)]
    words = {word for text in said for word in words_of(text)} - set(PUNCTUATION)
    pieces = string.ascii_lowercase + string.digits
    singles = [*pieces, *(f"##{piece}" for piece in pieces)]
    return (*SPECIAL, *PUNCTUATION, *sorted(words - set(singles)), *singles)
