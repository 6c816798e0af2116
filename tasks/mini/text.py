"""Words of the mini world: terse facts, caption paraphrases, and multiple-choice questions for every skill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from . import knowledge
from .world import COLOURS, KINDS, LANDMARKS, NUMBERS, PATTERNS, PLACES, WEATHERS, Scene

Needs = Literal["image", "hint", "none"]

IMAGE_SKILLS = ("weather", "place", "kind", "count", "colour", "pattern", "compare", "side")
HINT_SKILLS = ("owner", "price", "finding")
PLAIN_SKILLS = ("opposite", "past", "animal", "capital")
SKILLS = IMAGE_SKILLS + HINT_SKILLS + PLAIN_SKILLS

MAX_CAPTION_WORDS = 16
"""So that a caption with its comma, full stop and end fits the 20 tokens that captioning generates."""

VAGUE_CAPTIONS = (
    "A picture of some things.",
    "A drawing of a scene.",
    "A picture with shapes in it.",
    "A small painting.",
)


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` indexes `choices`, `hint` is text it needs (or empty)."""

    skill: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str = ""

    @property
    def needs(self) -> Needs:
        """What it takes to answer: the image, the hint, or neither."""
        if self.skill in IMAGE_SKILLS:
            return "image"
        return "hint" if self.skill in HINT_SKILLS else "none"


def facts(scene: Scene, rng: Random | None = None) -> str:
    """The scene in as few words as possible; with `rng`, in shuffled order."""
    parts = [
        scene.place,
        scene.weather,
        f"{scene.number} {scene.colour} {scene.pattern} {scene.kind}",
        f"left {scene.left}",
        f"right {scene.right}",
    ]
    if scene.count != 4:
        parts.append("more" if scene.count > 4 else "fewer")
    if rng is not None:
        rng.shuffle(parts)
    return " , ".join(parts)


def captions(scene: Scene, rng: Random, count: int = 5) -> list[str]:
    """Distinct paraphrases that name the place, the weather, the things and the landmarks."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(_caption(scene, rng))
    return list(found)


def varied_captions(scene: Scene, rng: Random, count: int = 5) -> list[str]:
    """Distinct captions as people would give: each leaves out some properties, in various orders and words.

    All name the kind of things with their colour or number; only words that the mini tokenizer knows whole, and at most
    MAX_CAPTION_WORDS of them.
    """
    found: dict[str, None] = {}
    while len(found) < count:
        caption = _varied_caption(scene, rng)
        if len(caption.split()) <= MAX_CAPTION_WORDS:
            found.setdefault(caption)
    return list(found)


def ask(skill: str, scene: Scene | None, rng: Random) -> Question | None:
    """A question of the given skill; None where the scene does not allow one.

    Raises:
        ValueError: an unknown skill, or an image skill without a scene.
    """
    if skill in IMAGE_SKILLS:
        if scene is None:
            raise ValueError(f"skill {skill!r} needs a scene")
        return _ask_scene(skill, scene, rng)
    makers: dict[str, Callable[[Random], tuple[str, str, Sequence[str], str]]] = {
        "owner": knowledge.owner,
        "price": knowledge.price,
        "finding": knowledge.finding,
        "opposite": knowledge.opposite,
        "past": knowledge.past,
        "animal": knowledge.animal,
        "capital": knowledge.capital,
    }
    if skill not in makers:
        raise ValueError(f"unknown skill {skill!r}; known: {', '.join(SKILLS)}")
    question, answer, others, hint = makers[skill](rng)
    return _with_choices(skill, question, answer, others, rng, hint=hint)


def qcm_prompt(question: str, choices: Sequence[str], context: str = "") -> str:
    """The official ScienceQA QCM prompt, up to and including "Response:"."""
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCDE", choices, strict=False))
    return f"Question: {question}\nContext: {context or 'N/A'}\nOptions: {options}\nResponse:"


def _ask_scene(skill: str, scene: Scene, rng: Random) -> Question | None:
    if skill == "compare":
        if scene.count == 4:
            return None
        answer = "more" if scene.count > 4 else "fewer"
        question = f"Are there more or fewer than four {rng.choice(('things', 'shapes'))}?"
        return _with_choices(skill, question, answer, ("more", "fewer"), rng, size=2)
    if skill == "side":
        side = rng.choice(("left", "right"))
        opposite = scene.right if side == "left" else scene.left
        # Not among the choices: binding a thing to its side is more than so small a language model learns.
        others = [landmark for landmark in LANDMARKS if landmark != opposite]
        wording = rng.choice(("What is on the {}?", "What stands on the {}?"))
        return _with_choices(skill, wording.format(side), getattr(scene, side), others, rng)
    wordings, answer, values = {
        "weather": (_WEATHER_WORDINGS, scene.weather, WEATHERS),
        "place": (_PLACE_WORDINGS, scene.place, PLACES),
        "kind": (_KIND_WORDINGS, scene.kind, KINDS),
        "count": (_COUNT_WORDINGS, scene.number, NUMBERS[2:]),
        "colour": (_COLOUR_WORDINGS, scene.colour, COLOURS),
        "pattern": (_PATTERN_WORDINGS, scene.pattern, PATTERNS),
    }[skill]
    must = scene.other if skill == "colour" and scene.count > 2 else None
    return _with_choices(skill, rng.choice(wordings), answer, values, rng, must=must)


def _with_choices(
    skill: str,
    question: str,
    answer: str,
    values: Sequence[str],
    rng: Random,
    *,
    size: int | None = None,
    must: str | None = None,
    hint: str = "",
) -> Question:
    """Choose distractors from `values` (`must` among them) and put the answer at a uniform position."""
    pool = [v for v in dict.fromkeys(values) if v not in (answer, must)]
    wanted = size or rng.choices((2, 3, 4, 5), (20, 35, 40, 5))[0]
    others = [must] if must is not None else []
    others += rng.sample(pool, min(wanted - 1 - len(others), len(pool)))
    rng.shuffle(others)
    position = rng.randrange(len(others) + 1)
    choices = (*others[:position], answer, *others[position:])
    return Question(skill, question, choices, position, hint)


def _caption(scene: Scene, rng: Random) -> str:
    thing = f"{scene.number} {scene.colour} {scene.pattern} {_PLURALS[scene.kind]}"
    weather = rng.choice(_WEATHER_PHRASES[scene.weather])
    place = rng.choice(_PLACE_PHRASES[scene.place])
    edges = rng.choice(
        (
            f"a {scene.left} on the left and a {scene.right} on the right",
            f"a {scene.right} on the right and a {scene.left} on the left",
            f"a {scene.left} left and a {scene.right} right",
        )
    )
    return rng.choice(
        (
            f"{thing} {place} {weather}, with {edges}.",
            f"there are {thing} {place} {weather}, with {edges}.",
            f"{place} {weather} there are {thing}, {edges}.",
            f"a picture of {thing} {place} {weather} with {edges}.",
            f"{edges}, and {thing} between them {place} {weather}.",
        )
    )


def _varied_caption(scene: Scene, rng: Random) -> str:
    told = set(rng.sample(("place", "weather", "edges"), rng.choices((1, 2, 3), (15, 55, 30))[0]))
    thing = _thing(scene, rng, whole=len(told) == 1)
    place = rng.choice(_PLACE_PHRASES[scene.place]) if "place" in told else ""
    weather = rng.choice(_WEATHER_PHRASES[scene.weather]) if "weather" in told else ""
    around = [part for part in (place, weather) if part]
    if rng.random() < 0.4:
        around.reverse()
    edges = rng.choice(_EDGES).format(left=scene.left, right=scene.right) if "edges" in told else ""
    orders = ["thing", "thing", "around"] if around else ["thing"]
    orders += ["edges"] if edges else []
    orders += ["ground"] if place else []
    order = rng.choice(orders)
    if order == "around":
        return _sentence(*around, rng.choice(("there are", "there are", "are")), thing, edges and f"and {edges}")
    if order == "edges":
        between = rng.choice(("between them", "")) if " and " in edges else ""
        return _sentence(edges, "with", thing, between, *around)
    if order == "ground":
        return _sentence(f"a {scene.place}", weather, "with", thing, edges and f"and {edges}")
    lead = rng.choice(_LEADS)
    return _sentence(lead, thing, *around, edges and rng.choice((f"with {edges}", f", {edges}")))


def _thing(scene: Scene, rng: Random, *, whole: bool) -> str:
    """The things, with all their properties or without some."""
    number, colour, pattern = scene.number, scene.colour, scene.pattern
    if not whole:
        left_out = rng.choices(("pattern", "number", "colour", ""), (40, 12, 8, 40))[0]
        pattern = "" if left_out == "pattern" else pattern
        number = rng.choice(("some", "")) if left_out == "number" else number
        colour = "" if left_out == "colour" else colour
    return " ".join(word for word in (number, colour, pattern, _PLURALS[scene.kind]) if word)


def _sentence(*parts: str) -> str:
    return " ".join(part for part in parts if part).replace(" ,", ",") + "."


_WEATHER_WORDINGS = ("What is the weather?", "Which weather is it?", "How is the weather?")
_PLACE_WORDINGS = ("Which place is this?", "Where is this?", "What place is shown?")
_KIND_WORDINGS = ("What kind of things are these?", "Which shape is shown?", "What are the things?")
_COUNT_WORDINGS = ("How many things are there?", "How many shapes are there?", "Count the things.")
_COLOUR_WORDINGS = ("Which colour do most things have?", "What colour are most things?")
_PATTERN_WORDINGS = ("Which pattern do the things have?", "How are the things painted?")

_LEADS = ("", "", "there are", "a picture of", "a painting of", "a drawing of", "a scene with", "this is a picture of")
_EDGES = (
    "a {left} and a {right}",
    "a {right} and a {left}",
    "a {left} on the left",
    "a {right} on the right",
    "a {left} on the left and a {right} on the right",
    "a {right} on the right and a {left} on the left",
)
_PLURALS = {"ball": "balls", "box": "boxes", "star": "stars", "cone": "cones", "cross": "crosses"}
_WEATHER_PHRASES = {
    "sun": ("in the sun", "under the sun"),
    "rain": ("in the rain", "under heavy rain"),
    "snow": ("in the snow", "under falling snow"),
    "fog": ("in the fog", "in thick fog"),
}
_PLACE_PHRASES = {
    "beach": ("at the beach", "on a beach"),
    "forest": ("in the forest", "in a forest"),
    "city": ("in the city", "in a city"),
    "desert": ("in the desert", "in a desert"),
    "farm": ("at the farm", "on a farm"),
}
