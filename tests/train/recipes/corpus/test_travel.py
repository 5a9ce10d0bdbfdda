"""The corpus on its way to another machine."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from train.recipes.corpus.art import MEANINGS, STYLES, read_art, read_pixels
from train.recipes.corpus.travel import all_directions, few_directions, pack, unpack


@pytest.fixture
def meanings():
    torch.manual_seed(0)
    flat = torch.randn(300, 20) @ torch.randn(20, 384)  # what differs, differs in few directions
    return torch.nn.functional.normalize(flat, dim=-1)


def test_what_arrives_is_what_left(tmp_path, art_folder, meanings):
    save_file({"embeddings": meanings.half()}, art_folder / MEANINGS, metadata={"digest": "these"})
    (art_folder / "common-9.txt").write_text("cat\ndog\n")
    try:
        assert pack(art_folder, tmp_path / "corpus.tar.gz") > 1000
    finally:
        (art_folder / MEANINGS).unlink()
    there = tmp_path / "there"
    unpack(tmp_path / "corpus.tar.gz", there)
    art = read_art(there)
    assert art == read_art(art_folder) and (there / "common-9.txt").read_text() == "cat\ndog\n"
    before, after = (read_pixels(art, folder).float() for folder in (art_folder, there))
    lossy = torch.tensor([one.style in ("3d", "glossy") for one in art])
    assert torch.equal(before[~lossy], after[~lossy]) and STYLES[0] == "3d" and lossy.any()
    shown = before[lossy][:, 3:] / 255  # what is transparent has no colour
    assert ((before - after)[lossy][:, :3] * shown).abs().mean() < 3
    arrived = load_file(there / MEANINGS)["embeddings"].float()
    assert torch.cosine_similarity(arrived, meanings).min() > 0.99
    assert not (there / f"small-{MEANINGS}").exists()


def test_few_directions_are_small_and_nearly_the_same(meanings):
    small = few_directions(meanings)
    assert small["places"].dtype == torch.int8
    assert torch.cosine_similarity(all_directions(small), meanings).min() > 0.99
