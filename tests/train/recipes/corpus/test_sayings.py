"""Prompts are still about their thing, and of many kinds."""

import random

from train.recipes.corpus.sayings import say

MEANING = {"cat": "cat", "black cat": "black cat", "tree": "tree", "pizza": "pizza"}


def said(phrase, count=600, group="animals-nature"):
    return [say(phrase, "tree", group, MEANING, random.Random(index)) for index in range(count)]


def test_the_thing_is_in_nearly_every_prompt_before_what_is_beside_it():
    prompts = [prompt.lower() for prompt in said("cat")]
    assert all("cat" in prompt for prompt in prompts)  # three letters are too few for slips
    both = [prompt for prompt in prompts if "tree" in prompt.split()]
    assert both and all(prompt.index("cat") < prompt.index("tree") or "under a tree" in prompt for prompt in both)


def test_nothing_is_made_of_it_that_means_something_else():
    assert not any("black cat" in prompt for prompt in said("cat", 3000))


def test_prompts_are_of_many_kinds():
    prompts = said("cat")
    assert len({*prompts}) > 300
    for part in ("two cats", "wearing", " in the ", "picture", "next to", "a herd of"):
        assert any(part in prompt for prompt in prompts), part


def test_a_plate_is_for_food():
    assert any("a plate of pizza" in prompt for prompt in said("pizza", group="food-drink"))
    assert not any("plate of" in prompt for prompt in said("cat"))


def test_a_prompt_is_a_function_of_its_randomness():
    assert said("cat", 20) == said("cat", 20)
