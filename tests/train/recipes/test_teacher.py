"""From packed scenes to a one-step pipeline by the two commands, at toy size."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from train.recipes import one_step, teacher
from train.recipes.packed import PackConfig, pack


def command(monkeypatch, module, **settings):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
    module.main()


@pytest.fixture
def small_unet(monkeypatch, tiny_model):
    layout = UNet2DConditionModel.load_config(tiny_model / "unet")
    monkeypatch.setattr(teacher, "build_unet", lambda: UNet2DConditionModel.from_config(layout))


def test_a_teacher_and_its_one_step_lora_are_made_of_packed_scenes(
    monkeypatch, tmp_path, art_folder, tiny_model, small_unet
):
    model, data = tmp_path / "model", tmp_path / "packed.safetensors"
    for part in ("vae", "tokenizer", "text_encoder"):
        shutil.copytree(tiny_model / part, model / part)
    pack(PackConfig(data=str(art_folder), model=str(model), out=str(data), scenes=12, side=64))
    common = {"model": model, "data": data, "steps": 2, "batch": 2, "warmup": 1}
    previews = {"checkpoint_every": 2, "preview_every": 2}
    command(monkeypatch, teacher, **common, **previews, preview_steps=2, run=tmp_path / "teacher")
    assert StableDiffusionPipeline.from_pretrained(model).scheduler.config.prediction_type == "v_prediction"
    assert list((tmp_path / "teacher").glob("**/*.png"))
    settings = json.loads(Path("train/recipes/yoso.json").read_text())
    (tmp_path / "yoso.json").write_text(json.dumps(settings | {"preview_prompts": ["🐶"]} | previews))
    command(monkeypatch, one_step, config=tmp_path / "yoso.json", **common, rank=2, alpha=2, run=tmp_path / "yoso")
    assert (tmp_path / "yoso" / "output" / "pytorch_lora_weights.safetensors").exists()
