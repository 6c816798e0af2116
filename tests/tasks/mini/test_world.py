"""The mini world itself: scenes, pictures, words and questions."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from tasks.mini import text
from tasks.mini.render import SIZE, render
from tasks.mini.world import COLOURS, PLACES, WEATHERS, sample_scene


def test_scene_is_deterministic_and_valid() -> None:
    scenes = [sample_scene(Random(seed), skewed=seed % 2 == 0) for seed in range(300)]
    assert scenes == [sample_scene(Random(seed), skewed=seed % 2 == 0) for seed in range(300)]
    assert all(scene.left != scene.right and scene.other != scene.colour for scene in scenes)


@pytest.mark.parametrize(("skewed", "low", "high"), [(False, 0.21, 0.29), (True, 0.38, 0.46)])
def test_skew_favours_one_value(skewed: bool, low: float, high: float) -> None:
    rng = Random(0)
    seen = Counter(sample_scene(rng, skewed=skewed).weather for _ in range(4000))
    assert set(seen) == set(WEATHERS)
    assert low < max(seen.values()) / 4000 < high


def test_render_is_deterministic_in_scene_and_seed() -> None:
    scene = sample_scene(Random(3))
    first = render(scene, 5)
    assert first.size == (SIZE, SIZE)
    assert first.mode == "RGB"
    assert first.tobytes() == render(scene, 5).tobytes()
    assert first.tobytes() != render(scene, 6).tobytes()


def test_pictures_of_different_weather_and_colour_differ() -> None:
    scene = replace(sample_scene(Random(1)), weather="sun", colour="red", other="blue", count=5)
    base = np.asarray(render(scene, 0), dtype=np.float32)
    for changed in (replace(scene, weather="fog"), replace(scene, colour="white"), replace(scene, place="city")):
        assert np.abs(np.asarray(render(changed, 0), dtype=np.float32) - base).mean() > 1.0


def test_facts_name_every_property_and_shuffle() -> None:
    scene = sample_scene(Random(8))
    words = text.facts(scene).split()
    for value in (scene.place, scene.weather, scene.number, scene.colour, scene.pattern, scene.kind, scene.left):
        assert value in words
    assert sorted(text.facts(scene, Random(1)).split()) == sorted(words)


def test_captions_are_distinct_paraphrases_with_every_property() -> None:
    for seed in range(50):
        scene = sample_scene(Random(seed))
        captions = text.captions(scene, Random(seed))
        assert len(set(captions)) == 5
        assert all(scene.place in c and scene.weather in c and scene.colour in c and scene.left in c for c in captions)


@pytest.mark.parametrize("skill", text.SKILLS)
def test_questions_have_one_right_choice_and_short_prompts(skill: str) -> None:
    rng = Random(4)
    for _ in range(200):
        question = text.ask(skill, sample_scene(rng), rng)
        if question is None:
            continue
        assert 2 <= len(question.choices) <= 5
        assert len(set(question.choices)) == len(question.choices)
        assert question.skill == skill
        prompt = text.qcm_prompt(question.question, question.choices, question.hint)
        assert len(prompt.split()) <= 45
        assert prompt.endswith("\nResponse:")


def test_image_questions_agree_with_the_scene() -> None:
    rng = Random(5)
    for _ in range(200):
        scene = sample_scene(rng)
        for skill, value in (("weather", scene.weather), ("place", scene.place), ("count", scene.number)):
            question = text.ask(skill, scene, rng)
            assert question is not None
            assert question.choices[question.answer] == value
        side = text.ask("side", scene, rng)
        assert side is not None
        assert len({scene.left, scene.right} & set(side.choices)) == 1


def test_colour_questions_offer_the_odd_colour_as_a_distractor() -> None:
    rng = Random(6)
    scene = replace(sample_scene(rng), count=4)
    question = text.ask("colour", scene, rng)
    assert question is not None
    assert {scene.colour, scene.other} <= set(question.choices) <= set(COLOURS)


def test_bad_asks_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown skill"):
        text.ask("smell", None, Random(0))
    with pytest.raises(ValueError, match="needs a scene"):
        text.ask("place", None, Random(0))
    assert set(PLACES) == {"beach", "forest", "city", "desert", "farm"}
