"""Questions of the mini world that need no picture: small stories to read, and things to know."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

Posed = tuple[str, str, Sequence[str], str]
"""Question, answer, values to draw distractors from, hint (or empty)."""

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim", "Leo", "Mia")
TOYS = ("kite", "drum", "book", "hat", "lamp", "bike", "doll", "cup", "boat", "coat")
GOODS = ("bread", "milk", "rice", "soap", "salt", "tea", "fish", "corn", "wool", "honey")
COINS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLES = ("iron", "cork", "wax", "chalk", "clay", "ice", "sand", "rubber", "copper", "paper")
RESULTS = ("melted", "floated", "sank", "cracked", "burned", "bent", "dissolved", "froze")

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("wet", "dry"),
    ("old", "young"), ("light", "dark"), ("loud", "quiet"), ("hard", "soft"), ("open", "closed"),
)  # fmt: skip
PASTS = {
    "go": "went", "run": "ran", "eat": "ate", "see": "saw", "sing": "sang", "give": "gave",
    "take": "took", "write": "wrote", "fly": "flew", "swim": "swam", "buy": "bought", "come": "came",
}  # fmt: skip
ANIMALS = {
    "dog": "mammal", "cow": "mammal", "whale": "mammal", "horse": "mammal",
    "robin": "bird", "eagle": "bird", "owl": "bird", "duck": "bird",
    "shark": "fish", "salmon": "fish", "tuna": "fish", "eel": "fish",
    "bee": "insect", "ant": "insect", "fly": "insect", "moth": "insect",
    "snake": "reptile", "lizard": "reptile", "turtle": "reptile", "gecko": "reptile",
}  # fmt: skip
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo",
    "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi", "Norway": "Oslo", "Greece": "Athens",
    "China": "Beijing", "Ghana": "Accra",
}  # fmt: skip


def owner(rng: Random) -> Posed:
    """Who has what, told in the hint (reading)."""
    name, toy = rng.choice(NAMES), rng.choice(TOYS)
    hint = f"{name} has a {toy}."
    if rng.random() < 0.5:
        return f"Who has the {toy}?", name, NAMES, hint
    return f"What does {name} have?", toy, TOYS, hint


def price(rng: Random) -> Posed:
    """What goods cost, told in the hint (economics)."""
    goods, coins = rng.choice(GOODS), rng.choice(COINS)
    hint = f"{goods} costs {coins}."
    if rng.random() < 0.5:
        return f"What costs {coins}?", goods, GOODS, hint
    return f"How much is {goods}?", coins, COINS, hint


def finding(rng: Random) -> Posed:
    """What happened to which sample, told in the hint (an experiment)."""
    sample, result = rng.choice(SAMPLES), rng.choice(RESULTS)
    hint = f"{sample} {result}."
    if rng.random() < 0.5:
        return f"Which sample {result}?", sample, SAMPLES, hint
    return f"What did {sample} do?", result, RESULTS, hint


def opposite(rng: Random) -> Posed:
    """Opposites (vocabulary)."""
    word, answer = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        word, answer = answer, word
    words = [w for pair in OPPOSITES for w in pair if w != word]
    return f"What is the opposite of {word}?", answer, words, ""


def past(rng: Random) -> Posed:
    """Past tenses of irregular verbs (grammar)."""
    verb = rng.choice(tuple(PASTS))
    return f"What is the past of {verb}?", PASTS[verb], tuple(PASTS.values()), ""


def animal(rng: Random) -> Posed:
    """Classes of animals (biology)."""
    name = rng.choice(tuple(ANIMALS))
    return f"What kind of animal is a {name}?", ANIMALS[name], tuple(ANIMALS.values()), ""


def capital(rng: Random) -> Posed:
    """Capitals of countries (geography)."""
    country = rng.choice(tuple(CAPITALS))
    return f"What is the capital of {country}?", CAPITALS[country], tuple(CAPITALS.values()), ""
