"""Loading a model: whole, of this family, from safetensors alone; anything else is one sentence."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.sdxl import write_random_sdxl
from tests.stand_in import COMMIT, Repository, StandIn, files_of
from tests.tiny import build_unet, random_lora
from yoso_core import cached, hub
from yoso_core.cached import LORA_FILE
from yoso_core.checkpoints import ModelError, Source
from yoso_core.loading import load_model
from yoso_core.models import MODELS, find_model, local_model, with_weights
from yoso_core.requests import DEFAULT_MODEL


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy to be broken."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def lose_a_tensor(part, file):
    def harm(folder):
        tensors = load_file(folder / part / file)
        save_file(dict(sorted(tensors.items())[1:]), folder / part / file, {"format": "pt"})

    return harm


def hide_a_pickle(part, file):
    """Weights in a pickle, named by the list of a sharded checkpoint."""

    def harm(folder):
        tensors = load_file(folder / part / file)
        (folder / part / file).unlink()
        torch.save(tensors, folder / part / "shard.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "shard.bin")}
        (folder / part / f"{file}.index.json").write_text(json.dumps(index))

    return harm


def of_another_scheduler(folder):
    from diffusers import FlowMatchEulerDiscreteScheduler

    shutil.rmtree(folder / "scheduler")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    change(folder / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])


def with_a_wider_text_encoder(folder):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    config.hidden_size *= 2
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


UNET, TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lose_a_tensor("unet", UNET), "unet of .* lacks the weights"),
        (lose_a_tensor("vae", UNET), "vae of .* lacks the weights"),
        (lose_a_tensor("text_encoder", TEXT), "text encoder of .* lacks the weights"),
        (hide_a_pickle("unet", UNET), "only safetensors"),
        (hide_a_pickle("text_encoder", TEXT), "only safetensors"),
        (of_another_scheduler, "no betas"),
        (with_a_wider_text_encoder, "reads prompts of width"),
        (lambda folder: change(folder / "unet/config.json", sample_size=-8), "config is broken"),
        (lambda folder: change(folder / "vae/config.json", scaling_factor=None), "scaling factor"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "model"),
        (lambda folder: change(folder / "tokenizer/tokenizer_config.json", model_max_length=4096), "4.1e\\+03"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "not a whole diffusers model"),
    ],
)
def test_what_is_no_whole_model_of_the_family_is_refused_in_a_sentence(folder, harm, reason, monkeypatch):
    harm(folder)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(ModelError, match=reason) as refused:
        load_model(replace(local_model(str(folder)), lora=None))
    assert "\n" not in str(refused.value)


def test_networks_that_want_more_than_a_prompt_are_refused(folder):
    from diffusers import UNet2DConditionModel

    config = {key: value for key, value in build_unet().config.items() if not key.startswith("_")}
    UNet2DConditionModel(**config | {"class_embed_type": "timestep"}).save_pretrained(folder / "unet")
    with pytest.raises(ModelError, match="wants more than a prompt"):
        load_model(replace(local_model(str(folder)), lora=None))


def test_a_latent_of_two_sides_is_as_large_as_the_shorter(folder):
    change(folder / "unet/config.json", sample_size=[16, 8])
    assert local_model(str(folder)).resolution == 64


def test_names_of_models(tiny_model):
    assert find_model(DEFAULT_MODEL) is MODELS[DEFAULT_MODEL]
    assert find_model(str(tiny_model)).source.is_folder
    for name in ("owner/name", "owner/name@main", "nothing", "~nosuchuser/x", "x" * 5000):
        with pytest.raises(ModelError) as refused:
            find_model(name)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    server = StandIn({})
    server.begin(monkeypatch, tmp_path / "cache")
    yield server
    server.end()


def test_a_model_of_a_hub_is_looked_at_before_it_is_called_a_family(stand_in, tiny_model, tmp_path):
    """By its settings alone; what is here whole is known without the hub."""
    xl = write_random_sdxl(tmp_path / "xl", small=True)
    for name, folder in (("some/xl", xl), ("some/sd", tiny_model)):
        stand_in.repositories[name] = Repository(files_of(folder))
    stand_in.repositories["some/flux"] = Repository({"model_index.json": b'{"_class_name": "FluxPipeline"}'})
    stand_in.repositories["some/flux"].files["transformer/model.safetensors"] = b"x"
    stand_in.repositories["some/pictures"] = Repository({"README.md": b"# Pictures", "a.parquet": b"x"})
    found = find_model(f"some/xl@{COMMIT}")
    assert (found.title, found.architecture, found.family, found.resolution) == ("some/xl", "sdxl", "sdxl", 64)
    assert found.source == Source("some/xl", COMMIT) and found.tiny_decoder == MODELS["sdxl"].tiny_decoder
    assert not any(path.endswith("safetensors") for path in stand_in.asked)
    for name, told in {
        "some/flux": "is a FluxPipeline, which is not drawn with here; what is, is a StableDiffusionPipeline, .* or",
        "some/pictures": r"can't be looked at \(it is no model in diffusers' layout",
        "some/nothing": r"can't be looked at \(there is no such repository, or it is private",
    }.items():
        with pytest.raises(ModelError, match=f"^{name} {told}"):
            find_model(f"{name}@{COMMIT}")
    assert find_model(f"some/sd@{COMMIT}").architecture == "stable-diffusion"
    for _ in hub.fetch(cached.Need("It", "some/sd", COMMIT)):
        pass
    stand_in.asked.clear()
    assert find_model(f"some/sd@{COMMIT}").source == Source("some/sd", COMMIT) and not stand_in.asked


def test_weights_of_choice(tiny_model, tmp_path):
    spec = local_model(str(tiny_model))
    save_file(random_lora(build_unet()), tmp_path / LORA_FILE)
    assert with_weights(spec, "own") is spec and with_weights(spec, "none").lora is None
    assert with_weights(spec, str(tmp_path)).lora == with_weights(spec, str(tmp_path / LORA_FILE)).lora
    with pytest.raises(ModelError, match="no LoRA file"):
        with_weights(spec, str(tmp_path / "missing"))
