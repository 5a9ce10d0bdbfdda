"""Captions by a BLIP of random weights, and what is said where there are none; no network is asked."""

import json
import pickle
import re
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

from train.data import captioner
from train.data.captioner import CAPTIONER_HUB, FILES, Captioner, why_not
from yoso_core.checkpoints import ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "red", "blue", "arafed", "cat", "dog", "##s"]


def write_tiny_blip(folder):
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"bos_token_id": 5, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3}
    config = BlipConfig(
        text_config=shared | tokens | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "projection_dim": 16},
        vision_config=shared | {"image_size": 32, "patch_size": 16, "projection_dim": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng():
        model = BlipForConditionalGeneration(config)
        torch.manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():  # as they begin, all pictures look the same
                weight.normal_(0, 10 if "crossattention" in name else 1)
            model.text_decoder.cls.predictions.bias[:6] = -100  # words alone
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No weights here and no hub to be had, until a test says otherwise; returns how often one was asked."""
    asked = []

    def refuse(*arguments, **options):
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(captioner, "CAPTIONER_FOLDER", tmp_path / "captioner")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *arguments, **options: None)
    return asked


@pytest.fixture
def folder(tmp_path):
    return write_tiny_blip(tmp_path / "captioner")


def pictures(*colours):
    return [Image.new("RGB", (40, 20), colour) for colour in colours]


def test_every_picture_gets_a_caption_and_always_the_same(folder):
    assert why_not() is None
    some = pictures("red", "blue", "white", "black", "lime")
    done = []
    one = Captioner("cpu")
    captions = one.describe(some, done.append)
    assert len(captions) == 5 and len(set(captions)) > 2 and done == [4, 5]
    assert all(re.fullmatch("((a|red|blue|cat|dog)?s*( |$))+", caption) for caption in captions)
    assert one.describe(some[3:]) == Captioner("cpu").describe(some)[3:] == captions[3:]
    assert one.describe([]) == []


def test_pictures_are_asked_for_a_few_at_a_time(folder):
    given, done = [], []

    def lazily():
        for picture in pictures(*["red"] * 9):
            given.append(len(given) - len(done) * 4)
            yield picture

    Captioner("cpu").describe(lazily(), done.append)
    assert len(given) == 9 and max(given) < 4


def test_words_that_are_none_are_left_out(folder, monkeypatch):
    one = Captioner("cpu")
    one.describe(pictures("red"))
    processor, _ = one._loaded
    monkeypatch.setattr(processor, "batch_decode", lambda *arguments, **options: ["arafed  cat and araffes on a sofa "])
    assert one.describe(pictures("red")) == ["cat and on a sofa"]


def test_the_weights_are_pinned_and_told_where_they_are_missing(offline):
    assert len(CAPTIONER_HUB.revision) == 40 and int(CAPTIONER_HUB.revision, 16)
    sentence = why_not()
    assert f"hf download {CAPTIONER_HUB.place} config.json" in sentence and "models/captioner" in sentence
    assert f"model.safetensors --revision {CAPTIONER_HUB.revision}" in sentence and sentence.endswith(".")
    assert len(offline) == 1
    with pytest.raises(ModelError) as caught:
        Captioner("cpu").describe(pictures("red"))
    assert str(caught.value) == sentence


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(captioner, "PATIENCE", 0.1)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *arguments, **options: time.sleep(5))
    began = time.monotonic()
    assert "hf download" in why_not() and time.monotonic() - began < 2


def test_weights_come_from_the_hub_where_it_answers(tmp_path, monkeypatch):
    kept, asked = write_tiny_blip(tmp_path / "cache"), []

    def download(place, **options):
        asked.append((place, options))
        return str(kept)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: url)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert why_not() is None and len(Captioner("cpu").describe(pictures("red"))) == 1
    assert asked == [(CAPTIONER_HUB.place, {"revision": CAPTIONER_HUB.revision, "allow_patterns": list(FILES)})]


def test_weights_in_the_cache_need_no_hub(monkeypatch, offline):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *arguments, **options: "/a/file")
    assert why_not() is None and offline == []
    with pytest.raises(ModelError, match=r"could not be fetched \(OSError: no network\): run hf download"):
        Captioner("cpu").describe(pictures("red"))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "weights"])
def test_a_folder_that_is_not_whole_says_what_it_lacks(folder, name, offline):
    for path in folder.iterdir():
        if path.name == name or (name == "tokenizer.json" and path.name == "vocab.txt"):
            path.unlink()
    if name == "weights":
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"x")
    assert ("pickles" if name == "weights" else f"has no {name}") in why_not() and offline == []


class Trap:
    """Unpickled, it tells."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def damage(folder, kind, trap):
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif kind == "pickle":
        weights.write_bytes(pickle.dumps(Trap(trap)))
    elif kind == "index":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        index = {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        weights.rename(folder / "other.safetensors")
    elif kind == "code":
        (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
        name = folder / "preprocessor_config.json"
        changed = json.loads(name.read_text())
        changed |= {"auto_map": {"AutoImageProcessor": "evil.Evil"}, "image_processor_type": "Evil"}
        name.write_text(json.dumps(changed))
    elif kind == "missing":
        config["text_config"]["num_hidden_layers"] = 2
        (folder / "config.json").write_text(json.dumps(config))
    else:
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize("kind", ["cut", "pickle", "index", "code", "missing", "config"])
def test_folders_that_hold_something_else_are_refused_in_a_sentence(folder, tmp_path, kind):
    trap = tmp_path / "trap"
    damage(folder, kind, trap)
    with pytest.raises(ModelError) as caught:
        Captioner("cpu").describe(pictures("red"))
    assert "\n" not in str(caught.value) and not trap.exists()
    if kind == "missing":
        assert "lacks the weights text_decoder.bert.encoder.layer.1" in str(caught.value)
