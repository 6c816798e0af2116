"""Scenes of the mini world: what a picture shows, before it is drawn or put into words."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TypeVar, cast

T = TypeVar("T")

VERSION = "3"

PLACES = ("beach", "forest", "city", "desert", "farm")
WEATHERS = ("sun", "rain", "snow", "fog")
KINDS = ("ball", "box", "star", "cone", "cross")
COLOURS = ("red", "blue", "green", "yellow", "purple", "white")
COUNTS = (2, 3, 4, 5, 6)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
PATTERNS = ("plain", "striped", "dotted", "checked")
LANDMARKS = ("tree", "house", "tower", "tent")

FAVOURITE_SHARE = 0.42
"""Probability of an attribute's favourite value in a skewed world; the others share the rest."""

_FAVOURITES: dict[tuple[object, ...], object] = {
    PLACES: "beach",
    WEATHERS: "rain",
    KINDS: "ball",
    COLOURS: "red",
    COUNTS: 3,
    PATTERNS: "plain",
}


@dataclass(frozen=True)
class Scene:
    """One picture's content.

    `colour` is the colour of all things but one: from three things on, one of them has the colour `other`.
    `left` and `right` are the landmarks at the picture's edges, the only properties bound to a position.
    """

    place: str
    weather: str
    kind: str
    count: int
    colour: str
    other: str
    pattern: str
    left: str
    right: str

    @property
    def number(self) -> str:
        """The count as a word."""
        return NUMBERS[self.count]


def sample_scene(rng: Random, *, skewed: bool = False) -> Scene:
    """Draw a scene: uniform, or with one favourite value in each whole-picture attribute."""
    colour = _pick(rng, COLOURS, skewed)
    left, right = rng.sample(LANDMARKS, 2)
    return Scene(
        place=_pick(rng, PLACES, skewed),
        weather=_pick(rng, WEATHERS, skewed),
        kind=_pick(rng, KINDS, skewed),
        count=_pick(rng, COUNTS, skewed),
        colour=colour,
        other=rng.choice([c for c in COLOURS if c != colour]),
        pattern=_pick(rng, PATTERNS, skewed),
        left=left,
        right=right,
    )


def _pick(rng: Random, values: tuple[T, ...], skewed: bool) -> T:
    if not skewed:
        return rng.choice(values)
    favourite = cast(T, _FAVOURITES[values])
    if rng.random() < FAVOURITE_SHARE:
        return favourite
    return rng.choice([v for v in values if v != favourite])
