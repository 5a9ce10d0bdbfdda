"""What a run looks like in a terminal, and what happens when nobody looks any more."""

import builtins
from dataclasses import replace

import pytest

from tests.train.loop.test_trainer import CONFIG, LineTask
from train.loop.config import ConfigError
from train.loop.console import follow, run_command
from train.loop.trainer import Trainer, TrainingError


def test_a_log_file_gets_lines(tmp_path, capsys):
    assert follow(Trainer(LineTask(), CONFIG, tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("0000000.png") and lines[1].startswith("from step 0 to 12: about")
    assert any("samples/s" in line and "mse" in line for line in lines)
    assert lines[-1].startswith("done: 12 steps")


def test_an_output_that_nobody_reads_stops_the_run_with_a_checkpoint(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "print", broken)
        assert not follow(Trainer(LineTask(), replace(CONFIG, checkpoint_every=12), tmp_path))
    trainer = Trainer(LineTask(), replace(CONFIG, checkpoint_every=12), tmp_path)
    assert trainer.resume() == 1 and follow(trainer)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("batch must be at least 1"), "error: batch"),
        (TrainingError("the disk is full"), "error: the disk"),
        (PermissionError(13, "Permission denied", "x"), "error: [Errno 13]"),
        (KeyboardInterrupt(), "stopped before the first step"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    ],
)
def test_errors_are_one_sentence(error, words):
    def command():
        raise error

    with pytest.raises(SystemExit, match=r".*") as left:
        run_command(command)
    assert words in left.value.code


def test_a_mistake_of_ours_stays_a_traceback():
    with pytest.raises(RuntimeError, match="shapes"):
        run_command(lambda: (_ for _ in ()).throw(RuntimeError("shapes differ")))
