import pytest

from tests.train.recipes.corpus.tiny_art import Here, write_art
from train.recipes.corpus import art
from train.recipes.corpus.corpus import Corpus


@pytest.fixture(scope="session")
def art_folder(tmp_path_factory):
    """A corpus whose pixels have been read, and are kept there."""
    folder = write_art(tmp_path_factory.mktemp("art"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(art, "process_pool", Here)
        art.read_pixels(art.read_art(folder), folder)
    return folder


@pytest.fixture(scope="session")
def corpus(art_folder):
    return Corpus.load(art_folder, size=64)
