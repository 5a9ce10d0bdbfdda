"""PixArt: what diffusers' own pipeline makes of the same noise; prompts that are encoded once."""

import copy
import os
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import LCMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from benchmarks.pixart import layout, write_random_pixart
from train.runs.assemble import train_yoso
from train.tasks.yoso import YosoConfig
from yoso_core.checkpoints import Source
from yoso_core.engine import Engine
from yoso_core.families import texts
from yoso_core.families.pixart import PixArt
from yoso_core.loading import load_model
from yoso_core.lora.admission import admit
from yoso_core.models import MODELS, local_model, with_weights
from yoso_core.needs import parts_of
from yoso_core.prompts import as_it_is, read_prompt
from yoso_core.requests import EditRequest, GenerateRequest
from yoso_core.sampling import few_step, few_step_timesteps

write_tiny = partial(write_random_pixart, small=True, dtype=torch.float32)
PROMPTS = ["A red cat", "blue dog, hjk"]
NAME = "transformer_blocks.1.attn2.to_k"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOSO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["512", "1024"])
def folder(request, tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("pixart") / "tiny", sized=request.param)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(local_model(str(folder)), dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(folder):
    found = PixArtAlphaPipeline.from_pretrained(folder)
    found.scheduler = LCMScheduler.from_config(found.scheduler.config, prediction_type="v_prediction")
    found.set_progress_bar_config(disable=True)
    return found


def theirs(pipeline, steps, guidance=1.0, prompts=PROMPTS):
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(len(prompts), 4, 6, 10, generator=torch.Generator().manual_seed(3))
    options = {"clean_caption": False, "use_resolution_binning": False, "output_type": "latent"}
    made = pipeline(
        prompts,
        height=48,
        width=80,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=start,
        generator=generator,
        **options,
    )
    return made.images


@torch.inference_mode()
def ours(model, steps, prompts=PROMPTS, rows=slice(None)):
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(len(PROMPTS), 4, 6, 10, generator=torch.Generator().manual_seed(3))
    noises = [torch.randn(start.shape, generator=generator)[rows] for _ in range(steps - 1)]
    condition = model.encode_texts(prompts, (80, 48))
    return few_step(model.denoiser(), model.schedule, start[rows], condition, few_step_timesteps(steps), noises)


def assert_same(found, wanted):
    assert (found - wanted).abs().max() <= 1e-4 * wanted.std()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_batch_is_what_diffusers_makes_of_it(model, pipeline, steps):
    assert_same(ours(model, steps), theirs(pipeline, steps))


def test_alone_and_together_are_the_same(model):
    together = ours(model, 2)
    for row in range(2):
        assert_same(ours(model, 2, PROMPTS[row : row + 1], slice(row, row + 1)), together[row : row + 1])


def test_a_lora_acts_as_in_diffusers(model, pipeline, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.{NAME}.lora_A.weight": torch.randn(4, 48, generator=generator),
        f"transformer.{NAME}.lora_B.weight": torch.randn(48, 4, generator=generator),
    }
    plain = ours(model, 1)
    changed = copy.copy(pipeline)
    changed.transformer = inject_adapter_in_model(
        LoraConfig(r=4, lora_alpha=4, target_modules=[NAME]), copy.deepcopy(pipeline.transformer)
    )
    set_peft_model_state_dict(
        changed.transformer, {key.removeprefix("transformer."): value for key, value in tensors.items()}
    )
    wanted = theirs(changed, 1)
    for spelling in ("", "transformer.", "base_model.model."):  # a file of peft says how strong it is, or 1 is taken
        path = tmp_path / "style.safetensors"
        save_file({key.replace("transformer.", spelling, 1): value for key, value in tensors.items()}, path)
        model.loras.apply([(admit(path, model.loras.for_requests), 1.0)])
        assert_same(ours(model, 1), wanted)
        model.loras.apply([])
    assert torch.equal(ours(model, 1), plain) and (wanted - plain).abs().max() > 0.01


def test_the_network_may_come_from_elsewhere(model, folder, tmp_path):
    """As the published one-step transformers do, that say of no scheduler what they predict."""
    sized = model.network.use_additional_conditions
    PixArtTransformer2DModel(**layout(True, sized)["transformer"]).save_pretrained(tmp_path / "yoso")
    shutil.copytree(folder, tmp_path / "base", ignore=lambda place, names: ["transformer"] * (place == str(folder)))
    spec = replace(local_model(str(folder)), source=Source(str(tmp_path / "base")))
    spec = replace(spec, network=Source(str(tmp_path / "yoso")), scheduler={"prediction_type": "sample"})
    found = load_model(spec, dtype=torch.float32)
    assert found.prediction == "sample" and not torch.equal(found.network.proj_out.bias, model.network.proj_out.bias)
    known = MODELS["pixart512-yoso"]
    assert {need.place for need in parts_of(known)} == {known.source.place, known.network.place, "madebyollin/taesd"}


def test_requests_draw_edit_and_repaint(tmp_path, monkeypatch):
    folder = write_tiny(tmp_path / "tiny")
    engine = Engine({"pixart": local_model(str(folder))}, "cpu", torch.float32, controls={}, translators={})
    both = engine.run(GenerateRequest("a red cat", model="pixart", seed=3, count=2)).pictures
    alone = engine.run(GenerateRequest("a red cat", model="pixart", seed=4)).pictures
    assert both[0].size == (64, 64) and both[1].tobytes() == alone[0].tobytes() != both[0].tobytes()
    guided = engine.run(GenerateRequest("a red cat BREAK (blue:1.3)", model="pixart", steps=2, guidance=2.0))
    assert guided.evaluations == 4 and not guided.cut
    mask = Image.new("L", (64, 48))
    mask.paste(255, (32, 0, 64, 48))
    for given in ({}, {"mask": mask}):
        picture = Image.new("RGB", (64, 48), "white")
        edited = engine.run(EditRequest("a dog", model="pixart", picture=picture, strength=0.7, **given)).pictures[0]
        assert edited.size == (64, 48)
    monkeypatch.setattr(PixArt, "shape", lambda self, model, size: (64, 48))
    other = engine.run(GenerateRequest("a cat", model="pixart", size=64))
    assert other.pictures[0].size == (64, 48) and other.request.size == 64
    assert other.notes == ("drawn at 64 x 48, the nearest shape that tiny was made for",)
    long = engine.run(GenerateRequest("a cat " * 100, model="pixart"))
    assert long.cut.startswith("cat") or long.cut.startswith("a")


def test_a_prompt_is_encoded_once_and_the_encoder_let_go(model, tmp_path, monkeypatch):
    encodings, made = model.parts["encodings"], []
    monkeypatch.setattr(encodings, "folder", tmp_path)
    load, call = encodings.load, encodings.call
    monkeypatch.setattr(encodings, "load", lambda: made.append("loaded") or load())
    monkeypatch.setattr(encodings, "call", lambda *given: made.append("called") or call(*given))
    monkeypatch.setattr(encodings, "encoder", None)
    monkeypatch.setattr(texts, "free_memory", lambda device: 0)

    def encoded(text):
        return model.family.encode(model, as_it_is(text), None).condition

    first = encoded("a heart")
    assert made == ["loaded", "called"] and encodings.encoder is None
    assert torch.equal(encoded("A heart").context, first.context) and len(made) == 2
    assert first.mask.sum() == 3 and (first.context[0, 3:] == 0).all()
    monkeypatch.setattr(texts, "free_memory", lambda device: 1e12)
    encoded("a dog"), encoded("a cat")
    assert made[2:] == ["loaded", "called", "called"]
    (tmp_path / next(iter(tmp_path.iterdir())).name).write_bytes(b"broken")
    monkeypatch.setattr(texts, "ROOM", 1)
    for text in ("a heart", "a dog", "a cat", "a blue heart"):
        assert encoded(text).context.isfinite().all()
    assert len(list(tmp_path.iterdir())) < 4


def test_padding_that_somebody_typed_is_no_padding(model):
    condition = model.family.encode(model, read_prompt(r"\<pad\> a cat"), None).condition
    count = int(condition.mask.sum())
    assert condition.mask[0, :count].all() and (condition.context[0, :count] != 0).any(-1).all()


def test_shapes_are_those_that_it_was_trained_on(model):
    sized = model.parts["transformer"].use_additional_conditions
    assert model.family.shape(model, (80, 48)) == ((1280, 768) if sized else (80, 48))
    assert model.encode_texts(["a cat"], (80, 48)).tensors.keys() == {"context", "mask", *["sizes"] * sized}


def test_features_are_those_of_the_network_s_own_blocks(model):
    network, caught = model.network, []
    hook = network.transformer_blocks[1].register_forward_hook(lambda module, given, output: caught.append(output))
    latent, t = torch.randn(2, 4, 6, 10), torch.tensor([0, 900])
    condition = model.encode_texts(PROMPTS, (80, 48))
    with torch.no_grad():
        model.predict(latent, t, condition)
        hook.remove()
        encoder = model.family.encoder(network)
        features = encoder(latent, t, condition)
    assert features.shape == (2, encoder.features, 3, 5) and torch.equal(features.flatten(2).mT, caught[0])
    assert encoder.features % encoder.groups == 0


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_yoso_trains_it(tmp_path, adapter):
    """What is handed over is drawn with: another picture than before."""
    folder, data = write_tiny(tmp_path / "tiny"), tmp_path / "data"
    data.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(data / f"{colour}.png")
        (data / f"{colour}.txt").write_text(f"a {colour} cat")
    config = YosoConfig(
        model=str(folder), data=str(data), steps=2, batch=2, rank=2, adapter=adapter, learning_rate=1e-2, warmup=1
    )
    assert train_yoso(config, tmp_path / "run")
    out = tmp_path / "run" / "output"
    spec = local_model(str(folder))
    trained = local_model(str(out)) if adapter == "full" else with_weights(spec, str(out))
    engine = Engine({"before": spec, "after": trained}, "cpu", torch.float32, controls={}, translators={})
    before, after = (engine.run(GenerateRequest("a red cat", model=name)).pictures[0] for name in engine.models)
    assert before.tobytes() != after.tobytes() and "PixArtAlphaPipeline" in (out / "README.md").read_text()
    assert os.path.exists(out / "transformer") == (adapter == "full")
