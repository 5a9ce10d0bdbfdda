"""Settings: flags, files and dataclasses say the same, and what is wrong is named."""

from dataclasses import dataclass, fields

import pytest

from train.loop.config import ConfigError, RunConfig, load_config, parse, setting, with_defaults
from train.tasks.yoso import YosoConfig


@dataclass(frozen=True)
@with_defaults(steps=7)
class SomeConfig(RunConfig):
    names: tuple[str, ...] = setting(("a", "b"), "some words")
    kind: str = setting("x", "one of two", ("x", "y"))


def test_other_defaults_keep_help_and_type():
    assert SomeConfig().steps == 7 and RunConfig().steps != 7
    inherited = {one.name: one for one in fields(SomeConfig)}
    assert inherited["steps"].metadata["on_resume"] and inherited["steps"].metadata["help"]
    with pytest.raises(TypeError, match="no setting stepz"):
        with_defaults(stepz=1)(type("Wrong", (RunConfig,), {}))


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "some.json"
    file.write_text('{"steps": 20, "batch": 3, "learning_rate": 1}')
    typed = ["--config", str(file), "--batch", "5", "--names", "c", "--no-compile", "--run", "there"]
    config, run = parse(SomeConfig, "", "here", typed)
    assert (config.steps, config.batch, config.names, config.compile) == (20, 5, ("c",), False)
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float)
    assert str(run) == "there"


def test_a_saved_config_reads_back(tmp_path):
    config = YosoConfig(steps=3, preview_prompts=("a", "b"), adapter="full")
    (tmp_path / "config.json").write_text(config.to_json())
    assert load_config(YosoConfig, tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"stepz": 3}', "stepz"),
        ('{"steps": "3"}', "steps must be a whole number"),
        ('{"steps": true}', "steps must be a whole number"),
        ('{"learning_rate": "fast"}', "learning_rate must be a number"),
        ('{"compile": 1}', "compile must be true or false"),
        ('{"names": "a"}', "names must be a list"),
        ('{"learning_rate": NaN}', "learning_rate"),
        ('{"kind": "z"}', "kind must be one of x, y"),
        ('{"batch": 0}', "batch must be at least 1"),
        ('{"ema": 2.0}', "ema must be between 0 and 1"),
        ("[1, 2]", "JSON object"),
        ("{", "JSON object"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(tmp_path, text, named):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(SomeConfig, path)
    assert "\n" not in str(caught.value)


def test_all_weights_at_zero_are_refused():
    with pytest.raises(ConfigError, match="nothing is learned"):
        YosoConfig(adversarial_weight=0.0, consistency_weight=0.0, reconstruction_weight=0.0)


def test_learning_rate_rises_stays_and_falls():
    config = RunConfig(steps=100, warmup=10, cooldown=0.2)
    factors = [config.learning_rate_factor(step) for step in range(100)]
    assert factors[0] == 0.1 and factors[50] == 1.0 and factors[-1] == pytest.approx(0.05)


def test_the_learning_rate_falls_with_the_minutes_too():
    config = RunConfig(steps=10**6, warmup=1, cooldown=0.5, minutes=2.0)
    assert [config.learning_rate_factor(10, seconds) for seconds in (0, 60, 90, 120, 200)] == [1, 1, 0.5, 0, 0]
    assert RunConfig(steps=10**6, warmup=1, cooldown=0.5).learning_rate_factor(10, 1e9) == 1
