import pytest

from tests.train.recipes.corpus.tiny_art import write_art
from train.recipes.corpus.corpus import Corpus


@pytest.fixture(scope="session")
def art_folder(tmp_path_factory):
    return write_art(tmp_path_factory.mktemp("art"))


@pytest.fixture(scope="session")
def corpus(art_folder):
    return Corpus.load(art_folder, size=64)
