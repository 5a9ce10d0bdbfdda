"""SANA-Sprint against diffusers' own pipelines on a tiny random model: prompts, steps, batches, LoRAs, edits."""

import dataclasses
import json
import shutil

import pytest
import torch
from diffusers import SanaSprintImg2ImgPipeline, SanaSprintPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_1024_BIN
from PIL import Image
from safetensors.torch import save_file

from benchmarks.sana import write_random_sana
from yoso_core.autoencoder import encode, to_tensor
from yoso_core.checkpoints import ModelError
from yoso_core.condition import cat
from yoso_core.engine import Engine
from yoso_core.families import sana
from yoso_core.families.shapes import MEGAPIXEL
from yoso_core.loading import load_model
from yoso_core.lora.admission import admit
from yoso_core.models import local_model
from yoso_core.prompts import as_it_is
from yoso_core.requests import EditRequest, GenerateRequest, RequestError
from yoso_core.sampling import KNOWN, sdedit_start

PROMPTS = ["A red heart in Paris, é", "a grinning cat"]
GUIDANCE = 3.5
WIDTH, HEIGHT = 192, 128  # pixels
SCM = KNOWN["scm"]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOSO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sana(tmp_path_factory.mktemp("sana") / "tiny", "tiny", torch.float32)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(local_model(str(folder)), dtype=torch.float32)


@pytest.fixture
def pipeline(folder):
    pipeline = SanaSprintPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def theirs(pipeline, prompts, steps, seeds, **options):
    return pipeline(
        prompts,
        num_inference_steps=steps,
        intermediate_timesteps=1.3 if steps == 2 else None,
        guidance_scale=GUIDANCE,
        height=HEIGHT,
        width=WIDTH,
        use_resolution_binning=False,
        generator=generators(seeds),
        output_type="latent",
        **options,
    ).images


def drawn_noises(seeds, count):
    one = (1, 8, HEIGHT // 32, WIDTH // 32)
    drawn = generators(seeds)
    return [torch.cat([torch.randn(one, generator=each) for each in drawn]) for _ in range(count)]


def condition_of(model, prompts):
    return model.family.told(model.encode_texts(prompts), GUIDANCE)


@torch.inference_mode()
def ours(model, prompts, steps, seeds):
    noises = drawn_noises(seeds, SCM.noises(steps))
    timesteps = SCM.timesteps(steps, model.schedule.last, len(model.schedule))
    condition = condition_of(model, prompts)
    return SCM.sample(model.denoiser(SCM.consistent), model.schedule, noises[0], condition, timesteps, noises[1:])


def assert_same(found, wanted):
    assert (found - wanted).abs().max() <= 1e-4 * wanted.std()


@torch.inference_mode()
def test_prompts_are_read_behind_the_instruction(model, pipeline):
    for prompt in (PROMPTS[0], "", "word " * 80):
        wanted, mask = pipeline.encode_prompt(prompt, complex_human_instruction=sana.instruction().split("\n"))
        encoded = model.family.encode(model, as_it_is(prompt), None)
        assert torch.equal(encoded.condition.mask, mask.bool())
        found, wanted = (each[mask.bool()] for each in (encoded.condition.context, wanted))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    room = len(pipeline.tokenizer(sana.instruction()).input_ids) + 300 - 2
    whole = pipeline.tokenizer(sana.instruction() + ("word " * 80).strip()).input_ids
    assert encoded.cut == pipeline.tokenizer.decode(whole[room:]).strip() and encoded.cut.endswith("word word")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_batch_is_what_diffusers_makes_of_it_and_so_is_each_alone(model, pipeline, steps):
    wanted = theirs(pipeline, PROMPTS, steps, [3, 4])
    together = ours(model, PROMPTS, steps, [3, 4])
    assert_same(together, wanted)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, [3, 4], strict=True)):
        assert_same(ours(model, [prompt], steps, [seed]), together[row : row + 1])


@torch.inference_mode()
def test_edits_begin_where_diffusers_begins_them(folder, model, pipeline):
    """Of its strength only what is left of the steps counts there: half of two steps is the second of them."""
    edits = SanaSprintImg2ImgPipeline(**pipeline.components)
    edits.set_progress_bar_config(disable=True)
    picture = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
    latent = encode(model.autoencoder, to_tensor(picture))
    for steps, strength, timesteps in ((2, 0.5, [12999]), (4, 0.5, [7853, 3926])):
        (wanted,) = theirs(edits, PROMPTS[:1], steps, [5], image=picture, strength=strength)
        noises = drawn_noises([5], len(timesteps))
        begin = sdedit_start(model.schedule, latent, noises[0], timesteps[0])
        condition = condition_of(model, PROMPTS[:1])
        found = SCM.sample(model.denoiser(False), model.schedule, begin, condition, timesteps, noises[1:])
        assert_same(found[0], wanted)


def test_a_lora_acts_as_in_diffusers(folder, model, pipeline, tmp_path):
    generator, lora = torch.Generator().manual_seed(1), {}
    for name, layer in pipeline.transformer.named_modules():
        if name.endswith(("attn1.to_q", "attn2.to_v", "attn2.to_out.0")):
            for half, shape in (("lora_A", (2, layer.in_features)), ("lora_B", (layer.out_features, 2))):
                lora[f"transformer.{name}.{half}.weight"] = 0.2 * torch.randn(shape, generator=generator)
    save_file(lora, tmp_path / "lora.safetensors")
    plain = ours(model, PROMPTS, 2, [3, 4])
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    admitted = admit(tmp_path / "lora.safetensors", model.loras.for_requests)
    model.loras.apply([(admitted, 1.0)])
    try:
        changed = ours(model, PROMPTS, 2, [3, 4])
    finally:
        model.loras.apply([])
    assert_same(changed, theirs(pipeline, PROMPTS, 2, [3, 4]))
    assert (changed - plain).abs().max() > 0.01 * plain.std()
    assert torch.equal(ours(model, PROMPTS, 2, [3, 4]), plain)


def test_shapes_are_those_that_diffusers_draws(model, pipeline, monkeypatch):
    assert model.family.shape(model, (96, 160)) == (96, 160)
    monkeypatch.setattr(sana, "SHAPES", {model.network.config.sample_size: MEGAPIXEL})
    for width, height in ((1024, 1024), (992, 1024), (512, 512), (1440, 736), (576, 1280)):
        high, wide = pipeline.image_processor.classify_height_width_bin(height, width, ASPECT_RATIO_1024_BIN)
        assert model.family.shape(model, (width, height)) == (wide, high)


def test_conditions_are_batches(model):
    one, other = (condition_of(model, [prompt]) for prompt in PROMPTS)
    assert all(
        torch.equal(value, cat([one, other]).tensors[name])
        for name, value in condition_of(model, PROMPTS).tensors.items()
    )


@pytest.fixture(scope="module")
def engine(folder):
    spec = dataclasses.replace(local_model(str(folder)), title="Sprint", dtype="float32", sizes=(128,), resolution=128)
    return Engine({"sprint": spec}, device="cpu")


def test_the_engine_draws_and_edits_with_it(engine):
    request = GenerateRequest("a (red:1.3) heart", model="sprint", seed=3, count=2)
    result = engine.run(request)
    assert result.evaluations == 1 and [picture.size for picture in result.pictures] == [(128, 128)] * 2
    assert (result.request.sampler, result.request.guidance) == ("scm", 4.5)
    assert "Sprint reads all words alike: weights and BREAK were left out." in result.notes
    other = engine.run(dataclasses.replace(request, guidance=1.5))
    assert other.evaluations == 1 and other.pictures[0].tobytes() != result.pictures[0].tobytes()
    wide = engine.run(GenerateRequest("a heart", model="sprint", size=(160, 96), steps=4))
    assert wide.pictures[0].size == (160, 96) and wide.evaluations == 4
    edited = engine.run(EditRequest("a heart", model="sprint", picture=result.pictures[0], strength=0.5))
    assert edited.pictures[0].size == (128, 128)
    with pytest.raises(RequestError, match="Sprint is drawn with SCM, not with DDIM"):
        engine.run(GenerateRequest("a heart", model="sprint", sampler="ddim", steps=2))
    with pytest.raises(RequestError, match="steps of 32"):
        engine.run(GenerateRequest("a heart", model="sprint", size=(120, 64)))


def test_other_models_of_the_family_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "transformer" / "config.json").read_text())
    (tmp_path / "odd" / "transformer" / "config.json").write_text(json.dumps(config | {"guidance_embeds": False}))
    with pytest.raises(ModelError, match="no SANA-Sprint"):
        load_model(local_model(str(tmp_path / "odd")))
    shutil.rmtree(tmp_path / "odd" / "text_encoder")
    with pytest.raises(ModelError):
        load_model(local_model(str(tmp_path / "odd")))
