"""The bundled judge sees what it should, and a whole evaluation runs, on the tiny model, from folder to table."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from tests.tiny import TOKENIZER, build_unet, random_lora
from tests.train.recipes.corpus.tiny_art import write_art
from tests.trained import draws
from train.data.latents import load_pictures, to_unit_range
from train.loop.config import ConfigError
from train.loop.randomness import generator_for
from train.measure.evaluate import (
    EvaluateConfig,
    Reference,
    Sampling,
    evaluate,
    load_generator,
    load_judge,
    look_at,
    make_pictures,
    measure,
    to_levels,
)
from train.measure.evaluator import EVALUATOR_FOLDER, Evaluator, words_of
from train.measure.metrics import frechet_distance, kernel_distance
from train.recipes.corpus.corpus import Corpus
from train.recipes.corpus.scenes import describe
from train.recipes.evaluator import EvaluatorConfig, EvaluatorTask, augment, calibrate, hit_rates
from yoso_core.cached import LORA_FILE
from yoso_core.schedule import NoiseSchedule

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "data" / "emoji"
HELD_OUT = ROOT / "train" / "recipes" / "corpus" / "emoji_held_out.json"


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator.load()


@pytest.fixture(scope="module")
def pictures():
    """96 pictures of the bundled model: (96, 3, 64, 64) uint8 and their captions."""
    captions = [f"{label}, {style}" for label, style in json.loads(HELD_OUT.read_text())[:96]]
    return make_pictures(load_generator("yoso-emoji"), captions, 0, Sampling()).pictures, captions


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve noisy pictures, four held out, as any folder of a user."""
    folder = tmp_path_factory.mktemp("corpus")
    generator, lines = np.random.default_rng(0), []
    for index in range(12):
        colour = generator.integers(0, 255, 3)
        noise = generator.normal(0, 20, (80, 80, 3))
        Image.fromarray((colour + noise).clip(0, 255).astype("uint8")).save(folder / f"{index}.png")
        lines.append({"file_name": f"{index}.png", "text": f"thing {index}", "held_out": index >= 8})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_bundled_judge_is_small_and_whole(evaluator):
    files = list(EVALUATOR_FOLDER.iterdir())
    assert {path.name for path in files} == {"README.md", "config.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert all(value.isfinite().all() for value in evaluator.state_dict().values())


def test_shapes_and_ranges(evaluator):
    seen = evaluator.look(torch.rand(3, 3, 64, 64) * 2 - 1)
    assert seen.features.shape == (3, 192) and seen.vectors.shape == (3, 128)
    assert seen.vectors.norm(dim=1).allclose(torch.ones(3))
    read = evaluator.read(["red heart, 3d", "xqzzt", ""])
    assert read[0].norm().item() == pytest.approx(1) and not read[1:].any()


def test_a_caption_is_its_words(evaluator):
    read = evaluator.read(["red heart, 3d", "Red heart 3D", "heart, flat", "red heart, xqzzt 3d"])
    assert torch.equal(read[0], read[1]) and torch.allclose(read[0], read[3]) and not torch.allclose(read[0], read[2])


def test_pictures_of_other_sizes_look_the_same(evaluator, pictures):
    small = to_unit_range(pictures[0])
    large = torch.nn.functional.interpolate(small, (200, 200), mode="bicubic", antialias=True).clamp(-1, 1)
    assert (evaluator.look(small).vectors * evaluator.look(large).vectors).sum(1).mean() > 0.95


def test_a_saved_judge_judges_the_same(tmp_path, evaluator, pictures):
    evaluator.save(tmp_path)
    again = Evaluator.load(tmp_path)
    part = to_unit_range(pictures[0][:4])
    assert torch.equal(again.features(part), evaluator.features(part))
    with pytest.raises(ConfigError, match="holds no evaluator"):
        Evaluator.load(tmp_path / "missing")


def test_prompts_are_found_in_the_pictures_of_the_bundled_model(evaluator, pictures):
    made, captions = pictures
    similarity = look_at(evaluator, made).vectors @ evaluator.read(captions).T
    assert (similarity > similarity.diagonal()[:, None]).sum(1).lt(5).float().mean() > 0.5


@pytest.mark.parametrize("damage", ["blur", "noise", "fading"])
def test_worse_pictures_are_further_away(evaluator, pictures, damage):
    """More blur, more noise, less contrast: each raises both distances; none is too little to be seen."""
    made = pictures[0]
    unit = to_unit_range(made)
    noise = torch.randn(unit.shape, generator=generator_for(0))
    damaged = {
        "blur": lambda level: TF.gaussian_blur(unit, 9, [0.5 * level]),
        "noise": lambda level: unit + 0.05 * level * noise,
        "fading": lambda level: unit * (1 - 0.15 * level),
    }[damage]
    real = look_at(evaluator, made).features
    others = [look_at(evaluator, to_levels(damaged(level))).features for level in (1, 2, 3)]
    frechet = [frechet_distance(real, real), *(frechet_distance(real, other) for other in others)]
    kernel = [kernel_distance(real, other, 1, 96, generator_for(0)) for other in (real, *others)]
    assert frechet == sorted(frechet) and frechet[1] > 0.1
    assert kernel == sorted(kernel)


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not built here: make corpus")
def test_real_pictures_find_their_captions(evaluator):
    def rates(keep):
        data = load_pictures(CORPUS, 64, keep=keep)
        return hit_rates(evaluator, to_unit_range(data.pictures), [phrasings[0] for phrasings in data.captions])

    unseen, seen = rates(lambda row: row["held_out"]), rates(lambda row: not row["held_out"] and row["style"] == "3d")
    assert unseen[5] > 0.85 and seen[5] > 0.98 and seen[1] > unseen[1]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    corpus = Corpus.load(write_art(tmp_path_factory.mktemp("art")), size=32)
    return corpus, describe(corpus.describer, 32, 0)


def test_the_recipe_learns_words_styles_and_counts_and_calibrates(scenes):
    torch.manual_seed(0)
    corpus, described = scenes
    words = sorted({word for caption in described.captions for word in words_of(caption)})
    evaluator = Evaluator(words, 32, ("3d", "flat"), 5)
    task = EvaluatorTask(evaluator, corpus, described, EvaluatorConfig())
    optimizer = torch.optim.AdamW(evaluator.parameters(), 2e-3)
    sums = []
    for step in range(12):
        found = task.losses("evaluator", task.forward(torch.arange(32), draws(32, step)))
        assert {*found.minimised} == {"contrast", "style", "count"}
        optimizer.zero_grad()
        sum(found.minimised.values()).backward()
        optimizer.step()
        sums.append(sum(found.minimised.values()).item())
    assert sums[-1] < 0.8 * sums[0]
    pictures = corpus.painter(described)
    calibrate(evaluator, pictures)
    features = evaluator.features(pictures)
    assert features.mean(0).abs().max() < 1e-3
    assert features.std(0).median().item() == pytest.approx(1, abs=1e-3)  # the few that never fire stay at 0


def test_equal_captions_are_no_negatives(scenes):
    corpus, described = scenes
    words = sorted({word for caption in described.captions for word in words_of(caption)})
    task = EvaluatorTask(Evaluator(words, 32, ("3d", "flat"), 5), corpus, described, EvaluatorConfig())
    indices, pooled, vectors, captions = task.forward(torch.arange(4), draws(4))
    same = task.losses("evaluator", (indices, pooled, vectors, captions[:1].expand_as(captions)))
    assert same.minimised["contrast"].item() == pytest.approx(0.0, abs=1e-6)


def test_augmented_pictures_stay_in_place_and_white_around():
    white = torch.ones(4, 3, 64, 64)
    moved = augment(white, draws())
    assert moved.flatten(2).std(2).max() < 1e-5  # nothing but a tint
    dark = white.clone()
    dark[:, :, 16:48, 16:48] = -1
    assert (augment(dark, draws())[:, :, 24:40, 24:40] < 0).all()


def test_an_evaluation_from_folder_to_table(tiny_model, corpus):
    config = EvaluateConfig(
        str(tiny_model), steps=(1, 2), data=str(corpus), count=6, seeds=(0, 1), batch=4, ceilings=True
    )
    told = []
    found = evaluate(config, told.append)
    assert told
    assert [(row.split, row.evaluations, row.count) for row in found.rows] == [
        ("trained", 0, 6),
        ("trained", 0, 6),
        ("held-out", 0, 4),
        ("held-out", 0, 4),
        ("trained", 1, 6),
        ("held-out", 1, 4),
        ("trained", 2, 6),
        ("held-out", 2, 4),
    ]
    real, held_out = found.rows[0].scores[0], found.rows[2].scores[0]
    assert held_out.frechet == pytest.approx(0, abs=1e-3) and (held_out.precision, held_out.recall) == (1, 1)
    made = found.rows[4]
    assert made.mean("frechet") > real.frechet and made.spread("frechet") > 0 and made.mean("seconds") > 0
    assert real.seconds is None and found.rows[0].spread("frechet") is None
    table = found.to_markdown()
    assert "held-out pairs, 4 pictures" in table and "±" in table and table.count("real pictures") == 2
    written = json.loads(found.to_json())
    assert written["config"]["count"] == 6 and len(written["rows"][4]["scores"]) == 2
    assert written["rows"][4]["mean"]["frechet"] == pytest.approx(made.mean("frechet"))


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load_generator(str(tiny_model))


def test_a_seed_means_the_same_noise_in_every_row(tiny):
    captions = [f"thing {index}" for index in range(5)]

    def made(seed=0, batch=5, **options):
        return make_pictures(tiny, captions, seed, Sampling(**options), batch).pictures.int()

    first = made()
    assert torch.equal(first, made())
    assert (first - made(batch=2)).abs().float().mean() < 0.5  # rounding alone
    assert (first - made(seed=1)).abs().float().mean() > 3
    assert not torch.equal(first, made(steps=2)) and not torch.equal(first, made(guidance=3.0))
    assert not torch.equal(first, made(sampler="ddim", steps=3))
    assert Sampling(steps=4, guidance=2.0).evaluations == 8 and Sampling(steps=4).evaluations == 4


def test_the_prior_starts_elsewhere_only_where_noise_is_not_pure(tiny):
    def same(model):
        made = [make_pictures(model, ["a"], 0, Sampling(prior=prior)).pictures for prior in (True, False)]
        return torch.equal(*made)

    moments = {"prior_mean": torch.full((8,), 3.0), "prior_deviation": torch.full((8,), 0.5)}
    assert tiny.schedule.alpha[-1] == 0 and same(replace(tiny, **moments))
    ends_noisy = NoiseSchedule.from_config({"beta_schedule": "scaled_linear"})
    assert not same(replace(tiny, schedule=ends_noisy, **moments))


def test_weights_of_every_kind_are_measured(tmp_path, tiny_model):
    def made(weights):
        return make_pictures(load_generator(str(tiny_model), weights), ["a"], 0, Sampling()).pictures.int()

    own = made("own")
    assert not torch.equal(own, made("none"))
    assert torch.equal(made(str(tiny_model / "yoso_lora.safetensors")), own)
    torch.manual_seed(1)
    save_file(random_lora(build_unet(), 0.5), tmp_path / LORA_FILE)
    other = made(str(tmp_path / LORA_FILE))
    assert torch.equal(made(str(tmp_path)), other) and not torch.equal(other, own)


@pytest.mark.parametrize("weights", ["missing.safetensors", "README.md", "tests"])
def test_weights_that_do_not_fit_are_refused_in_a_sentence(tiny_model, weights):
    with pytest.raises(ConfigError) as refused:
        load_generator(str(tiny_model), weights)
    assert "\n" not in str(refused.value) and weights in str(refused.value)


def test_settings_that_can_not_be(tiny_model):
    for wrong in (
        {"steps": ()},
        {"steps": (0,)},
        {"steps": (51,)},
        {"seeds": ()},
        {"seeds": (-1,)},
        {"count": 2},
        {"batch": 0},
        {"guidance": 0.0},
        {"sampler": "euler"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EvaluateConfig(**wrong)
    with pytest.raises(ConfigError, match="There is no model"):
        evaluate(EvaluateConfig("no-such-model"))
    with pytest.raises(ConfigError, match="no folder"):
        evaluate(EvaluateConfig(str(tiny_model), data="missing"))


def test_clip_judges(tmp_path, corpus):
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=small | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessor().save_pretrained(tmp_path)
    judge = load_judge("clip", str(tmp_path))
    reference = Reference.load(corpus, judge, count=6)
    scores = measure(reference.splits["trained"].pictures, reference, "trained")
    assert 0 <= scores.first <= scores.first_five <= 1 and scores.frechet >= 0
    # The same as transformers makes of the same pictures.
    pictures = reference.splits["trained"].pictures
    inputs = CLIPImageProcessor.from_pretrained(tmp_path)(
        [TF.to_pil_image(one) for one in pictures], size={"shortest_edge": 32}, crop_size=32, return_tensors="pt"
    )
    theirs = judge.model(**inputs, **tokenizer(["a"], return_tensors="pt")).image_embeds
    assert (look_at(judge, pictures).vectors * theirs).sum(1).min() > 0.999


def test_missing_judges_are_named_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no CLIP at"):
        load_judge("clip", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ConfigError, match="pip install torch-fidelity"):
        load_judge("inception")


def test_a_plural_that_the_judge_does_not_know_is_read_as_its_singular():
    judge = Evaluator(["cherry", "bus", "glasses", "glass", "party"])
    assert judge.tokens(["Cherries and buses", "glasses", "part", "cherr"]).tolist() == [[1, 2], [3, 0], [0, 0], [0, 0]]
