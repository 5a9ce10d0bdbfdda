"""WordNet's files: senses in order, what is above them, and what can be drawn."""

import pytest

from tests.train.recipes.corpus.tiny_words import write_wordnet
from train.recipes.corpus.wordnet import STEPS, Nouns


@pytest.fixture(scope="module")
def nouns(tmp_path_factory):
    return Nouns.read(write_wordnet(tmp_path_factory.mktemp("wordnet") / "wordnet.tgz"))


def test_a_noun_has_its_senses_the_commonest_first(nouns):
    assert nouns.of["dog"] == ("00000300", "00000600") and nouns.of["hot dog"] == ("00000600",)
    assert nouns.senses["00000300"].gloss == "a dog"


def test_above_a_sense_is_what_it_is_a_kind_of_the_nearest_first(nouns):
    assert list(nouns.above("00000400")) == [(0, "00000400"), (1, "00000300"), (2, "00000200"), (3, "00000100")]
    assert max(step for step, _ in nouns.above("00000400")) <= STEPS


def test_people_are_no_things(nouns):
    assert nouns.things("villain") == [] and nouns.things("nothing at all") == []
    assert nouns.things("dog", most=1) == ["00000300"]
