"""Training a ControlNet: its maps, a fresh network that changes nothing yet, and a short run from end to end."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file

from tests.tiny import FAMILY, build_unet
from tests.tiny_control import write_tiny_control
from tests.trained import SHORT, scene
from train.data.lines import maps_of
from train.loop.config import ConfigError
from train.runs.assemble import train_controlnet
from train.tasks.controlnet import ControlConfig, begin_controlnet, build_controlnet, make_variants
from yoso_core.autoencoder import encode, to_tensor
from yoso_core.condition import Condition
from yoso_core.conditioning import Guide, find_control, load_control, map_tensor
from yoso_core.engine import Engine
from yoso_core.loading import load_model
from yoso_core.requests import ControlUse, GenerateRequest


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, colour in enumerate(("red", "green", "blue", "orange", "black", "purple")):
        scene(colour, offset=index).save(folder / f"{colour}_ball.png")
    return folder


def config_for(model, data, **values):
    return ControlConfig(**SHORT | {"steps": 2, "model": str(model), "data": str(data)} | values)


def test_variants_are_encoded_with_their_own_maps(tiny_spec):
    autoencoder = load_model(tiny_spec).autoencoder
    given = [scene("red"), scene("blue", offset=12)]
    stack = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2)
    variants = make_variants(stack, 3, autoencoder, seed=0)
    assert variants.latents.shape == (3, 2, 8, 8, 8) and variants.maps.shape == (3, 2, 3, 64, 64)
    for index, picture in enumerate(given):  # the first is the picture as it is
        assert np.array_equal(variants.maps[0, index].numpy(), maps_of(np.asarray(picture)))
        torch.testing.assert_close(variants.latents[0, index], encode(autoencoder, to_tensor(picture))[0])
    assert len({one.numpy().tobytes() for one in variants.maps[:, 0, 0]}) == 3
    again, other = (make_variants(stack, 3, autoencoder, seed) for seed in (0, 1))
    assert torch.equal(again.maps, variants.maps) and not torch.equal(other.maps[1:], variants.maps[1:])
    assert torch.equal(make_variants(stack, 2, autoencoder, 0).maps, variants.maps[:2])


@pytest.mark.parametrize("whole_encoder", [True, False])
def test_a_fresh_controlnet_adds_nothing_yet(whole_encoder):
    unet = build_unet().eval()
    network = build_controlnet(unet, whole_encoder).eval()
    noisy, t, context = torch.randn(2, 8, 8, 8), torch.tensor([999, 10]), torch.randn(2, 32, 32)
    guide = Guide(partial(FAMILY.follow, network), map_tensor(scene()), 999)
    with torch.no_grad():
        *added, middle = guide(noisy, t, Condition(context))
        plain = unet(noisy, t, context).sample
        given = {"down_block_additional_residuals": added, "mid_block_additional_residual": middle}
        assert torch.equal(unet(noisy, t, context, **given).sample, plain)
    own, kept = unet.state_dict(), network.state_dict()
    assert torch.equal(own["conv_in.weight"], kept["conv_in.weight"])
    assert torch.equal(own["down_blocks.1.resnets.0.conv1.weight"], kept["down_blocks.1.resnets.0.conv1.weight"])
    assert any("attentions" in key for key in kept) == whole_encoder


def test_the_lean_one_is_smaller():
    sizes = [sum(value.numel() for value in build_controlnet(build_unet(), whole).parameters()) for whole in (0, 1)]
    assert sizes[0] < 0.8 * sizes[1]


@pytest.fixture(scope="module", params=[True, False], ids=["whole encoder", "lean"])
def run_folder(request, tmp_path_factory, tiny_model, pictures):
    folder = tmp_path_factory.mktemp("run")
    config = config_for(tiny_model, pictures, whole_encoder=request.param, variants=2, learning_rate=1e-2)
    train_controlnet(replace(config, preview_every=2), folder)
    return folder


def test_what_a_run_hands_over_loads_in_diffusers(run_folder):
    out = run_folder / "output"
    network = ControlNetModel.from_pretrained(out)
    stored = load_file(out / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert stored.keys() == network.state_dict().keys()
    assert all(value.isfinite().all() for value in stored.values())
    assert stored["controlnet_mid_block.weight"].any()  # it was zero, and has learned
    assert (out / "preview-last.png").exists() and json.loads((out / "yoso_config.json").read_text())["variants"] == 2
    card = (out / "README.md").read_text()
    assert "StableDiffusionControlNetPipeline" in card and str(run_folder) not in card


def test_what_a_run_hands_over_guides_the_engine(run_folder, tiny_spec):
    spec = find_control(str(run_folder / "output"), tiny_spec.family)
    model = load_model(tiny_spec)
    assert load_control(spec, model).dtype == model.network.dtype
    engine = Engine({"tiny": tiny_spec}, device="cpu", controls={"mine": spec})
    request = GenerateRequest("a ball", model="tiny", control=ControlUse(picture=scene(), strength=2.0))
    guided, free = engine.run(request), engine.run(replace(request, control=None))
    assert guided.pictures[0].tobytes() != free.pictures[0].tobytes()


def test_a_finished_run_leaves_the_base_model_alone(run_folder, tiny_model):
    """Nothing but the ControlNet is handed over."""
    names = {path.name for path in (run_folder / "output").iterdir()}
    assert not {"unet", "vae", "model_index.json", "pytorch_lora_weights.safetensors"} & names


def test_a_run_goes_on_from_a_controlnet_that_was_trained(run_folder, tiny_model, pictures, tmp_path):
    before = load_file(run_folder / "output" / "diffusion_pytorch_model.safetensors")
    config = config_for(tiny_model, pictures, start_from=str(run_folder / "output"), learning_rate=1e-6)
    train_controlnet(config, tmp_path)
    after = load_file(tmp_path / "output" / "diffusion_pytorch_model.safetensors")
    assert after.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"adapter": "lora"}, "trained in full"),
        ({"empty_maps": 1.5}, "empty_maps"),
        ({"drop_caption": -0.1}, "drop_caption"),
        ({"last_timestep_share": float("nan")}, "last_timestep_share"),
        ({"weight_cap": -1.0}, "weight_cap"),
        ({"weight_floor": -1.0}, "weight_floor"),
        ({"variants": 0}, "variants"),
        ({"adversarial_weight": -0.1}, "adversarial_weight"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(values, named):
    with pytest.raises(ConfigError, match=named):
        ControlConfig(**values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"data": ""}, "name the training data"),
        ({"data": "", "captions": "captions.txt"}, "name the training data"),
        ({"data": "nowhere"}, "no folder nowhere"),
        ({"model": "nobody/nothing"}, "40 hex digits"),
        ({"start_from": "nowhere"}, "holds no ControlNet"),
    ],
    ids=str,
)
def test_a_run_that_can_not_begin_is_one_sentence(tmp_path, tiny_model, pictures, values, named):
    with pytest.raises(ConfigError, match=named) as caught:
        train_controlnet(replace(config_for(tiny_model, pictures), **values), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_goes_on_from_a_controlnet_of_its_own_family_alone(tmp_path):
    unet = build_unet()
    write_tiny_control(tmp_path / "own", seed=4)
    begun = begin_controlnet(unet, ControlConfig(start_from=str(tmp_path / "own"))).state_dict()
    stored = load_file(tmp_path / "own" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(begun[key], value) for key, value in stored.items())
    other = UNet2DConditionModel.from_config(dict(unet.config) | {"block_out_channels": (16, 32)})
    build_controlnet(other, whole_encoder=False).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="for another model: its block_out_channels"):
        begin_controlnet(unet, ControlConfig(start_from=str(tmp_path / "other")))
