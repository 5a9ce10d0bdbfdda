"""What phrases mean: told first, then kinds, then what is near; nobody and nothing else."""

from collections import namedtuple

import pytest

from tests.train.recipes.corpus.tiny_words import embed_letters, write_wordnet
from train.recipes.corpus.lexicon import KIND, NEAR, TAG, TOLD, Lexicon, make_lexicon, told
from train.recipes.corpus.nearby import NEARBY
from train.recipes.corpus.wordnet import Nouns
from yoso_core.models import MODELS_FOLDER
from yoso_core.words import read_words

Art = namedtuple("Art", "label tags")
ART = [
    Art("dog", ("bark", "dog")),
    Art("hot dog", ("snack",)),
    Art("pizza", ("snack", "zzap")),
    Art("t-shirt", ("man",)),
]


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory):
    nouns = Nouns.read(write_wordnet(tmp_path_factory.mktemp("wordnet") / "wordnet.tgz"))
    return make_lexicon(ART, ["corgi", "pizza pie", "dogs", "god", "villain", "man"], nouns, embed_letters)


def test_what_is_told_is_certain(lexicon):
    assert lexicon.meaning["dog"] == "dog" and lexicon.weight["dog"] == TOLD
    assert lexicon.meaning["golden retriever"] == "dog" and lexicon.meaning["slice of pizza"] == "pizza"


def test_a_tag_means_the_label_that_it_is_most_like(lexicon):
    assert lexicon.meaning["bark"] == "dog" and lexicon.weight["bark"] == TAG
    assert lexicon.meaning["snack"] in ("hot dog", "pizza")


def test_a_noun_means_what_it_is_a_kind_of(lexicon):
    assert lexicon.meaning["pizza pie"] == "pizza" and lexicon.weight["pizza pie"] == KIND


def test_what_is_near_means_something_and_what_is_not_nothing(lexicon):
    assert lexicon.meaning["god"] == "dog" and lexicon.weight["god"] == NEAR  # to somebody who knows letters alone
    assert "villain" not in lexicon.meaning


def test_nobody_is_a_shirt(lexicon):
    assert "man" not in lexicon.meaning


def test_many_of_a_noun_are_said_less_often(lexicon):
    assert lexicon.meaning["hot dogs"] == "hot dog" and lexicon.weight["hot dogs"] < TOLD


def test_the_first_meaning_stays():
    lexicon = Lexicon()
    lexicon.add("horn", "trumpet", TOLD)
    lexicon.add("horn", "postal horn", TOLD)
    assert lexicon.of("trumpet") == (["horn"], [TOLD]) and "horn" not in lexicon.of("trumpet")[0][1:]


def test_a_name_is_told_of_labels_that_there_are_alone():
    assert set(told([Art("pizza", ())]).meaning.values()) == {"pizza"}


def test_near_things_are_near_something_that_the_bundled_model_draws():
    assert not set(NEARBY) - {*read_words(MODELS_FOLDER / "yoso-emoji").names}
