"""Packed scenes: what comes out is what went in."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from train.loop.config import ConfigError
from train.loop.randomness import Draws
from train.recipes import packed
from train.recipes.corpus.scenes import describe
from train.recipes.packed import PackConfig, PackedScenes, load_frozen, pack
from yoso_core.autoencoder import encode
from yoso_core.families.unet import clip_texts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory, art_folder, tiny_model):
    out = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    pack(PackConfig(data=str(art_folder), model=str(tiny_model), out=str(out), scenes=12, batch=5))
    return out


@pytest.fixture
def data(file, tiny_model):
    return PackedScenes.load(file, tiny_model, CPU)


def draws(batch, step=0):
    return Draws(seed=0, step=step, batch=batch, rows=slice(None))


def test_latents_are_those_of_the_scenes(art_folder, data, tiny_model):
    from train.recipes.corpus.corpus import Corpus

    corpus = Corpus.load(art_folder)
    scenes = describe(corpus.describer, 12, PackConfig().seed)
    autoencoder, _, _ = load_frozen(tiny_model, CPU)
    wanted = encode(autoencoder, corpus.painter(scenes))
    assert data.latents.shape == wanted.shape and data.shape == tuple(wanted.shape[1:])
    assert (data.latents.float() - wanted).abs().mean() < 0.02 * wanted.std()  # bfloat16


def test_contexts_are_those_of_the_captions_and_dropped_ones_of_none(art_folder, data, tiny_model):
    from train.recipes.corpus.corpus import Corpus

    captions = describe(Corpus.load(art_folder).describer, 12, PackConfig().seed).captions
    _, tokenizer, text_encoder = load_frozen(tiny_model, CPU)
    _, condition = data.batch(torch.tensor([3, 7]), 0.0, draws(2))
    assert torch.allclose(condition.context, clip_texts([captions[3], captions[7]], tokenizer, text_encoder), atol=1e-5)
    _, dropped = data.batch(torch.tensor([3, 7]), 1.0, draws(2))
    assert torch.allclose(dropped.context, data.empty.expand(2).context, atol=1e-5)


def test_moments_and_fingerprint(file, data):
    mean, deviation = data.moments()
    assert mean.shape == deviation.shape == data.shape[:1] and len(data) == 12
    with safe_open(file, "pt") as opened:
        assert data.fingerprint() == opened.metadata()["digest"]


def test_minutes_end_it_early_with_what_there_is(tmp_path, art_folder, tiny_model, monkeypatch):
    clock = iter([0.0, 0.0, 0.0, 100.0, 100.0, 100.0])
    monkeypatch.setattr(packed.time, "monotonic", lambda: next(clock))
    out = tmp_path / "packed.safetensors"
    pack(PackConfig(data=str(art_folder), model=str(tiny_model), out=str(out), scenes=12, batch=3, minutes=1))
    assert len(PackedScenes.load(out, tiny_model, CPU)) == 6


def test_a_missing_file_is_one_sentence(tiny_model):
    with pytest.raises(ConfigError, match=r"train\.recipes\.packed writes it"):
        PackedScenes.load(Path("nowhere.safetensors"), tiny_model, CPU)
