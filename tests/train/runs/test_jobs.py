"""Runs in processes of their own: found again, in line, stopped, resumed and kept, whatever is killed when."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import psutil
import pytest
from PIL import Image

from tests.trained import PATIENCE, finish
from train.loop.checkpoint import checkpoints
from train.runs import jobs as module
from train.runs.jobs import (
    DEVICE_LOCK,
    KEEP,
    LOCK,
    ROOT,
    STANDING_BY,
    STOP,
    Job,
    JobError,
    Runs,
    Standby,
    held,
    is_held,
    read_json,
    write_json,
)
from train.runs.progress import Progress
from train.runs.worker import StopAsked, carry_out, turn
from train.tasks.diffusion import DiffusionConfig
from yoso_core.lora.library import of_run

SHORT = {"batch": 2, "warmup": 1, "precision": "fp32", "rank": 2, "alpha": 2, "adapter": "lora"}


@pytest.fixture
def root(tmp_path):
    """A folder of runs; whatever still trains there at the end is killed."""
    yield tmp_path / "runs"
    for job in Runs(tmp_path / "runs").all(""):
        job.discard()


def settings(model, **changes):
    config = DiffusionConfig(**SHORT | {"model": str(model), "checkpoint_every": 5, "preview_every": 10} | changes)
    return asdict(config)


def draft(root, owner="", private=False):
    job = Runs(root, private).draft(owner)
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 90)).save(job.data / f"square {'abc'[number]}.png")
    return job


def begin(root, model, title="My style", **changes):
    return Runs(root).begin(draft(root), "teacher", "quick", title, settings(model, **changes))


def wait(job, *states, steps=0, saved=0):
    until = time.monotonic() + PATIENCE

    def there():
        progress = Progress(job.folder).update()
        return job.state in states and progress.step >= steps and (progress.saved or 0) >= saved

    while not there():
        assert time.monotonic() < until, (job.state, job.reason, job.log())
        assert job.state not in ("failed", "finished"), (job.reason, job.log())
        time.sleep(0.1)


def pid_of(job):
    return read_json(job.folder / "state.json")["pid"]


def test_a_lock_tells_who_lives(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    with held(path) as free:
        assert free and is_held(path)
        with held(path) as again:
            assert not again
    assert not is_held(path)


def test_json_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1} and read_json(tmp_path / "b.json") == {}
    (tmp_path / "c.json").write_text('{"a": ')
    assert read_json(tmp_path / "c.json") == {} and len(list(tmp_path.iterdir())) == 2


def test_a_draft_is_one_and_is_not_listed_to_others(tmp_path):
    runs = Runs(tmp_path, private=True)
    mine, other = runs.draft("me"), runs.draft("you")
    assert runs.draft("me").id == mine.id != other.id and mine.state == "draft"
    assert [job.id for job in runs.all("me")] == [mine.id]
    assert runs.all("") == [] and len(Runs(tmp_path).all("")) == 2
    assert len(mine.id.partition("-")[0]) == 32  # a secret
    with pytest.raises(JobError, match="no such run"):
        runs.get(other.id, "me")
    for name in ("", ".", "..", "../runs", str(mine.folder)):
        with pytest.raises(JobError, match="no such run"):
            runs.get(name, "me")


def put_picture(job):
    Image.new("RGB", (8, 8)).save(job.data / "a.png")


def test_a_draft_with_nothing_in_it_does_not_stay(tmp_path):
    runs = Runs(tmp_path, private=True)
    with runs.drafting("me") as job:
        (job.data / "metadata.jsonl").touch()
        (job.data / ".captions.json").write_text("{}")
    assert not job.folder.exists() and runs.all("me") == []
    with runs.drafting("me") as job, runs.drafting("me") as same:
        assert job.id == same.id
        put_picture(job)
    assert job.folder.exists() and runs.draft("me").id == job.id
    with pytest.raises(ValueError), runs.drafting("me") as job:
        (job.data / "a.png").unlink()
        raise ValueError
    assert not job.folder.exists()


def test_drafts_of_several_owners_go_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr("train.runs.jobs.CLEARED_EVERY", 0.0)
    runs, long_ago = Runs(tmp_path, private=True), time.time() - 25 * 3600
    old, new, begun = (runs.draft(owner) for owner in ("old", "new", "begun"))
    for job in (old, new, begun):
        put_picture(job)
    begun.change(task="teacher")
    begun.set_state("paused", pid=0)
    for job in (old, begun):
        os.utime(job.data, (long_ago, long_ago))
    assert [job.id for owner in ("old", "new", "begun") for job in runs.all(owner)] == [new.id, begun.id]
    own = Runs(tmp_path / "own")
    os.utime(own.draft("").data, (long_ago, long_ago))
    assert own.all("")  # one's own stay


def test_who_has_most_drafts_loses_their_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr("train.runs.jobs.DRAFTS", 5)
    runs = Runs(tmp_path, private=True)
    mine = runs.draft("me", "10.0.0.1")
    others = [runs.draft(f"owner-{number}", "10.0.0.2") for number in range(8)]
    assert mine.folder.exists() and [job.folder.exists() for job in others] == [False] * 4 + [True] * 4
    assert len(list(tmp_path.iterdir())) == 5


def test_no_draft_is_made_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("train.runs.jobs.shutil.disk_usage", lambda place: type("", (), {"free": 1_000_000})())
    with pytest.raises(JobError, match="nearly full"):
        Runs(tmp_path).draft("")
    assert not list(tmp_path.iterdir())


def test_runs_that_have_not_changed_are_not_read_again(tmp_path, monkeypatch):
    runs = Runs(tmp_path, private=True)
    jobs = [runs.draft(f"owner-{number}") for number in range(30)]
    read = []
    monkeypatch.setattr("train.runs.jobs.read_json", lambda path: read.append(path) or read_json(path))
    assert [job.id for job in runs.all("owner-3")] == [jobs[3].id]
    read.clear()
    for _ in range(10):
        assert [job.id for job in runs.all("owner-3")] == [jobs[3].id]
    assert read == []
    jobs[4].change(owner="owner-3")
    read.clear()
    assert {job.id for job in runs.all("owner-3")} == {jobs[3].id, jobs[4].id} and len(read) == 1


def test_a_line_has_an_end_where_there_are_several_owners(tmp_path, monkeypatch):
    monkeypatch.setattr("train.runs.jobs.WAITING", 2)
    runs = Runs(tmp_path, private=True)
    jobs = [runs.draft(f"owner-{number}") for number in range(3)]
    with held(jobs[0].folder / LOCK), held(jobs[1].folder / LOCK), pytest.raises(JobError, match="wait in line"):
        runs.begin(jobs[2], "teacher", "quick", "Mine", {})
    assert jobs[2].state == "draft"


def test_a_run_without_settings_does_not_start(tmp_path):
    with pytest.raises(JobError, match="no settings"):
        Runs(tmp_path).draft("").start()


@pytest.mark.parametrize(("done", "state"), [(True, "finished"), (False, "paused")])
def test_word_is_left_how_it_ended(tmp_path, done, state):
    job = Job(tmp_path)
    carry_out(job, lambda: done)
    assert job.state == state and job.reason == ""


def test_a_failure_leaves_its_reason(tmp_path):
    job = Job(tmp_path)

    def fail():
        assert read_json(tmp_path / "state.json")["state"] == "running"
        raise MemoryError

    with pytest.raises(MemoryError):
        carry_out(job, fail)
    assert job.state == "failed" and "lower batch" in job.reason


def test_a_running_state_without_a_process_is_interrupted(tmp_path):
    job = Job(tmp_path)
    job.set_state("running")
    assert job.state == "interrupted"
    with held(tmp_path / LOCK):
        assert job.state == "running"


def test_keeping_removes_what_going_on_needs(tmp_path):
    job = Job(tmp_path)
    job.set_state("paused")
    (tmp_path / "checkpoints" / "step-0000005").mkdir(parents=True)
    job.keep()
    assert job.state == "kept" and not job.has_checkpoint and not (tmp_path / KEEP).exists()


def test_turns_are_taken_in_order(tmp_path):
    first, second = Job(tmp_path / "b"), Job(tmp_path / "a")
    for job in (first, second):
        job.folder.mkdir()
        job.set_state("queued")
        time.sleep(0.01)
    with held(first.folder / LOCK), held(second.folder / LOCK):
        (second.folder / STOP).touch()
        with pytest.raises(StopAsked), turn(second):  # it would wait for ever otherwise
            pytest.fail("it is not its turn")
        with turn(first):
            assert is_held(tmp_path / DEVICE_LOCK)
            first.set_state("running")
    (second.folder / STOP).unlink()
    with held(second.folder / LOCK), turn(second):  # whoever died does not hold up the line
        pass


def test_a_run_trains_stops_goes_on_exactly_and_can_be_used(root, tiny_model, forks):
    job = begin(root, tiny_model, steps=30)
    assert job.state in ("queued", "running") and job.id.startswith("my-style-")
    with pytest.raises(JobError, match="training already"):
        job.start()
    gone = begin(root, tiny_model, title="Not wanted", steps=5)
    bad = Runs(root).begin(draft(root), "teacher", "quick", "Bad", settings(tiny_model) | {"model": "/nowhere"})
    wait(job, "running", steps=3)
    assert gone.state == bad.state == "queued"
    gone.discard()  # and holds up nobody
    job.stop()
    assert finish(job) == "paused", job.log()
    (saved,) = [path.name for path in checkpoints(job.folder / "checkpoints")][-1:]
    assert of_run(job.folder)[0].title == "My style"
    assert finish(bad) == "failed" and "/nowhere" in bad.reason
    job.start()
    assert finish(job) == "finished", job.log()
    assert f"from step {int(saved.removeprefix('step-'))} to 30" in job.log()
    names = [entry.id for entry in of_run(job.folder)]
    assert names[:2] == [f"run-{job.id}", f"run-{job.id}-step-30"]
    progress = Progress(job.folder).update()
    assert progress.step == 30 and progress.saved == 30 and progress.losses["error"][-1][0] == 30
    assert [path.stem for path in progress.previews()][:2] == ["0000000", "0000010"]
    job.discard()
    assert not job.folder.exists() and [one.id for one in Runs(root).all("")] == [bad.id]


def test_a_run_outlives_who_began_it_and_goes_on_when_it_was_killed_itself(root, tiny_model, forks):
    code = (
        "import json, sys; from pathlib import Path; from train.runs.jobs import STANDBY, Runs; STANDBY.call();"
        "runs = Runs(Path(sys.argv[1]));"
        "runs.begin(runs.draft(''), 'teacher', 'quick', 'Orphan', json.loads(sys.argv[2])); sys.stdin.read()"
    )
    pictures = draft(root)
    command = [sys.executable, "-c", code, str(root), json.dumps(settings(tiny_model, steps=40))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True) as server:
        until = time.monotonic() + PATIENCE
        while not (jobs := [one for one in Runs(root).all("") if one.id != pictures.id]) and time.monotonic() < until:
            time.sleep(0.1)
        server.kill()
    (job,) = jobs
    wait(job, "running", saved=5)  # a step is told before its checkpoint is written
    assert STANDING_BY in psutil.Process(pid_of(job)).cmdline()
    os.kill(pid_of(job), signal.SIGKILL)
    assert finish(job) == "interrupted"
    assert of_run(job.folder), "the last checkpoint is usable"
    job.start()
    assert finish(job) == "finished", job.log()


STUB = """
import os, socket, sys
folder, given, *_ = socket.recv_fds(socket.socket(fileno=int(sys.argv[2])), 1000, 2)
if given:
    os.write(given[1], folder)
    sys.stdin.read()  # with the lock in hand
"""


@pytest.fixture
def standby(monkeypatch, call_standby):
    """One whose process stands by at once, and holds a run's lock for as long as it lives."""
    made = []

    def start(arguments, descriptors):
        made.append(
            subprocess.Popen([sys.executable, "-c", STUB, *arguments], stdin=subprocess.PIPE, pass_fds=descriptors)
        )
        return made[-1]

    monkeypatch.setattr(module, "_process", start)
    found = Standby()
    found.call = lambda: call_standby(found)
    found.made = made
    yield found
    for process in made:
        process.kill()
        process.communicate()


def test_who_stands_by_takes_one_run_with_its_lock_and_its_log(standby, tmp_path):
    standby.call()
    standby.call()
    (process,) = standby.made  # one is enough
    lock = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    assert module._lock(lock, 0.0)
    with open(tmp_path / "log", "w") as log:
        assert standby.take(tmp_path / "mine", lock, log.fileno())
        assert not standby.take(tmp_path / "yours", lock, log.fileno())  # it has one
    os.close(lock)
    until = time.monotonic() + PATIENCE
    while not (said := (tmp_path / "log").read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    assert said == str(tmp_path / "mine") and is_held(tmp_path / LOCK)
    process.communicate()
    assert not is_held(tmp_path / LOCK)


def test_who_stands_by_is_let_go_after_a_while_or_when_it_has_died(standby, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STANDS_BY", 0.1)
    standby.call()
    assert standby.made[0].wait(PATIENCE) == 0
    monkeypatch.setattr(module, "STANDS_BY", 900.0)
    standby.call()
    standby.made[1].kill()
    standby.made[1].wait()
    assert not standby.take(tmp_path, 0, 1)
    standby.call()  # and another stands by
    assert len(standby.made) == 3 and standby.made[2].poll() is None
    standby.dismiss()
    assert standby.made[2].wait(PATIENCE) == 0


def test_where_nobody_can_stand_by_a_run_begins_without(standby, tmp_path, monkeypatch):
    memory = psutil.virtual_memory()
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory._replace(available=10**9))
    standby.call()
    assert not standby.made and not standby.take(tmp_path, 0, 1)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory._replace(available=10**10))

    def refuse(*given):
        raise OSError(11, "no more processes")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_process", refuse)
        standby.call()
    assert not standby.take(tmp_path, 0, 1)
    standby.call()
    assert len(standby.made) == 1


def test_a_run_that_has_to_wait_leaves_alone_who_stands_by(tmp_path, monkeypatch):
    """What waits in line is to have nothing heavy in memory."""
    taken, started = [], []
    monkeypatch.setattr(module.STANDBY, "take", lambda *given: bool(taken.append(given)) or True)
    monkeypatch.setattr(module, "_process", lambda *given: started.append(given))
    job = Job(tmp_path / "mine")
    job.folder.mkdir()
    job.change(task="teacher")
    (job.folder / "config.json").write_text("{}")
    job.start()
    assert len(taken) == 1 and not started
    with held(tmp_path / DEVICE_LOCK):
        job.start()
    assert len(taken) == 1 and len(started) == 1


TRAINER = """
import os, sys, threading, time
from pathlib import Path
from train.runs.jobs import DEVICE_LOCK, LOCK, Job, held
from train.runs.worker import end_with_folder
job = Job(Path(sys.argv[1]))
with held(job.folder.parent / DEVICE_LOCK):
    lock = os.open(job.folder / LOCK, os.O_RDWR | os.O_CREAT)
    threading.Thread(target=end_with_folder, args=(job, lock), daemon=True).start()
    print("trains", flush=True)
    while True:
        (job.folder / "previews").mkdir(parents=True, exist_ok=True)
        time.sleep(0.2)  # more often than any run writes
"""


@pytest.mark.parametrize("way", ["removed", "renamed", "removed with all runs", "its lock removed"])
def test_a_run_whose_folder_goes_leaves_no_trainer(tmp_path, way):
    job = Job(tmp_path / "runs" / "mine")
    job.folder.mkdir(parents=True)
    job.change(task="teacher")
    process = subprocess.Popen([sys.executable, "-c", TRAINER, job.folder], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout.readline() == b"trains\n"
    time.sleep(0.5)
    assert process.poll() is None and is_held(job.folder.parent / DEVICE_LOCK)  # as long as nothing is amiss
    if way == "removed":
        shutil.rmtree(job.folder, ignore_errors=True)
    elif way == "renamed":
        job.folder.rename(tmp_path / "runs" / "yours")
    elif way == "its lock removed":
        (job.folder / LOCK).unlink()
    else:
        shutil.rmtree(job.folder.parent, ignore_errors=True)
    assert process.wait(10) == 1 and not is_held(job.folder.parent / DEVICE_LOCK)
    assert job.folder.exists() == (way == "its lock removed")
    if way == "renamed":
        assert Job(tmp_path / "runs" / "yours").about["task"] == "teacher"
