"""The family's stages: their order, what a failure stops, and that what is done is not done again."""

import sys

import pytest

from train.recipes import family
from train.recipes.family import STAGES, Family, Stage, StageError


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Three stages that write into a file what they are called with."""
    (tmp_path / "stage.py").write_text(
        "import sys, pathlib\n"
        "name, *words = sys.argv[1:]\n"
        "open('said', 'a').write(' '.join([name, *words]) + '\\n')\n"
        "pathlib.Path(name).write_text(name)\n"
        "sys.exit('it broke' if pathlib.Path(name + '.breaks').exists() else 0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    table = {
        "last": Stage("stage last {minutes}", ("first", "second"), 0.5),
        "first": Stage("stage first {model}", hands_over=("first", "{model}-handed")),
        "second": Stage("stage second", ("first",), 0.25),
    }
    monkeypatch.setattr(family, "STAGES", table)
    return tmp_path


def said(folder):
    return (folder / "said").read_text().splitlines()


@pytest.mark.parametrize("parallel", [False, True])
def test_stages_follow_their_needs_with_their_share_of_the_minutes(stages, parallel):
    run = Family("model", stages / "runs", 8.0, {"second": ["--more"]})
    run.run(["last", "first", "second"], parallel)
    assert said(stages) == ["first model", "second --more", "last 4.000"]
    assert (stages / "model-handed").read_text() == "first"
    Family("model", stages / "runs", 8.0, {}).run(["last", "first", "second"], parallel)
    assert len(said(stages)) == 3  # nothing is done twice


def test_a_failure_is_told_and_what_needs_it_waits(stages):
    (stages / "second.breaks").touch()
    with pytest.raises(StageError, match=r"second failed \(it broke\); mend it"):
        Family("model", stages / "runs", 8.0, {}).run(["last", "first", "second"], True)
    assert [line.split()[0] for line in said(stages)] == ["first", "second"]
    (stages / "second.breaks").unlink()
    Family("model", stages / "runs", 8.0, {}).run(["last", "first", "second"], True)
    assert [line.split()[0] for line in said(stages)] == ["first", "second", "second", "last"]


def test_needs_that_are_not_asked_for_are_taken_as_met(stages):
    Family("model", stages / "runs", 8.0, {}).run(["last"], False)
    assert said(stages) == ["last 4.000"]


def test_every_stage_is_a_module_that_exists_and_needs_only_stages():
    import importlib.util

    for stage in STAGES.values():
        module = stage.command.split()[0]
        assert importlib.util.find_spec(module), module
        assert {*stage.needs} <= {*STAGES}


def test_a_flag_for_a_stage_that_is_not_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["family", "--set", "nothing", "=--batch=4"])
    with pytest.raises(family.ConfigError, match="no stage 'nothing'"):
        family.main()
