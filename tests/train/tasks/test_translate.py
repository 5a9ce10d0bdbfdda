"""Training translators: what they are trained on, what is trained, and that what is handed over is what was trained."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from tests.trained import SHORT, draws
from train.data.fitting import fitting
from train.data.latents import to_unit_range
from train.data.lines import CANNY_THRESHOLDS, maps_of, sketch
from train.loop.config import ConfigError
from train.loop.randomness import Draws
from train.loop.trainer import Trainer
from train.runs.assemble import RUNS, build_translation, train_translate
from train.tasks.base import load_base
from train.tasks.perception import load_perception
from train.tasks.translate import Generator, _by_chance, lora_layers
from train.tasks.translate_config import TranslateConfig, settled
from train.tasks.translate_data import domain_of, drawn_lines, load_domains, load_pairs
from yoso_core.autoencoder import decode, encode, to_pil, to_tensor
from yoso_core.conditioning import Annotations
from yoso_core.engine import Engine
from yoso_core.loading import LoadedModel
from yoso_core.requests import ControlUse, TranslateRequest
from yoso_core.sampling import one_step
from yoso_core.translate import BACK, FORWARD, in_ink, load_translator, read_translator

CPU = torch.device("cpu")
SQUARES = fitting("square", 64)
LOOKS = ("flat", "3d")
COLOURS = ("red", "green", "blue", "orange")


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    monkeypatch.setattr("train.tasks.translate.SHOWN", 2)


def ball(colour, offset=0, shaded=False):
    picture = Image.new("RGB", (64, 64), "white")
    drawing = ImageDraw.Draw(picture)
    drawing.ellipse((10 + offset, 10, 40 + offset, 40), fill=colour)
    if shaded:
        drawing.ellipse((16 + offset, 14, 26 + offset, 24), fill="white")
    return picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures of each look, and three that are of none or not to be trained on."""
    folder, rows = tmp_path_factory.mktemp("balls"), []
    for look in LOOKS:
        for index, colour in enumerate(COLOURS):
            ball(colour, index, look == "3d").save(folder / f"{colour}_{look}.png")
            rows.append({"file_name": f"{colour}_{look}.png", "text": f"a {colour} ball, {look}"})
    for index, (name, text) in enumerate([("both", ["a ball, flat", "a ball in 3D"]), ("none", "a ball, flattened")]):
        ball("black", index + 5).save(folder / f"{name}.png")
        rows.append({"file_name": f"{name}.png", "text": text})
    ball("pink", 9).save(folder / "kept.png")
    rows.append({"file_name": "kept.png", "text": "a pink ball, flat", "held_out": True})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Folders of what goes in, without captions, and of what should come out."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("input", "target"):
        (folder / name).mkdir()
    for index, colour in enumerate(COLOURS):
        ball(colour, index).convert("L").save(folder / "input" / f"{index}.png")
        ball(colour, index).save(folder / "target" / f"{index}.png")
        (folder / "target" / f"{index}.txt").write_text(f"a {colour} ball")
    return folder


def config_for(model, **values):
    same = {"perceptual": "evaluator", "steps": 2, "rank": 2, "alpha": 4, "autoencoder_rank": 2, "learning_rate": 1e-2}
    return TranslateConfig(**SHORT | {"model": str(model)} | same | values)


@pytest.fixture
def kinds(tiny_model, pictures, pairs, tmp_path):
    """Settings of every kind of data."""
    for look in LOOKS:
        (tmp_path / look).mkdir()
        for path in pictures.glob(f"*_{look}.png"):
            (tmp_path / look / path.name).hardlink_to(path)
    unpaired = {"batch": 2, "identity_weight": 0.0, "identity_perceptual_weight": 0.0}
    return {
        "lines": config_for(tiny_model, pairs=str(pictures)),
        "pictures": config_for(tiny_model, pairs=str(pairs), input="picture"),
        "words": config_for(tiny_model, data=str(pictures), domains=LOOKS, **unpaired),
        "folders": config_for(tiny_model, domains=tuple(str(tmp_path / look) for look in LOOKS), **unpaired),
    }


def averaged(config, folder):
    """Model and generator of a run by its last checkpoint, in the precision of what is handed over."""
    base = load_base(config, CPU, one_step=True)
    generator = Generator(base, config)
    stored = load_file(sorted((folder / "checkpoints").iterdir())[-1] / "generator.average.safetensors")
    trained = {name: value for name, value in generator.named_parameters() if value.requires_grad}
    assert stored.keys() == trained.keys()
    for name, value in trained.items():
        value.data.copy_(stored[name].half())
    return base, generator


KINDS = ("lines", "pictures", "words", "folders")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_hands_over_makes_the_pictures_of_its_averaged_generator(kinds, tmp_path, kind):
    config, folder = kinds[kind], tmp_path / "run"
    known, train, _ = RUNS["translate"]
    assert isinstance(config, known) and train(config, folder) is True
    base, generator = averaged(config, folder)
    spec = read_translator(folder / "output")
    assert tuple(spec.directions) == ((FORWARD, BACK) if config.domains else (FORWARD,))
    assert [one.prompt for one in spec.directions.values()] == (["3d", "flat"] if config.domains else [None])
    assert (spec.family, spec.input) == (base.spec.family, "lines" if kind == "lines" else "picture")
    model = load_base(config, CPU, one_step=True)
    loaded, given = load_translator(spec, model), torch.cat([to_tensor(ball(colour)) for colour in COLOURS[:2]])
    context = base.encode_texts(["a red ball", "a ball"])
    noise = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for direction in spec.directions:
            for strength in (1.0, 0.4):
                model.loras.apply([(model.one_step, 1.0), (loaded.loras[direction], strength)])
                found = loaded.on(model, direction)(given, context, strength, noise)
                wanted = generator(given, context, direction, strength, noise)
                torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-3)
        model.loras.apply([(model.one_step, 1.0)])  # what was learned counts
        assert (loaded.on(model, direction)(given, context, strength, noise) - wanted).abs().max() > 0.01


def test_what_a_run_hands_over_is_used_by_the_engine(kinds, tmp_path, tiny_spec):
    train_translate(kinds["words"], tmp_path / "run")
    engine = Engine({"tiny": tiny_spec}, device="cpu", translators={})
    engine.add_translator("mine", read_translator(tmp_path / "run" / "output"))
    request = TranslateRequest("", model="tiny", picture=ball("red"), translator="mine")
    there, back = (engine.run(replace(request, direction=one)).pictures[0].tobytes() for one in (FORWARD, BACK))
    assert there != back
    files = {path.name for path in (tmp_path / "run" / "output").iterdir()}
    weights = {f"{name}.safetensors" for name in ("unet", FORWARD, BACK)}
    previews = {"preview-first.png", "preview-last.png", "thumbnail.png"}
    assert files == weights | previews | {"config.json", "yoso_config.json", "README.md"}


@pytest.mark.parametrize("kind", ["lines", "words"])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(kinds, tmp_path, kind):
    config = replace(kinds[kind], batch=2, steps=4, checkpoint_every=2, cooldown=0.0, noisy_share=0.5)
    train_translate(config, tmp_path / "whole")
    train_translate(replace(config, steps=2), tmp_path / "halves")
    train_translate(config, tmp_path / "halves")
    whole, halves = (tmp_path / name / "checkpoints" / "step-0000004" for name in ("whole", "halves"))
    for path in sorted(whole.glob("*.safetensors")):
        one, other = load_file(path), load_file(halves / path.name)
        assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_goes_on_with_the_same_pictures_alone(kinds, tmp_path):
    config = replace(kinds["folders"], steps=2)
    train_translate(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run with data and base model"):
        train_translate(replace(config, domains=config.domains[::-1]), tmp_path / "run")


@pytest.fixture(scope="module")
def base(tiny_model):
    return load_base(config_for(tiny_model), CPU, one_step=True)


@pytest.fixture
def task_of(base, tmp_path):
    """The task of some settings, on a generator of its own."""

    def build(config):
        torch.manual_seed(0)
        generator = Generator(base, config)
        return build_translation(generator, load_perception(config.perceptual), config, base, tmp_path)

    return build


@pytest.mark.parametrize("kind", ["lines", "words"])
def test_gradients_of_one_player_reach_no_other(task_of, kinds, kind):
    task = task_of(kinds[kind])
    shared = task.forward(torch.arange(2), draws(2))
    for name in task.players:
        sum(task.losses(name, shared).minimised.values()).backward()
        for other, player in task.players.items():
            grads = [value.grad for value in player.module.parameters() if value.grad is not None]
            assert any(grad.any() for grad in grads) == (other == name), (name, other)
            player.module.zero_grad(set_to_none=True)
        assert all(value.grad is None for value in task.perception.parameters())


def test_everything_that_is_trained_gets_a_gradient(task_of, kinds):
    task = task_of(replace(kinds["words"], identity_weight=1.0))
    with torch.no_grad():  # a fresh B is zero, and lets no gradient reach its A
        for layer in lora_layers(task.generator):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    shared = task.forward(torch.arange(2), draws(2))
    sum(task.losses("generator", shared).minimised.values()).backward()
    trained = {name: value for name, value in task.generator.named_parameters() if value.requires_grad}
    assert [name for name, value in trained.items() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_steps_is_noisy(task_of, kinds, share):
    """At a strength below 1 the noise counts, and what compares with one picture counts less."""
    task = task_of(replace(kinds["lines"], noisy_share=share, batch=1, drop_caption=0.0, varied=0.0))
    strengths = []
    task.generator.forward = lambda given, context, direction, strength, noise: (
        strengths.append(strength) or given.clone().requires_grad_()
    )
    for step in range(40):
        shared = task.forward(torch.tensor([0]), draws(1, step))
        assert shared.strength == strengths[-1]
    noisy = [one for one in strengths if one < 1]
    assert abs(len(noisy) / 40 - share) < 0.25 and len(set(noisy)) == len(noisy) and all(one >= 0 for one in noisy)
    weak, full = (task.losses("generator", shared._replace(strength=one)).minimised for one in (0.25, 1.0))
    for name in ("error", "perceptual"):
        torch.testing.assert_close(weak[name], 0.25 * full[name])
    assert torch.equal(weak["adversarial"], full["adversarial"])


def test_captions_are_dropped_in_their_share_and_the_judge_reads_the_others(task_of, kinds):
    config = replace(kinds["lines"], similarity_weight=1.0, adversarial_weight=0.0, noisy_share=0.0)
    for share, texts in ((0.0, {f"a {colour} ball, flat" for colour in COLOURS}), (1.0, {""})):
        task = task_of(replace(config, drop_caption=share))
        shared = task.forward(torch.arange(4), draws())
        assert set(shared.texts) == texts
        similarity = task.losses("generator", shared).minimised["similarity"]
        assert similarity > 0 if share == 0 else similarity == 0


TRAINED = {"all": (True, True), "no-skips": (True, False), "no-lora": (False, True), "first-conv": (False, False)}


@pytest.mark.parametrize(("trained", "lora", "skips"), [(name, *parts) for name, parts in TRAINED.items()], ids=TRAINED)
def test_what_is_left_out_is_neither_trained_nor_handed_over(kinds, tmp_path, trained, lora, skips):
    config = replace(kinds["lines"], trained=trained)
    train_translate(config, tmp_path)
    base, generator = averaged(config, tmp_path)
    names = {name for name, value in generator.named_parameters() if value.requires_grad}
    parts = {"first", *(("unet", "autoencoders") if lora else ()), *(("skips",) if skips else ())}
    assert {name.split(".")[0] for name in names} == parts
    network, way = (load_file(tmp_path / "output" / f"{name}.safetensors") for name in ("unet", FORWARD))
    assert any(name.startswith("unet.") for name in network) == any(name.startswith("vae.") for name in way) == lora
    assert any(name.startswith("skips.") for name in way) == skips
    assert {"conv_in.weight", "conv_in.bias"} <= network.keys()
    assert not torch.equal(network["conv_in.weight"], base.network.conv_in.weight.half())
    loaded = load_translator(read_translator(tmp_path / "output"), base)
    assert bool(loaded.loras[FORWARD]) == lora and (loaded.skips[FORWARD] is not None) == skips


@pytest.mark.parametrize("trained", TRAINED)
@torch.no_grad()
def test_a_fresh_generator_makes_what_the_frozen_model_makes_of_the_encoded_picture(base, tiny_model, trained):
    generator = Generator(base, config_for(tiny_model, trained=trained, domains=LOOKS))
    given, context = to_tensor(ball("red")), base.encode_texts(["a ball"])
    latent = encode(base.autoencoder, given)
    denoise = base.denoiser()
    wanted = decode(base.autoencoder, one_step(denoise, latent, context, base.schedule.last))
    for direction in (FORWARD, BACK):
        torch.testing.assert_close(generator(given, context, direction), wanted, rtol=0, atol=2e-3)
    frozen = [name for name, value in generator.named_parameters() if not value.requires_grad]
    assert any(name.startswith("unet.") for name in frozen)


def test_memory_is_saved_without_changing_the_gradients(base, tiny_model):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        generator = Generator(base, config_for(tiny_model, checkpointing=checkpointing)).train()
        context = base.encode_texts(["a ball"])
        generator(to_tensor(ball("red")), context, FORWARD).square().mean().backward()
        found.append({name: value.grad for name, value in generator.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


# What it is trained on


def names(domain):
    return sorted(row["file_name"] for row in domain.rows)


def test_domains_by_words_leave_out_what_is_of_both_of_none_or_held_out(kinds):
    flat, solid = load_domains(kinds["words"], SQUARES)
    assert names(flat) == sorted(f"{colour}_flat.png" for colour in COLOURS)
    assert names(solid) == sorted(f"{colour}_3d.png" for colour in COLOURS)
    assert flat.pictures.shape == (4, 3, 64, 64) and flat.digest != solid.digest


def test_domains_of_folders_need_no_captions(tmp_path, tiny_model):
    """Prompts are fixed there: names without words are as good as others, and nobody is told of captions."""
    for look, colour in zip(LOOKS, COLOURS, strict=False):
        (tmp_path / look).mkdir()
        ball(colour).save(tmp_path / look / "0.png")
        ball(colour, 5).save(tmp_path / look / "s0.png")
        (tmp_path / look / "torn.png").write_bytes(b"torn")
    folders = tuple(str(tmp_path / look) for look in LOOKS)
    for domain in load_domains(config_for(tiny_model, domains=folders), SQUARES):
        assert names(domain) == ["0.png", "s0.png"] and [one.file for one in domain.problems] == ["torn.png"]


def test_a_picture_of_several_lines_is_of_the_domain_that_all_of_them_say(tmp_path, tiny_model):
    rows = [("a", "flat"), ("b", "3d"), ("c", "flat"), ("c", "3d"), ("d", ""), ("d", "flat")]
    for index, name in enumerate("abcd"):
        ball("red", index).save(tmp_path / f"{name}.png")
    (tmp_path / "3d ball.png").write_bytes(b"torn")
    lines = [{"file_name": f"{name}.png", "text": text} for name, text in rows]
    lines += [{"file_name": "3d ball.png"}, {"file_name": "gone.png", "text": "flat"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flat, solid = load_domains(config_for(tiny_model, data=str(tmp_path), domains=LOOKS), SQUARES)
    assert (names(flat), names(solid)) == (["a.png", "d.png"], ["b.png"])
    told = {problem.file for domain in (flat, solid) for problem in domain.problems}
    assert {"gone.png", "3d ball.png"} <= told


@pytest.mark.parametrize(
    ("captions", "domain"),
    [
        (["a cat, flat"], "flat"),
        (["A cat. FLAT!"], "flat"),
        (["a cat", "a flat cat"], "flat"),
        (["flattened cat"], None),
        (["a cat of line-art"], "line art"),
        (["art of a line"], None),
        (["flat line art"], None),
        (["flat", "line art"], None),
        ([], None),
    ],
)
def test_of_which_domain_captions_are(captions, domain):
    assert domain_of(captions, ("flat", "line art")) == domain


def test_pairs_are_joined_by_name(kinds, pairs):
    found = load_pairs(kinds["pictures"], SQUARES)
    assert found.inputs.shape == found.targets.pictures.shape == (4, 3, 64, 64)
    for index, row in enumerate(found.targets.rows):
        place = pairs / row["input_file_name"]
        assert np.array_equal(found.inputs[index].permute(1, 2, 0), Image.open(place).convert("RGB"))
    assert (
        found.digest
        != load_pairs(replace(kinds["pictures"], pairs=str(pairs / "target"), input="lines"), SQUARES).digest
    )


def copy_of(pairs, tmp_path):
    for path in pairs.glob("*/*"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_inputs_may_be_alike(pairs, tmp_path, tiny_model):
    """Several pictures may come of one input."""
    folder = copy_of(pairs, tmp_path)
    (folder / "input" / "1.png").write_bytes((folder / "input" / "0.png").read_bytes())
    config = config_for(tiny_model, pairs=str(folder), input="picture")
    found, before = load_pairs(config, SQUARES), load_pairs(replace(config, pairs=str(pairs)), SQUARES)
    assert torch.equal(found.inputs[0], found.inputs[1]) and found.digest != before.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "input" / "2.png").unlink(), "no picture that goes into 'target/2.png'"),
        (lambda folder: (folder / "input" / "2.png").write_bytes(b"torn"), r"2\.png can't be used"),
        (lambda folder: [path.unlink() for path in (folder / "input").iterdir()], "there are no pairs"),
        (lambda folder: (folder / "target").rename(folder / "out"), "there are no pairs"),
        (lambda folder: (folder / "input").rename(folder / "in"), "there are no pairs"),
    ],
    ids=["missing", "torn", "none", "no targets", "no inputs"],
)
def test_an_input_that_is_missing_is_named(pairs, tmp_path, tiny_model, change, said):
    change(copy_of(pairs, tmp_path))
    with pytest.raises(ConfigError, match=said) as caught:
        load_pairs(config_for(tiny_model, pairs=str(tmp_path), input="picture"), SQUARES)
    assert "\n" not in str(caught.value)


def test_a_folder_without_pairs_of_pictures_is_told_what_it_must_hold(tmp_path, tiny_model):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"train_A and train_B, or input and target|there is no folder"):
            load_pairs(config_for(tiny_model, pairs=str(folder), input="picture"), SQUARES)


def test_pairs_of_pictures_are_not_taken_for_lines(pairs, tiny_model):
    with pytest.raises(ConfigError, match="add --input picture"):
        load_pairs(config_for(tiny_model, pairs=str(pairs), input="lines"), SQUARES)


@pytest.mark.parametrize("ink", ["black", "white"])
def test_lines_are_those_that_the_studio_makes(ink):
    """Edges with the thresholds that the page begins with, and those that people turn them down to."""
    picture = ball("orange", 3, shaded=True)
    maps = maps_of(np.array(picture))
    for found, (low, high) in zip(maps, CANNY_THRESHOLDS, strict=False):
        use = ControlUse(picture=picture, annotator="canny", low=low, high=high)
        wanted = to_pil(in_ink(to_tensor(Annotations()(picture, use)), ink))[0]
        drawn = to_pil(drawn_lines(torch.from_numpy(found), ink)[None])[0]
        assert drawn.tobytes() == wanted.tobytes()
    assert {int(value) for value in drawn_lines(torch.from_numpy(maps), ink).unique()} == {-1, 1}


def test_pictures_and_their_lines_are_varied_together(task_of, kinds):
    """The lines that go in are those of the picture that should come out, however it was turned."""
    for varied in (0.0, 1.0):
        task = task_of(replace(kinds["lines"], varied=varied, sketched=0.0))
        given, target = task._pictures(torch.arange(4), draws())
        stored = to_unit_range(task.pairs.targets.pictures[:4])
        assert all(torch.equal(one, other) for one, other in zip(target, stored, strict=True)) == (varied == 0.0)
        for one, picture in zip(given, to_pil(target), strict=True):
            maps = [drawn_lines(each, "black") for each in torch.from_numpy(maps_of(np.array(picture)))]
            assert any(torch.equal(one, each) for each in maps)


def test_a_sketch_is_of_a_bent_picture(task_of, kinds, monkeypatch):
    """The shapes of the lines are those of the picture that should come out; nothing else is ever drawn."""
    seen = []

    def drawn(picture, numbers):
        seen.append(picture)
        return sketch(picture, numbers)

    monkeypatch.setattr("train.tasks.translate.sketch", drawn)
    task = task_of(replace(kinds["lines"], varied=0.0, sketched=1.0))
    given, target = task._pictures(torch.arange(4), draws())
    stored = to_unit_range(task.pairs.targets.pictures[:4])
    assert not any(torch.equal(one, other) for one, other in zip(target, stored, strict=True))
    assert all(np.array_equal(one, np.array(other)) for one, other in zip(seen, to_pil(target), strict=True))
    assert set(given.unique().tolist()) == {-1, 1}
    counts, task = [], task_of(replace(kinds["lines"], sketched=0.25))
    for step in range(100):
        seen.clear()
        task._pictures(torch.arange(4), draws(step=step))
        counts.append(len(seen))
    assert 0.15 < sum(counts) / 400 < 0.35


def test_a_batch_in_parts_is_the_same_batch(task_of, kinds):
    task = task_of(replace(kinds["lines"], varied=1.0, noisy_share=1.0))
    whole = task.forward(torch.arange(4), Draws(0, 5, 4, slice(0, 4)))
    parts = [task.forward(torch.arange(4)[rows], Draws(0, 5, 4, rows)) for rows in (slice(0, 2), slice(2, 4))]
    assert {part.strength for part in parts} == {whole.strength}
    for name in ("given", "target", "made"):
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert [text for part in parts for text in part.texts] == whole.texts


# What is refused


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"domains": ("flat",), "data": "x"}, "name two"),
        ({"domains": ("a", "b", "c")}, "name two"),
        ({"domains": ("a", "a")}, "must differ"),
        ({"domains": ("a", "b"), "prompts": ("x",)}, "one a domain"),
        ({"domains": ("a", "b"), "prompts": ("x", "x")}, "must differ"),
        ({"adapter": "full"}, "trained as a LoRA"),
        ({"input": "sound"}, "input must be one of"),
        ({"ink": "red"}, "ink must be one of"),
        ({"trained": "nothing"}, "trained must be one of"),
        ({"perceptual": "eyes"}, "perceptual must be one of"),
        ({"noisy_share": 1.5}, "noisy_share"),
        ({"varied": -0.1}, "varied"),
        ({"drop_caption": float("nan")}, "drop_caption"),
        ({"autoencoder_rank": 0}, "autoencoder_rank"),
        ({"cycle_weight": -1.0}, "cycle_weight"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(values, named):
    with pytest.raises(ConfigError, match=named) as caught:
        TranslateConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "name the training data"),
        ({"data": "{pictures}"}, "name the training data"),
        ({"data": "{pictures}", "pairs": "{pictures}"}, "name the training data"),
        ({"pairs": "{pictures}", "domains": LOOKS}, "name the training data"),
        ({"pairs": "{pictures}", "captions": "captions.txt"}, "name the training data"),
        ({"pairs": "nowhere"}, "no folder nowhere"),
        ({"domains": ("nowhere", "elsewhere")}, "no folder nowhere"),
        ({"data": "{pictures}", "domains": ("flat", "round")}, "the word 'round'"),
        ({"pairs": "{pictures}", "model": "nobody/nothing"}, "40 hex digits"),
    ],
    ids=str,
)
def test_a_run_that_can_not_begin_is_one_sentence(tiny_model, pictures, tmp_path, values, named):
    given = {key: str(pictures) if value == "{pictures}" else value for key, value in values.items()}
    with pytest.raises(ConfigError, match=named) as caught:
        train_translate(replace(config_for(tiny_model), **given), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "checkpoints").exists()


def test_a_preview_shows_what_goes_in_and_what_comes_out(task_of, kinds):
    for kind, rows in (("lines", 3), ("words", 4)):
        task = task_of(kinds[kind])
        trainer = Trainer(task, kinds[kind], kinds[kind].model)
        picture = task.preview(trainer.averages)
        assert picture.size == (2 * 64, rows * 64)
        shown = [picture.crop((0, row * 64, 64, row * 64 + 64)) for row in range(rows)]
        real = to_pil(to_unit_range((task.pairs.targets if kind == "lines" else task.domains[FORWARD]).pictures[:1]))[0]
        if kind == "words":
            assert shown[0].tobytes() == real.tobytes()
        assert len({each.tobytes() for each in shown}) == rows


# The layouts of img2img-turbo


def published(folder, paired, tests=False):
    """Pairs or two domains as img2img-turbo has them."""
    for side in "AB":
        for split in ("train", "test")[: 1 + tests]:
            (folder / f"{split}_{side}").mkdir(parents=True)
            for index, colour in enumerate(COLOURS[: 4 if split == "train" else 2]):
                name = f"{colour}.png" if paired else f"{colour}{side}.png"
                ball(colour, index + (split == "test"), side == "B").save(folder / f"{split}_{side}" / name)
    if paired:
        (folder / "train_prompts.json").write_text(
            json.dumps({f"{colour}.png": f"a {colour} ball" for colour in COLOURS})
        )
    else:
        (folder / "fixed_prompt_a.txt").write_text("a flat ball\n")
        (folder / "fixed_prompt_b.txt").write_text("a solid ball")
    return folder


def test_pairs_as_published_need_no_setting(tiny_model, tmp_path):
    folder = published(tmp_path / "set", paired=True, tests=True)
    config = settled(config_for(tiny_model, pairs=str(folder)))
    assert config.input == "picture" and settled(config) == config
    found = load_pairs(config, SQUARES)
    assert found.targets.captions == [[f"a {row['file_name'][8:-4]} ball"] for row in found.targets.rows]
    assert len(found.targets) == len(found.inputs) == 4 and not torch.equal(found.inputs, found.targets.pictures)
    assert settled(config_for(tiny_model, pairs=str(folder / "train_B"))).input == "lines"


def test_domains_as_published_bring_their_prompts(tiny_model, tmp_path):
    folder = published(tmp_path / "set", paired=False, tests=True)
    for named in ((folder,), (folder / "train_A", folder / "train_B")):
        config = settled(config_for(tiny_model, domains=tuple(map(str, named)), batch=2))
        assert config.fixed_prompts == config.names[::-1] == ("a solid ball", "a flat ball")
        first, second = load_domains(config, SQUARES)
        assert len(first) == len(second) == 4 and first.rows[0]["file_name"].endswith("A.png")
    other = settled(config_for(tiny_model, domains=(str(folder),), prompts=("x", "y"), batch=2))
    assert other.fixed_prompts == ("x", "y")
    back = settled(config_for(tiny_model, domains=(str(folder / "train_B"), str(folder / "train_A")), batch=2))
    assert back.prompts == ()  # their order says something else


def test_what_is_no_such_layout_is_refused_with_what_to_do(tiny_model, tmp_path):
    folder = published(tmp_path / "set", paired=False)
    with pytest.raises(ConfigError, match="--domains in place of --pairs"):
        settled(config_for(tiny_model, pairs=str(folder)))
    (folder / "fixed_prompt_a.txt").unlink()
    with pytest.raises(ConfigError, match=r"no fixed_prompt_a\.txt .*--prompts"):
        settled(config_for(tiny_model, domains=(str(folder),)))
    with pytest.raises(ConfigError, match="name two folders"):
        settled(config_for(tiny_model, domains=(str(folder / "train_A"),)))


@pytest.mark.parametrize("kind", ["pairs", "domains"])
def test_published_layouts_train_at_a_resolution_and_on_random_parts(tiny_model, tmp_path, kind):
    folder = published(tmp_path / "set", paired=kind == "pairs")
    given = {"pairs": str(folder)} if kind == "pairs" else {"domains": (str(folder),), "batch": 2}
    config = config_for(tiny_model, **given, steps=1, resolution=32, preparation="randomcrop")
    _, train, _ = RUNS["translate"]
    assert train(config, tmp_path / "run") is True
    spec = read_translator(tmp_path / "run" / "output")
    assert spec.input == "picture" and len(spec.directions) == (1 if kind == "pairs" else 2)
    with pytest.raises(ConfigError, match="must be multiples of"):
        train(replace(config, resolution=33), tmp_path / "odd")


@pytest.mark.parametrize("kind", ["pairs", "domains", "lines"])
def test_what_is_held_out_is_measured_at_every_preview(tiny_model, pictures, tmp_path, monkeypatch, kind):
    folder = tmp_path / "set"
    if kind == "lines":
        given = {"pairs": str(pictures)}
    else:
        published(folder, paired=kind == "pairs", tests=True)
        given = {"pairs": str(folder)} if kind == "pairs" else {"domains": (str(folder),), "batch": 2}
    if kind == "pairs":
        (folder / "test_prompts.json").write_text(json.dumps({f"{colour}.png": colour for colour in COLOURS[:2]}))
    read = []
    encode_texts = LoadedModel.encode_texts
    monkeypatch.setattr(
        LoadedModel, "encode_texts", lambda self, texts: read.append(list(texts)) or encode_texts(self, texts)
    )
    train_translate(config_for(tiny_model, **given, steps=1, measured=8), tmp_path / "run")
    prompts = {"pairs": ["red", "green"], "domains": ["a solid ball", "a flat ball"], "lines": ["a pink ball, flat"]}
    assert prompts[kind] in read or sorted(prompts[kind]) in read
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    figures = [event["figures"] for event in events if event["event"] == "Preview"]
    ways = ["a2b", "b2a"] if kind == "domains" else ["a2b"]
    names = ["structure"] if kind == "domains" else ["structure", "squared error"]
    assert len(figures) == 2 and all(set(one) == {f"{name} {way}" for name in names for way in ways} for one in figures)
    assert figures[0] != figures[1] and all(value > 0 for one in figures for value in one.values())


@pytest.mark.parametrize("kind", ["pictures", "folders"])
def test_real_and_made_pictures_are_augmented_alike_by_the_numbers_of_the_step(kinds, tmp_path, monkeypatch, kind):
    config = replace(kinds[kind], augmentation="color, translation,cutout")
    base = load_base(config, CPU, one_step=True)
    torch.manual_seed(0)
    task = build_translation(Generator(base, config), load_perception("evaluator"), config, base, tmp_path / "run")
    seen = []

    def recorded(pictures, names, chances):
        seen.append((names, chances, pictures.requires_grad))
        return pictures

    monkeypatch.setattr("train.tasks.translate.augmented", recorded)
    shared = task.forward(torch.arange(2), draws(2))
    task.losses("discriminators", shared)
    task.losses("generator", shared)
    ways = len(config.directions)
    assert len(seen) == 3 * ways and {names for names, *_ in seen} == {("color", "translation", "cutout")}
    for way in range(ways):
        real, fake, adversarial = seen[2 * way], seen[2 * way + 1], seen[2 * ways + way]
        assert torch.equal(real[1], fake[1]) and torch.equal(real[1], adversarial[1])
        assert adversarial[2] and not fake[2]
    again = task.forward(torch.arange(2), draws(2)).chances
    first = again if ways == 1 else again[FORWARD]
    assert torch.equal(first, seen[0][1])


def test_without_augmentation_a_step_draws_the_numbers_it_always_drew(kinds, tmp_path):
    numbers = []
    for augmentation in ("", "cutout"):
        config = replace(kinds["pictures"], augmentation=augmentation)
        base = load_base(config, CPU, one_step=True)
        torch.manual_seed(0)
        task = build_translation(Generator(base, config), load_perception("evaluator"), config, base, tmp_path / "run")
        numbers.append(task.forward(torch.arange(2), draws(2)))
    assert numbers[0].chances is None and torch.equal(numbers[0].made, numbers[1].made)


@pytest.mark.parametrize("augmentation", ["colour", "color,", "blur,cutout"])
def test_unknown_augmentations_are_refused_by_name(tiny_model, augmentation):
    with pytest.raises(ConfigError, match="color,translation,cutout"):
        config_for(tiny_model, augmentation=augmentation)


def test_pictures_of_a_domain_are_met_as_often_as_their_repeats_say(tiny_model, tmp_path):
    for index, folder in enumerate(("9_red", "1_blue")):
        (tmp_path / "flat" / folder).mkdir(parents=True)
        ball(folder[2:], index).save(tmp_path / "flat" / folder / "a.png")
    (tmp_path / "other").mkdir()
    ball("green").save(tmp_path / "other" / "b.png")
    config = config_for(tiny_model, domains=(str(tmp_path / "flat"), str(tmp_path / "other")), batch=2)
    flat, other = load_domains(config, SQUARES)
    chances = torch.arange(1000) / 1000
    often = dict(zip([row["file_name"] for row in flat.rows], _by_chance(flat, chances).bincount(), strict=True))
    assert often == {"9_red/a.png": 900, "1_blue/a.png": 100}
    assert _by_chance(other, chances).tolist() == [0] * 1000
