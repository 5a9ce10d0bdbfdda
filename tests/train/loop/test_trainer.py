"""The training loop on a task of ten numbers: exact resume, whole checkpoints, nothing lost, reasons in a sentence."""

import json
import os
import random
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from tests.processes import clean
from train.loop.checkpoint import checkpoints, save_checkpoint
from train.loop.config import ConfigError, RunConfig, load_config
from train.loop.randomness import Draws
from train.loop.trainer import (
    DivergedError,
    Finished,
    Losses,
    Player,
    Preview,
    Saved,
    Started,
    StepDone,
    Stopped,
    Trainer,
    TrainingError,
)


class LineTask:
    """Learn a line."""

    averaged = ("line",)
    sample_count = 10
    repeats = None

    def __init__(self, width=1, fingerprint="ten numbers"):
        torch.manual_seed(0)
        self.line = nn.Linear(1, width)
        self.players = {"line": Player(self.line, 0.1)}
        self.fingerprint = fingerprint

    def forward(self, indices, draws: Draws):
        x = indices.float()[:, None] / 10 + 0.01 * draws.normal(1)
        return self.line(x), 3 * x + 1

    def losses(self, player, shared):
        return Losses({"mse": (shared[0] - shared[1]).square().mean()}, {"mean": shared[0].mean()})

    def preview(self, averages):
        return Image.new("RGB", (4, 4))


CONFIG = RunConfig(steps=12, batch=4, warmup=2, checkpoint_every=1, preview_every=6, precision="fp32")


def weights(trainer):
    return {f"{n}.{k}": v.clone() for n, named in trainer.weights.items() for k, v in named.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_minutes_end_a_run_early_and_count_over_resumes(tmp_path, monkeypatch):
    """Each look at the clock is a quarter of a minute; half a minute is over after a few steps."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("train.loop.trainer.time.monotonic", lambda: 15.0 * next(ticks))
    limited = replace(CONFIG, steps=1000, minutes=2.0, checkpoint_every=1000)
    trainer = Trainer(LineTask(), limited, tmp_path)
    events = list(trainer.run())
    assert isinstance(events[-1], Finished) and 2 <= trainer.step < 20 and trainer.seconds >= 120
    assert max(event.eta for event in events if isinstance(event, StepDone)) <= 120
    again = Trainer(LineTask(), limited, tmp_path)
    assert [type(event) for event in again.run()] == [Finished] and again.step == trainer.step
    longer = Trainer(LineTask(), replace(limited, minutes=4.0), tmp_path)
    list(longer.run())
    assert longer.step > trainer.step


def test_events_tell_the_run(tmp_path):
    events = list(Trainer(LineTask(), CONFIG, tmp_path).run())
    assert [event.step for event in events if isinstance(event, Preview)] == [0, 6, 12]
    assert len([event for event in events if isinstance(event, Saved)]) == 12
    started = next(event for event in events if isinstance(event, Started))
    assert started.seconds > 0 and started.memory > 1e6 and started.disk > 0
    done = next(event for event in events if isinstance(event, StepDone))
    assert set(done.losses) == {"mse", "mean"}
    assert isinstance(events[-1], Finished)
    log = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == [type(event).__name__ for event in events]
    assert load_config(RunConfig, tmp_path / "config.json") == CONFIG


def test_the_estimate_moves_nothing(tmp_path, monkeypatch):
    with_estimate, without = Trainer(LineTask(), CONFIG, tmp_path / "a"), Trainer(LineTask(), CONFIG, tmp_path / "b")
    monkeypatch.setattr(without, "_estimate", lambda: Started(0, 0.0, 0, 0))
    list(with_estimate.run()), list(without.run())
    assert_same(weights(with_estimate), weights(without))


@pytest.mark.parametrize("stop", range(1, 12))
def test_resume_is_exact_from_every_step(tmp_path, stop):
    """Weights, moving averages, optimizer state: all equal, bit for bit."""
    whole = Trainer(LineTask(), CONFIG, tmp_path / "whole")
    list(whole.run())
    first = Trainer(LineTask(), CONFIG, tmp_path / "parts")
    for event in first.run():
        if isinstance(event, Saved) and event.step == stop:
            break
    second = Trainer(LineTask(), CONFIG, tmp_path / "parts")
    assert second.resume() == stop
    list(second.run())
    assert_same(weights(whole), weights(second))
    for name in ("exp_avg", "exp_avg_sq", "step"):
        moments = [
            [values[name] for values in trainer.optimizers["line"].state_dict()["state"].values()]
            for trainer in (whole, second)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))


def test_fp16_scale_is_part_of_the_checkpoint(tmp_path):
    config = replace(CONFIG, precision="fp16", steps=4)
    trainer = Trainer(LineTask(), config, tmp_path)
    list(trainer.run())
    trainer.scaler.update(128.0)
    state = {"step": 5, "identity": trainer._identity(), "scaler": trainer.scaler.state_dict()}
    save_checkpoint(tmp_path / "checkpoints", state, trainer.weights, trainer.optimizers)
    again = Trainer(LineTask(), config, tmp_path)
    assert again.resume() == 5 and again.scaler.get_scale() == 128.0


@pytest.mark.parametrize("accumulation", [2, 3, 4])
def test_accumulation_changes_nothing(tmp_path, accumulation):
    whole = Trainer(LineTask(), CONFIG, tmp_path / "whole")
    parts = Trainer(LineTask(), replace(CONFIG, accumulation=accumulation), tmp_path / "parts")
    list(whole.run()), list(parts.run())
    for a, b in zip(weights(whole).values(), weights(parts).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_too_many_parts_for_a_batch_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch is 4"):
        Trainer(LineTask(), replace(CONFIG, accumulation=5), tmp_path)


def test_stop_saves_and_the_next_run_goes_on(tmp_path):
    config = replace(CONFIG, checkpoint_every=100)
    trainer = Trainer(LineTask(), config, tmp_path)
    trainer.stop()
    events = list(trainer.run())
    assert isinstance(events[-1], Stopped) and isinstance(events[-2], Saved) and events[-1].step == 1
    assert isinstance(list(Trainer(LineTask(), config, tmp_path).run())[-1], Finished)


@pytest.mark.parametrize(
    ("task", "config", "named"),
    [
        (LineTask(), replace(CONFIG, learning_rate=0.5), "learning_rate"),
        (LineTask(), replace(CONFIG, seed=1), "seed"),
        (LineTask(fingerprint="other numbers"), CONFIG, "data and base model"),
        (LineTask(width=2), CONFIG, "another network"),
    ],
)
def test_a_folder_of_another_run_is_refused_before_the_first_step(tmp_path, task, config, named):
    list(Trainer(LineTask(), CONFIG, tmp_path).run())
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ConfigError, match=named):
        list(Trainer(task, config, tmp_path).run())
    assert (tmp_path / "config.json").read_text() == before


def test_a_run_may_be_made_longer(tmp_path):
    list(Trainer(LineTask(), CONFIG, tmp_path).run())
    assert list(Trainer(LineTask(), replace(CONFIG, steps=14), tmp_path).run())[-1].step == 14


def test_two_runs_in_one_folder_are_refused(tmp_path):
    first = Trainer(LineTask(), CONFIG, tmp_path).run()
    next(first)
    with pytest.raises(ConfigError, match="another process"):
        list(Trainer(LineTask(), CONFIG, tmp_path).run())
    first.close()
    assert isinstance(list(Trainer(LineTask(), CONFIG, tmp_path).run())[-1], Finished)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_divergence_stops_the_run_and_keeps_the_checkpoint(tmp_path, precision):
    task = LineTask()
    trainer = Trainer(task, replace(CONFIG, precision=precision), tmp_path)
    with pytest.raises(DivergedError, match="mse is nan"):
        for event in trainer.run():
            if isinstance(event, Saved) and event.step == 3:
                task.line.weight.data.fill_(torch.nan)
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step-0000003"


def test_an_exploding_loss_stops_the_run(tmp_path):
    task, config = LineTask(), replace(CONFIG, steps=60)
    with pytest.raises(DivergedError, match="exploded"):
        for event in Trainer(task, config, tmp_path).run():
            if isinstance(event, Saved) and event.step == 30:
                task.line.weight.data.mul_(1000)


def test_a_finished_run_says_so(tmp_path):
    list(Trainer(LineTask(), CONFIG, tmp_path).run())
    assert list(Trainer(LineTask(), CONFIG, tmp_path).run()) == [Finished(12, 0.0)]


def test_checkpoints_of_something_else_are_left_alone(tmp_path):
    theirs = tmp_path / "checkpoints" / "step-1000" / "model.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    with pytest.raises(ConfigError, match="something else"):
        list(Trainer(LineTask(), CONFIG, tmp_path).run())
    assert theirs.read_text() == "precious" and not (tmp_path / "config.json").exists()


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (9_999_998, 9_999_999, 10_000_000):
        path = save_checkpoint(tmp_path, {"step": step}, {"line": {"weight": torch.ones(2)}}, {})
    assert checkpoints(tmp_path)[-1] == path and len(checkpoints(tmp_path)) == 2


def overwrite(name, change):
    def harm(checkpoint):
        tensors = {key: change(value) for key, value in load_file(checkpoint / name).items()}
        save_file({key: value for key, value in tensors.items() if value is not None}, checkpoint / name)

    return harm


def flip_bit(name):
    def harm(checkpoint):
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) * 3 // 4] ^= 1
        (checkpoint / name).write_bytes(content)

    return harm


HARMS = [
    overwrite("line.safetensors", lambda value: value * torch.nan),
    overwrite("line.safetensors", lambda value: value * 1.5),
    overwrite("line.average.safetensors", lambda value: value.to(torch.int8)),
    overwrite("line.optimizer.safetensors", lambda value: value if value.ndim < 2 else value.repeat(2, 1)),
    overwrite("line.optimizer.safetensors", lambda value: value if value.ndim else None),
    flip_bit("line.safetensors"),
    flip_bit("line.average.safetensors"),
    flip_bit("line.optimizer.safetensors"),
    flip_bit("state.json"),
    flip_bit("sums.json"),
    lambda checkpoint: (checkpoint / "line.safetensors").write_bytes(b"\x00" * 20),
    lambda checkpoint: (checkpoint / "line.average.safetensors").unlink(),
    lambda checkpoint: (checkpoint / "state.json").write_text("{"),
    lambda checkpoint: (checkpoint / "state.json").write_text("[]"),
    lambda checkpoint: (checkpoint / "sums.json").write_text("{}"),
    lambda checkpoint: checkpoint.rename(checkpoint.with_name("step-0000099")),
]


HALF = replace(CONFIG, steps=8)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that is through; read only."""
    folder = tmp_path_factory.mktemp("done") / "run"
    list(Trainer(LineTask(), HALF, folder).run())
    return folder


@pytest.mark.parametrize("harm", HARMS)
def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_gone_on_from(done, tmp_path, harm, capsys):
    run = shutil.copytree(done, tmp_path / "run")
    harm(checkpoints(run / "checkpoints")[-1])
    trainer = Trainer(LineTask(), HALF, run)
    saved = [event.step for event in trainer.run() if isinstance(event, Saved)]
    assert saved == [8] and "is damaged" in capsys.readouterr().out
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-0000007", "step-0000008"]
    for name in ("line.safetensors", "line.average.safetensors", "line.optimizer.safetensors"):
        contents = [(each / "checkpoints" / "step-0000008" / name).read_bytes() for each in (run, done)]
        assert contents[0] == contents[1], name


def test_where_all_checkpoints_are_damaged_nothing_is_trained_or_removed(done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    for checkpoint in checkpoints(run / "checkpoints"):
        flip_bit("line.safetensors")(checkpoint)
    with pytest.raises(ConfigError, match=r"^the checkpoint step-0000007 is damaged .*as are all others") as refused:
        list(Trainer(LineTask(), HALF, run).run())
    assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)
    assert len(checkpoints(run / "checkpoints")) == 2


def test_a_checkpoint_from_before_checksums_is_gone_on_from(done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    for checkpoint in checkpoints(run / "checkpoints"):
        (checkpoint / "sums.json").unlink()
    assert Trainer(LineTask(), HALF, run).resume() == 8


def test_a_half_written_checkpoint_is_not_seen(tmp_path, monkeypatch):
    tensors = {"line": {"weight": torch.ones(2)}}
    save_checkpoint(tmp_path, {"step": 1}, tensors, {})
    monkeypatch.setattr("train.loop.checkpoint.save_file", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, {"step": 2}, tensors, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]


def test_a_torn_line_of_the_log_spoils_no_other(tmp_path):
    tmp_path.joinpath("events.jsonl").write_text('{"event": "Step')
    list(Trainer(LineTask(), CONFIG, tmp_path).run())
    torn, *rest = (tmp_path / "events.jsonl").read_text().splitlines()
    assert torn == '{"event": "Step' and all(json.loads(line) for line in rest)


def test_terms_reach_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    list(Trainer(LineTask(), replace(CONFIG, tracker="tensorboard"), tmp_path).run())
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"mse", "mean"} <= set(events.Tags()["scalars"])


def train_wide_lines(folder: Path, limit: int | None = None, begun=None) -> None:
    """What the processes below run; with `limit`, no file may be larger once three checkpoints are there."""
    torch.set_num_threads(1)
    config = replace(CONFIG, steps=100_000, preview_every=100_000)
    for event in Trainer(LineTask(width=500), config, folder).run():
        if begun and isinstance(event, Started):
            begun.set()
        if limit and isinstance(event, Saved) and event.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def report_error(folder: Path, limit: int, answers) -> None:
    try:
        train_wide_lines(folder, limit)
    except TrainingError as error:
        answers.put(str(error))


@pytest.fixture(scope="module")
def processes():
    """Milliseconds each."""
    return clean()


def test_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path, processes):
    """100 times SIGKILL, most of them while a checkpoint is written or an old one removed."""
    delays, reached = random.Random(0), 0
    for _ in range(100):
        begun = processes.Event()
        process = processes.Process(target=train_wide_lines, args=(tmp_path, None, begun))
        process.start()
        assert begun.wait(60)
        while not checkpoints(tmp_path / "checkpoints"):
            time.sleep(0.001)  # only the first time: until there is something to lose
        time.sleep(delays.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        trainer = Trainer(LineTask(width=500), replace(CONFIG, steps=100_000, preview_every=100_000), tmp_path)
        step = trainer.resume()
        assert step >= max(1, reached)  # at most the steps since the last checkpoint are lost
        reached = step
        assert all(value.isfinite().all() for value in weights(trainer).values())
    assert reached > 20  # they did go on, each from where the one before was killed
    assert len(checkpoints(tmp_path / "checkpoints")) <= 3


def test_a_full_disk_is_said_and_keeps_the_checkpoint(tmp_path, processes):
    answers = processes.Queue()
    process = processes.Process(target=report_error, args=(tmp_path, 1500, answers))
    process.start()
    message = answers.get(timeout=60)
    process.join()
    assert "can't be written to" in message and "goes on from the last checkpoint" in message
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step-0000003"
    assert not list((tmp_path / "checkpoints").glob(".partial-*"))
    trainer = Trainer(LineTask(width=500), replace(CONFIG, steps=100_000, preview_every=100_000), tmp_path)
    assert trainer.resume() == 3
