"""Edits, control and the teacher's sampler in the engine: what changes a picture, what must not, and what it costs."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.tiny_control import write_tiny_control
from yoso_core.autoencoder import decode, encode, to_pil, to_tensor
from yoso_core.checkpoints import ModelError
from yoso_core.conditioning import find_control
from yoso_core.denoiser import Denoiser
from yoso_core.engine import Engine
from yoso_core.offers import USUAL
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
)
from yoso_core.sampling import (
    ddim,
    ddim_timesteps,
    dpm_solver,
    dpm_solver_timesteps,
    edit_timesteps,
    few_step,
    sdedit_start,
    strength_timestep,
)


def scene(seed=0, size=(64, 64)):
    """A coloured disc on white, another one for each seed."""
    numbers = np.random.default_rng(seed)
    picture = Image.new("RGB", size, "white")
    left, top = (int(numbers.integers(4, side // 2 - 1)) for side in size)
    box = (left, top, left + size[0] // 3, top + size[1] // 3)
    ImageDraw.Draw(picture).ellipse(box, fill=tuple(numbers.integers(0, 200, 3).tolist()))
    return picture


def left_half(size=(64, 64)):
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def edit(**options):
    return EditRequest(**({"prompt": "a red heart", "picture": scene(), "seed": 7} | options))


def pixels(result):
    return [np.asarray(picture) for picture in result.pictures]


def same(a, b):
    return all(np.array_equal(one, other) for one, other in zip(pixels(a), pixels(b), strict=True))


@pytest.fixture(scope="module")
def controls(tmp_path_factory, tiny_spec):
    """Two for the tiny model, one whose weights are gone, and one for another model."""
    folder = tmp_path_factory.mktemp("controls")
    for seed, name in enumerate(("first", "second", "gone")):
        write_tiny_control(folder / name, seed)
    (folder / "gone" / "diffusion_pytorch_model.safetensors").unlink()
    known = {name: find_control(str(folder / name), tiny_spec.family) for name in ("first", "second", "gone")}
    return known | {"other": replace(known["first"], family="sd15")}


@pytest.fixture(scope="module")
def shared(tiny_spec, controls):
    """One engine for the tests that leave nothing behind in it, which some of them show."""
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", controls=controls)


@pytest.fixture
def fresh(tiny_spec, controls):
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", controls=controls)


def test_no_strength_is_the_way_through_the_autoencoder(shared):
    result = shared.run(edit(strength=0.0))
    assert result.evaluations == 0
    model = shared.load(DEFAULT_MODEL)
    with torch.inference_mode():
        given = to_tensor(scene()).contiguous(memory_format=torch.channels_last)
        (through,) = to_pil(decode(model.decoder, encode(model.autoencoder, given)))
    assert np.array_equal(pixels(result)[0], np.asarray(through))
    other = shared.run(edit(strength=0.0, prompt="a green dog", seed=8, steps=2, guidance=3.0))
    assert same(result, other) and other.evaluations == 0


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_full_strength_is_generation(shared, steps, guidance):
    options = {"steps": steps, "guidance": guidance, "seed": 7, "count": 2}
    generated = shared.run(GenerateRequest("a red heart", **options))
    edited = shared.run(edit(strength=1.0, **options))
    assert same(generated, edited)
    assert edited.evaluations == generated.evaluations == steps * (2 if guidance > 1 else 1)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("strength", [0.2, 0.6])
def test_an_edit_is_what_the_samplers_say(shared, strength, steps):
    result = shared.run(edit(strength=strength, steps=steps))
    model = shared.load(DEFAULT_MODEL)
    generator = torch.Generator().manual_seed(7)
    noises = [
        torch.randn(1, 8, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last) for _ in range(steps)
    ]
    with torch.inference_mode():
        given = to_tensor(scene()).contiguous(memory_format=torch.channels_last)
        t = strength_timestep(model.schedule, strength)
        start = sdedit_start(model.schedule, encode(model.autoencoder, given), noises[0], t)
        denoise = model.denoiser()
        context = model.encode_texts(["a red heart"])
        clean = few_step(denoise, model.schedule, start, context, edit_timesteps(steps, t), noises[1:])
        (picture,) = to_pil(decode(model.decoder, clean))
    assert np.array_equal(pixels(result)[0], np.asarray(picture)) and result.evaluations == steps


def test_more_strength_goes_further_from_the_picture():
    """The bundled model, because only one that was trained comes back from a little noise."""
    engine = Engine(device="cpu")
    given = engine.run(GenerateRequest("red heart, 3d", seed=1)).pictures[0]

    def distance(strength):
        options = {"picture": given, "strength": strength, "count": 6}
        made = engine.run(EditRequest("evergreen tree, flat", **options)).pictures
        return np.mean([np.abs(np.asarray(one, float) - np.asarray(given, float)).mean() for one in made])

    found = [distance(index / 5) for index in range(6)]
    assert found == sorted(found) and found[0] < 3
    steps = np.diff(found)
    assert steps.max() < 0.5 * (found[-1] - found[0])  # no strength at which all of it happens


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("strength", [0.1, 0.6, 1.0])
def test_evaluations_are_counted_as_the_network_is_called(shared, monkeypatch, strength, steps, guidance):
    unet, calls = shared.load(DEFAULT_MODEL).network, []
    forward = type(unet).forward
    monkeypatch.setattr(
        type(unet),
        "forward",
        lambda self, noisy, *args, **options: calls.append(len(noisy)) or forward(self, noisy, *args, **options),
    )
    result = shared.run(edit(strength=strength, steps=steps, guidance=guidance))
    assert sum(calls) == result.evaluations == steps * (2 if guidance > 1 else 1)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_what_is_masked_out_keeps_its_very_pixels(shared, strength, steps):
    result = shared.run(edit(strength=strength, steps=steps, mask=left_half(), feather=0.1))
    before, after = np.asarray(scene()), pixels(result)[0]
    reach = 32 + round(64 * 0.1) + 1
    assert np.array_equal(after[:, reach:], before[:, reach:])
    assert (after[:, :32] != before[:, :32]).mean() > 0.5


def test_an_empty_mask_changes_nothing(shared):
    result = shared.run(edit(strength=1.0, mask=Image.new("L", (64, 64)), feather=0.2))
    assert np.array_equal(pixels(result)[0], np.asarray(scene()))


def test_growing_keeps_the_picture_and_paints_around_it(shared):
    result = shared.run(edit(strength=1.0, grow=0.5, feather=0.0))
    assert result.pictures[0].size == (64, 64)
    small = np.asarray(scene().resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(pixels(result)[0][16:48, 16:48], small)
    assert any("32 of 64" in note for note in result.notes)
    assert np.array_equal(np.asarray(result.before)[16:48, 16:48], small)


def test_a_picture_of_another_shape_says_what_was_done_to_it(shared):
    wide = {"picture": scene(size=(90, 60)), "mask": left_half((90, 60))}
    kept = shared.run(edit(**wide))
    assert kept.notes == () and kept.before.size == kept.pictures[0].size == (72, 48)
    result = shared.run(edit(**wide, fit="crop"))
    assert result.notes == ("90 x 60: cropped to its middle",)
    assert result.before.size == result.pictures[0].size == (64, 64)


def test_from_words_alone_a_model_draws_the_shapes_that_it_can(shared):
    assert shared.run(GenerateRequest("a", size=(96, 64))).pictures[0].size == (96, 64)
    with pytest.raises(RequestError, match="up to 2 times as long as short"):
        shared.run(GenerateRequest("a", size=(144, 64)))
    with pytest.raises(RequestError, match="in steps of 8"):
        shared.run(GenerateRequest("a", size=(512, 512)))


def test_an_edit_at_another_size(shared):
    assert shared.run(edit(size=96)).pictures[0].size == (96, 96)


def test_pictures_of_equal_size_are_not_taken_for_one_another(shared, fresh):
    """Every edit as if it were the first: with other pictures, masks, feathers and fits in between."""
    requests = [edit(picture=scene(seed), strength=0.4) for seed in range(12)]
    requests += [edit(strength=0.4, mask=left_half(), feather=feather) for feather in (0.0, 0.2)]
    requests += [edit(strength=0.4, mask=left_half().rotate(angle)) for angle in (90, 180)]
    wide = scene(size=(96, 48))
    requests += [edit(strength=0.4, picture=wide, fit=fit) for fit in ("crop", "fit", "pad")]
    requests += [edit(strength=0.4, grow=grow) for grow in (0.25, 0.5)]
    first = [fresh.run(request) for request in requests]
    assert len({one.pictures[0].tobytes() for one in first}) == len(requests)
    for request, expected in [*zip(requests, first, strict=True)][::-1]:
        assert same(fresh.run(request), expected) and same(shared.run(request), expected)


def test_a_picture_is_encoded_once_while_its_slider_is_dragged(fresh, monkeypatch):
    fresh.run(edit(strength=0.5))
    monkeypatch.setattr("yoso_core.runtimes.parts.encode", lambda *arguments: pytest.fail("encoded again"))
    fresh.run(edit(strength=0.6, prompt="another", seed=9))


def test_a_picture_that_was_changed_in_place_is_another(fresh):
    picture = scene()
    before = fresh.run(edit(picture=picture, strength=0.0))
    picture.paste("black", (0, 0, 64, 64))
    assert not same(before, fresh.run(edit(picture=picture, strength=0.0)))


def controlled(**options):
    return GenerateRequest("a red heart", seed=7, control=ControlUse(**({"picture": scene()} | options)))


def test_control_changes_the_picture_and_no_strength_does_not(shared):
    plain = shared.run(GenerateRequest("a red heart", seed=7))
    found = [shared.run(controlled(strength=strength)) for strength in (0.0, 0.5, 1.0)]
    assert same(found[0], plain) and found[0].evaluations == 1
    assert len({one.pictures[0].tobytes() for one in found}) == 3
    assert found[1].control_map.size == (64, 64) and plain.control_map is None
    assert found[1].control_map.tobytes() == shared.control_map(controlled().control, 64).tobytes()


@pytest.mark.parametrize(
    "change",
    [{"picture": scene(1)}, {"annotator": "scribble"}, {"annotator": "map"}, {"network": "second"}],
    ids=["picture", "scribble", "map", "network"],
)
def test_every_part_of_a_control_acts(shared, change):
    assert not same(shared.run(controlled()), shared.run(controlled(**change)))


def test_thresholds_act_on_the_map(shared):
    faint = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    faint.paste((120, 120, 120), (10, 10, 40, 40))
    maps = [shared.control_map(ControlUse(picture=faint, low=low, high=low * 2), 64) for low in (5, 250)]
    assert np.asarray(maps[0]).sum() > np.asarray(maps[1]).sum()


def test_control_at_its_end_alone_does_not_reach_one_step(shared):
    late = replace(controlled(start=0.3, end=1.0), steps=1)
    assert same(shared.run(late), shared.run(GenerateRequest("a red heart", seed=7)))
    plain = shared.run(GenerateRequest("a red heart", seed=7, steps=2))
    assert not same(shared.run(replace(late, steps=2)), plain)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("sampler", USUAL.samplers)
def test_control_goes_with_everything(shared, guidance, sampler):
    request = replace(controlled(), guidance=guidance, sampler=sampler, steps=2, count=2)
    result = shared.run(request)
    assert result.evaluations == (4 if guidance > 1 else 2)
    assert not same(result, shared.run(replace(request, control=None)))
    options = {"strength": 0.7, "mask": left_half(), "control": request.control}
    shared.run(edit(guidance=guidance, steps=2, sampler=sampler, **options))


def test_maps_of_pictures_of_equal_size_are_not_taken_for_one_another(shared, fresh):
    requests = [controlled(picture=scene(seed), annotator=kind) for seed in range(6) for kind in ("canny", "scribble")]
    first = [fresh.run(request) for request in requests]
    for request, expected in [*zip(requests, first, strict=True)][::-1]:
        again = fresh.run(request)
        assert same(again, expected) and again.control_map.tobytes() == expected.control_map.tobytes()
        assert same(shared.run(request), expected)


@pytest.mark.parametrize(
    ("use", "error", "named"),
    [
        ({"network": "gone"}, ModelError, "not a whole diffusers model"),
        ({"network": "nowhere"}, RequestError, "no ControlNet"),
        ({"annotator": "cany"}, RequestError, "no annotator"),
        ({"annotator": "softedge"}, RequestError, "models/annotators"),
    ],
)
def test_a_control_that_fails_leaves_the_next_request_as_it_was(shared, monkeypatch, tmp_path, use, error, named):
    monkeypatch.setattr("yoso_core.conditioning.ANNOTATORS_FOLDER", tmp_path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: None)
    requests = GenerateRequest("a red heart", seed=7), controlled(), edit(strength=0.5)
    before = [shared.run(request) for request in requests]
    with pytest.raises(error, match=named) as caught:
        shared.run(replace(controlled(**use), one_step=0.3, prompt="something else"))
    assert "\n" not in str(caught.value)
    assert all(same(shared.run(request), one) for request, one in zip(requests, before, strict=True))


def test_a_control_of_another_family_is_not_chosen(tiny_spec, controls):
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", controls={"other": controls["other"]})
    with pytest.raises(RequestError, match="fits this model"):
        engine.run(controlled())


def test_what_can_not_be_drawn_is_refused_before_anything_is_encoded(fresh, monkeypatch):
    for name in ("encode", "decode"):
        monkeypatch.setattr(
            f"yoso_core.runtimes.parts.{name}", lambda *arguments: pytest.fail("the device was reached")
        )
    bad = [
        edit(size=1024),
        edit(model="nothing"),
        edit(loras=(LoraUse("nothing"),)),
        replace(edit(), control=ControlUse(picture=scene(), annotator="cany")),
    ]
    for request in bad:
        with pytest.raises(RequestError):
            fresh.run(request)


GREY, HUGE = Image.new("L", (64, 64)), Image.new("RGB", (5001, 5000))


@pytest.mark.parametrize(
    "options",
    [
        {"strength": float("nan")},
        {"strength": float("inf")},
        {"strength": -0.01},
        {"strength": 1.01},
        {"strength": "0.5"},
        {"strength": True},
        {"strength": 10**400},
        {"feather": 0.26},
        {"feather": float("nan")},
        {"grow": 1.5},
        {"grow": -1},
        {"fit": "stretch"},
        {"picture": GREY},
        {"picture": "picture.png"},
        {"picture": None},
        {"picture": HUGE},
        {"picture": Image.new("RGB", (0, 64))},
        {"mask": scene()},
        {"mask": left_half((32, 64))},
        {"sampler": "ddim"},
        {"sampler": "dpm++", "steps": 1},
        {"sampler": "dpm++", "steps": 51},
        {"sampler": "consistency"},
        {"sampler": ["lcm"]},
        {"steps": 3},
        {"steps": 8},
    ],
    ids=lambda options: " ".join(f"{name}={value!s:.30}" for name, value in options.items()),
)
def test_an_edit_that_makes_no_sense_can_not_be_asked_for(options):
    with pytest.raises(RequestError) as caught:
        edit(**options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"strength": float("nan")},
        {"strength": 2.5},
        {"strength": -1},
        {"start": 0.6, "end": 0.5},
        {"start": float("nan")},
        {"end": 1.1},
        {"low": -1},
        {"high": 10**9},
        {"low": 1.5},
        {"picture": GREY},
        {"picture": HUGE},
        {"annotator": 5},
        {"network": 5},
        {"fit": ""},
    ],
    ids=lambda options: " ".join(f"{name}={value!s:.30}" for name, value in options.items()),
)
def test_a_control_that_makes_no_sense_can_not_be_asked_for(options):
    with pytest.raises(RequestError) as caught:
        controlled(**options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize("steps", [0, 1, 51, 2.5, float("nan")])
def test_many_steps_are_so_many_and_no_more(sampler, steps):
    with pytest.raises(RequestError, match="teps"):
        GenerateRequest("a", sampler=sampler, steps=steps)
    assert GenerateRequest("a", sampler=sampler, steps=8).steps == 8


def test_who_asks_for_one_step_of_a_solver_or_many_of_lcm_is_told_what_to_choose():
    with pytest.raises(RequestError, match="choose the sampler lcm"):
        GenerateRequest("a", sampler="dpm++")
    with pytest.raises(RequestError, match="one of 1, 2, 4 with LCM, not 8; other samplers"):
        GenerateRequest("a", steps=8)


SOLVERS = {"ddim": (ddim, ddim_timesteps), "dpm++": (dpm_solver, dpm_solver_timesteps)}


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("steps", [2, 5, 25])
def test_the_teacher_s_samplers_are_solvers_on_the_teacher(shared, sampler, steps):
    solve, spread = SOLVERS[sampler]
    request = GenerateRequest("a red heart", seed=7, sampler=sampler, steps=steps, one_step=0.0)
    result = shared.run(request)
    model = shared.load(DEFAULT_MODEL)
    with torch.inference_mode():
        model.loras.apply([])
        noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(7))
        noise = noise.contiguous(memory_format=torch.channels_last)
        context = model.encode_texts(["a red heart"])
        teacher = model.denoiser(consistent=False)
        (picture,) = to_pil(decode(model.decoder, solve(teacher, model.schedule, noise, context, spread(steps, 999))))
    assert np.array_equal(pixels(result)[0], np.asarray(picture)) and result.evaluations == steps
    assert not same(result, shared.run(replace(request, one_step=1.0)))


@pytest.mark.parametrize("sampler", USUAL.samplers)
def test_every_sampler_edits_what_is_marked_and_nothing_else(shared, sampler):
    request = edit(strength=0.6, mask=left_half(), feather=0.0, steps=2, sampler=sampler, guidance=1.5)
    result = shared.run(request)
    assert result.evaluations == 4 and same(result, shared.run(request))
    made, given = pixels(result)[0], np.asarray(request.picture)
    assert np.array_equal(made[:, 40:], given[:, 40:]) and not np.array_equal(made[:, :24], given[:, :24])
    kept = shared.run(replace(request, strength=0.0, mask=None))
    assert kept.evaluations == 0 and same(kept, shared.run(edit(strength=0.0)))
    everything = replace(request, strength=1.0, mask=None)
    plain = GenerateRequest("a red heart", seed=7, steps=2, sampler=sampler, guidance=1.5)
    assert same(shared.run(everything), shared.run(plain))


def test_the_solvers_edit_from_the_picture_s_own_noise_level(shared):
    """SDEdit, step by step as the solver does it, from the timestep of the strength."""
    for sampler, (solve, spread) in SOLVERS.items():
        request = edit(strength=0.5, steps=4, sampler=sampler)
        result = shared.run(request)
        model = shared.load(DEFAULT_MODEL)
        with torch.inference_mode():
            model.loras.apply([(model.one_step, 1.0)])
            latent = encode(model.autoencoder, to_tensor(request.picture))
            noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(7))
            t = strength_timestep(model.schedule, 0.5)
            start = sdedit_start(model.schedule, latent, noise, t)
            context = model.encode_texts(["a red heart"])
            plain = model.denoiser(consistent=False)
            clean = solve(plain, model.schedule, start, context, spread(4, t))
            (picture,) = to_pil(decode(model.decoder, clean))
        assert np.abs(pixels(result)[0].astype(int) - np.asarray(picture)).max() <= 1


def test_near_the_picture_there_are_fewer_steps_than_asked_for(shared):
    """And no timestep twice, which would divide by zero."""
    for strength in (0.001, 0.003, 0.01):
        t = strength_timestep(shared.load(DEFAULT_MODEL).schedule, strength)
        for sampler, (_, spread) in SOLVERS.items():
            result = shared.run(edit(strength=strength, steps=50, sampler=sampler))
            assert result.evaluations == (len(spread(50, t)) if t else 0) <= 50


@pytest.mark.parametrize(("sampler", "boundary"), [("lcm", True), ("ddim", False), ("dpm++", False)])
def test_the_consistency_boundary_is_lcm_s_alone(shared, monkeypatch, sampler, boundary):
    seen = []

    def recorded(*arguments):
        seen.append(Denoiser(*arguments))
        return seen[-1]

    monkeypatch.setattr("yoso_core.drawing.Denoiser", recorded)
    shared.run(GenerateRequest("a", steps=2, sampler=sampler))
    shared.run(edit(steps=2, sampler=sampler))
    assert [denoise.consistent for denoise in seen] == [boundary] * 2


def test_samplers_differ_and_a_seed_is_a_picture(shared):
    requests = [GenerateRequest("a red heart", seed=3, steps=4, sampler=sampler) for sampler in USUAL.samplers]
    results = [shared.run(request) for request in requests]
    assert len({result.pictures[0].tobytes() for result in results}) == len(USUAL.samplers)
    for request, result in zip(requests[::-1], results[::-1], strict=True):
        assert same(shared.run(request), result)
        assert not same(shared.run(replace(request, seed=4)), result)


def test_one_step_weight_0_is_the_model_without_its_lora(shared, tiny_model, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(tiny_model, folder)
    (folder / "yoso_lora.safetensors").unlink()
    spec = replace(shared.models[DEFAULT_MODEL], lora=None)
    spec = replace(spec, source=replace(spec.source, place=str(folder)))
    teacher = Engine({DEFAULT_MODEL: spec}, device="cpu")
    request = GenerateRequest("a red heart", seed=7, sampler="ddim", steps=5)
    assert same(teacher.run(request), shared.run(replace(request, one_step=0.0)))
