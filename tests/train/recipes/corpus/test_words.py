"""Names, plurals, articles, slips."""

import random

import pytest

from train.recipes.corpus.art import Emoji
from train.recipes.corpus.words import SYNONYMS, article, misspelt, names, plural, styled


def emoji(label, subgroup="animal-mammal"):
    return Emoji("1f436", "🐶", label, (), "animals-nature", subgroup)


def test_what_people_say_comes_first_and_the_label_last():
    assert names(emoji("dog face")) == ["dog", "puppy", "doggo", "corgi", "dog face"]
    assert names(emoji("hedgehog face")) == ["hedgehog", "hedgehog face"]
    assert names(emoji("flag: france", "country-flag"))[0] == "flag of france"


def test_synonyms_are_of_labels_in_lower_case():
    assert all(label == label.lower() for label in SYNONYMS)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("cat", "cats"),
        ("mouse", "mice"),
        ("box", "boxes"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("ice cream", "ice creams"),
        ("snowman", "snowmen"),
        ("blue fish", "blue fish"),
        ("glasses", "glasses"),
    ],
)
def test_plurals(one, many):
    assert plural(one) == many


@pytest.mark.parametrize(
    ("name", "phrase"),
    [("apple", "an apple"), ("dog", "a dog"), ("glasses", "glasses"), ("happy birthday", "happy birthday")],
)
def test_articles(name, phrase):
    assert article(name) == phrase


def test_a_slip_is_one_letter_and_short_words_are_spared():
    assert misspelt("a cat", random.Random(0)) == "a cat"
    for seed in range(20):
        slipped = misspelt("elephant", random.Random(seed))
        assert abs(len(slipped) - 8) <= 1 and {*slipped} <= {*"elephant"} and slipped.endswith("nt")


def test_a_style_is_said():
    assert all("noto" in styled("a cat", "noto", random.Random(seed)) for seed in range(20))
