"""Smaller weights mean what the large ones did."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_translate import write_translator
from train.recipes.shrink import Change, shrink_translator
from yoso_core.loading import load_model
from yoso_core.translate import load_translator


@pytest.fixture(scope="module")
def model(tiny_spec):
    return load_model(tiny_spec)


def changes(loaded, direction):
    return {place: change.rows(torch.empty(0)) for place, change in loaded.loras[direction].items()}


def test_all_of_a_low_rank_is_the_same_product():
    torch.manual_seed(0)
    down, up = torch.randn(4, 8, 3, 3), torch.randn(16, 4, 1, 1)
    new_down, new_up = Change(down, up).low_rank(4)
    assert torch.allclose(up.flatten(1) @ down.flatten(1), new_up.flatten(1) @ new_down.flatten(1), atol=1e-4)


def test_a_translator_in_8_bits_is_nearly_the_same(tmp_path, model):
    whole = load_translator(write_translator(tmp_path / "large", model), model)
    assert shrink_translator(tmp_path / "large", tmp_path / "small", 1.0) == pytest.approx(
        {"a2b.safetensors": 1.0, "unet.safetensors": 1.0}
    )
    small = load_translator(whole.spec.__class__(**vars(whole.spec) | {"folder": tmp_path / "small"}), model)
    before, after = changes(whole, "a2b"), changes(small, "a2b")
    assert before.keys() == after.keys()
    for place, change in before.items():
        assert (after[place] - change).norm() < 0.06 * change.norm(), place
    assert torch.equal(small.first.weight, whole.first.weight)
    assert [path.name for path in sorted((tmp_path / "small").iterdir())] == [
        "a2b.safetensors",
        "config.json",
        "unet.safetensors",
    ]


def test_a_part_keeps_what_says_most(tmp_path, model):
    write_translator(tmp_path / "large", model)
    kept = shrink_translator(tmp_path / "large", tmp_path / "small", 0.5)
    assert all(0.5 < share < 1 for share in kept.values())  # chance would keep half
    large, small = (load_file(tmp_path / name / "unet.safetensors") for name in ("large", "small"))

    def numbers(tensors):
        return sum(value.numel() for key, value in tensors.items() if ".lora_" in key)

    assert 0.4 * numbers(large) < numbers(small) <= 0.5 * numbers(large)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["family"] == model.spec.family
