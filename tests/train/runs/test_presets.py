"""What people usually train: every preset is valid for every model, and leaves of the model what it has to leave."""

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from train.__main__ import RUNS
from train.loop.config import ConfigError
from train.runs.presets import HIDDEN, PRESETS, SMALL, pictures_of, settings, source_name
from train.tasks.diffusion import DiffusionConfig
from yoso_core.models import MODELS, find_model, local_model

HUB = "owner/model.name@" + "0123456789" * 4
every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


@pytest.fixture
def models(tiny_spec, hub_spec):
    return MODELS | {"Tiny": tiny_spec, HUB: hub_spec}


@pytest.fixture
def hub_spec(tiny_model, tmp_path, monkeypatch):
    """A model of a hub that is on this machine."""
    place, commit = HUB.split("@")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(tiny_model, tmp_path / "hub" / f"models--{place.replace('/', '--')}" / "snapshots" / commit)
    return find_model(HUB)


def scheduled(folder, **scheduler):
    """A model of which nothing but the scheduler is there."""
    path = folder / "scheduler/scheduler_config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return local_model(str(folder))


@every_preset
def test_every_preset_is_valid_for_every_model(preset, models):
    for name, spec in models.items():
        config = settings(preset, name, spec)
        differs = preset.small if spec.resolution <= SMALL else preset.large
        assert type(config) is preset.config is RUNS[preset.task][0]
        assert {key: getattr(config, key) for key in differs} == dict(differs)
        assert max(config.preview_every, config.checkpoint_every) <= config.steps  # there is something to see


@every_preset
def test_given_settings_win(preset, tiny_spec):
    config = settings(preset, "Tiny", tiny_spec, steps=7, learning_rate=3e-4, data="somewhere")
    assert (config.steps, config.learning_rate, config.data) == (7, 3e-4, "somewhere")
    with pytest.raises(ConfigError, match="steps"):
        settings(preset, "Tiny", tiny_spec, steps=0)


@every_preset
def test_what_is_asked_elsewhere_is_a_setting_and_no_preset_has_it(preset):
    assert set(HIDDEN) <= set(preset.hidden) <= {one.name for one in fields(preset.config)}
    assert not set(HIDDEN) & (preset.small.keys() | preset.large.keys())


@every_preset
def test_a_preset_takes_one_folder_of_pictures(preset, tiny_spec):
    """Whatever the setting is called that it goes into, the folder is what is read, and is found again."""
    for spec in (tiny_spec, MODELS["sd-turbo"]):
        config = settings(preset, "any", spec)
        given = settings(preset, "any", spec, **{config.takes: "mine"})
        assert given.sources == ("mine",) and given.takes == config.takes and pictures_of(asdict(given)) == "mine"
    assert pictures_of({}) == "" == pictures_of({"captions": "words.txt", "domains": ["a", "b"]})


def test_translators_for_pairs_and_for_two_looks(tiny_spec):
    assert {name for name, preset in PRESETS.items() if preset.asks_for_domains} == {"looks"}
    pairs, unpaired = (settings(PRESETS[name], "Tiny", tiny_spec) for name in ("lines", "looks"))
    assert (pairs.directions, unpaired.directions) == (("a2b",), ("a2b", "b2a"))
    assert (pairs.takes, unpaired.takes, pairs.input) == ("pairs", "data", "auto")


@pytest.mark.parametrize("here", [True, False])
def test_pictures_are_compared_by_what_is_here(tiny_spec, monkeypatch, tmp_path, here):
    monkeypatch.setattr("train.runs.presets.find_weights", lambda: tmp_path / "alex.safetensors" if here else None)
    for name in ("lines", "looks"):
        config = settings(PRESETS[name], "Tiny", tiny_spec)
        assert config.perceptual == ("lpips" if here else "evaluator")
        assert settings(PRESETS[name], "Tiny", tiny_spec, perceptual="evaluator").perceptual == "evaluator"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("ends_in_noise", [True, False])
def test_a_lora_leaves_what_the_model_predicts(tmp_path, prediction, ends_in_noise):
    spec = scheduled(tmp_path, prediction_type=prediction, rescale_betas_zero_snr=ends_in_noise)
    for preset in PRESETS.values():
        if preset.config is not DiffusionConfig:
            continue
        if prediction == "epsilon" and ends_in_noise:  # such a model can't be
            with pytest.raises(ConfigError):
                settings(preset, "model", spec)
        else:
            config = settings(preset, "model", spec)
            assert (config.adapter, config.prediction) == ("lora", prediction)
            assert config.zero_terminal_snr == ends_in_noise


def test_a_lora_of_a_model_of_unknown_schedule_predicts_noise(hub_spec, tmp_path):
    for name, spec in [("empty", scheduled(tmp_path / "empty")), (HUB, hub_spec)]:
        config = settings(PRESETS["quick"], name, spec)
        assert (config.prediction, config.zero_terminal_snr) == ("epsilon", False)


def test_the_tiny_and_the_bundled_model_keep_their_schedule(tiny_spec):
    for name, spec in [*MODELS.items(), ("Tiny", tiny_spec)]:
        if not spec.source.is_folder:
            continue
        said = json.loads((Path(spec.source.place) / "scheduler/scheduler_config.json").read_text())
        config = settings(PRESETS["good"], name, spec)
        assert config.prediction == said["prediction_type"]
        assert config.zero_terminal_snr == said["rescale_betas_zero_snr"]


def test_models_are_found_again_by_the_name_that_runs_have_for_them(tiny_spec, hub_spec, tiny_model, monkeypatch):
    for name in MODELS:
        assert find_model(source_name(name, MODELS[name])) is MODELS[name]
    assert find_model(source_name("any", hub_spec)).source == hub_spec.source
    assert find_model(source_name("Tiny", tiny_spec)).source == tiny_spec.source
    monkeypatch.chdir(tiny_model.parent)
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    for place in (tiny_model.name, f"~/{tiny_model.name}"):  # a run may begin anywhere
        assert source_name("any", local_model(place)) == str(tiny_model.resolve())
