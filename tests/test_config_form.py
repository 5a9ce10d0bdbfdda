"""The form of a run's settings: nothing is left out, and nothing impossible comes back."""

import json
from dataclasses import dataclass, fields

import pytest

from app.config_form import SIZE_LIMIT, build_form, fields_of, read_form
from train.loop.config import ConfigError, RunConfig, setting
from train.tasks.controlnet import ControlConfig
from train.tasks.diffusion import DiffusionConfig
from train.tasks.translate_config import TranslateConfig
from train.tasks.yoso import YosoConfig

CONFIGS = (DiffusionConfig, YosoConfig, ControlConfig, TranslateConfig)


def named(config, **options):
    return {field["name"]: field for field in fields_of(config, **options)}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_is_in_the_form_once_and_explained(config):
    form = fields_of(config())
    assert sorted(field["name"] for field in form) == sorted(one.name for one in fields(config))
    assert all(field["help"] and field["label"] for field in form)
    assert json.loads(json.dumps(form, allow_nan=False)) == form


@pytest.mark.parametrize("config", CONFIGS)
def test_what_the_form_shows_reads_back_as_the_preset(config):
    preset = config(steps=7, preview_prompts=("a", "b"))
    assert read_form(preset, {field["name"]: field["preset"] for field in fields_of(preset)}) == preset
    assert read_form(preset, {}) == preset


@pytest.mark.parametrize(
    ("config", "headings"),
    [
        (DiffusionConfig, ["Diffusion", "Model and data", "Optimisation"]),
        (YosoConfig, ["YOSO", "Model and data", "Optimisation"]),
        (ControlConfig, ["ControlNet", "Model and data", "Optimisation"]),
        (TranslateConfig, ["Translation", "Model and data", "Optimisation"]),
    ],
)
def test_the_tasks_own_settings_come_first(config, headings):
    assert list(dict.fromkeys(field["group"] for field in fields_of(config()))) == headings


def test_a_setting_stands_where_it_was_brought_in_though_its_default_changed_below():
    form = named(ControlConfig())
    assert form["learning_rate"]["group"] == "Optimisation" and form["adapter"]["group"] == "Model and data"
    assert form["drop_caption"]["group"] == "ControlNet"
    assert named(DiffusionConfig())["on_one_step"]["group"] == named(DiffusionConfig())["prediction"]["group"]


def test_a_class_without_a_heading_gives_its_name():
    @dataclass(frozen=True)
    class OtherConfig(RunConfig):
        size: int = setting(3, "some size")

    assert fields_of(OtherConfig())[0]["group"] == "Other"


def test_kinds_labels_and_values():
    form = named(YosoConfig(steps=9, preview_prompts=("a", "b")))
    kinds = {"steps": "whole", "ema": "number", "prior": "switch", "adapter": "choice", "title": "text"}
    assert {name: form[name]["kind"] for name in kinds} == kinds
    assert (form["steps"]["preset"], form["steps"]["default"]) == (9, 5000)
    assert form["preview_prompts"]["kind"] == "lines" and form["preview_prompts"]["preset"] == ["a", "b"]
    assert form["adapter"]["choices"] == ["lora", "full"] and form["title"]["choices"] == []
    assert form["discriminator_learning_rate"]["label"] == "Discriminator learning rate"
    assert form["ema"]["label"] == "EMA"


def test_words_of_two_domains_are_lines():
    form = named(TranslateConfig(domains=("flat", "line art")))
    assert (form["domains"]["kind"], form["domains"]["preset"]) == ("lines", ["flat", "line art"])
    config = read_form(TranslateConfig(), {"domains": ["ink", "paint"], "prompts": ["paint", "ink"]})
    assert (config.domains, config.fixed_prompts) == (("ink", "paint"), ("paint", "ink"))
    with pytest.raises(ConfigError, match="name two"):
        read_form(TranslateConfig(data="mine"), {"domains": ["ink"]})


def test_hidden_settings_are_neither_shown_nor_changed():
    hidden = {"model", "data"}
    assert not hidden & set(named(YosoConfig(), hidden=hidden))
    with pytest.raises(ConfigError, match="the form can't change data"):
        read_form(YosoConfig(), {"data": "/etc"}, hidden)


def test_what_the_form_changed_replaces_the_preset():
    preset = YosoConfig(steps=7, data="pictures")
    changed = {"learning_rate": 1, "adapter": "full", "prior": False, "preview_prompts": ["a cat"], "title": "Sky"}
    config = read_form(preset, changed, {"data"})
    assert (config.steps, config.data, config.adapter, config.prior) == (7, "pictures", "full", False)
    assert (config.preview_prompts, config.title) == (("a cat",), "Sky")
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float)
    assert preset.adapter == "lora"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "a table of settings"),
        ("steps", "a table of settings"),
        ([["steps", 3]], "a table of settings"),
        ({"stepz": 3}, "unknown field 'stepz'"),
        ({1: 3, "stepz": 3}, "unknown field '1'"),
        ({"steps": "3"}, "steps must be a whole number"),
        ({"steps": 3.5}, "steps must be a whole number"),
        ({"steps": 3.0}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": None}, "steps must be a whole number"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"ema": "0.9"}, "ema must be a number"),
        ({"ema": None}, "ema must be a number"),
        ({"ema": 2}, "ema must be between 0 and 1"),
        ({"ema": float("nan")}, "no setting"),
        ({"learning_rate": float("inf")}, "no setting"),
        ({"learning_rate": 10**400}, "learning_rate must be a number"),
        ({"prior": 1}, "prior must be true or false"),
        ({"adapter": "both"}, "adapter must be one of lora, full"),
        ({"title": "a\nb"}, "title must be a text"),
        ({"preview_prompts": "a cat"}, "preview_prompts must be a list"),
        ({"preview_prompts": [3]}, "preview_prompts must be a text"),
        ({"title": "a" * SIZE_LIMIT}, "too much text"),
        ({"title": object()}, "no setting"),
        ({"adversarial_weight": 0, "consistency_weight": 0, "reconstruction_weight": 0}, "nothing is learned"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(value, why):
    with pytest.raises(ConfigError, match=why) as caught:
        read_form(YosoConfig(), value)
    assert "\n" not in str(caught.value)


def test_a_value_nested_without_end_is_refused():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ConfigError, match="no setting"):
        read_form(YosoConfig(), {"preview_prompts": nested})


def test_the_component_begins_with_nothing_changed():
    form = build_form("run-form", fields_of(YosoConfig()))
    assert (form.value, form.elem_id) == ({}, "run-form")
    assert form.props["fields"] == fields_of(YosoConfig())
