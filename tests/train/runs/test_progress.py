"""How far a run is: whatever was torn or done again, and however its events are read, the figures are the run's."""

import json
import random

import pytest
from PIL import Image

from train.runs.progress import POINTS, Progress


def started(step, time, seconds=100.0):
    return {"event": "Started", "time": time, "step": step, "seconds": seconds, "memory": 5, "disk": 7}


def done(step, time, **losses):
    return {"event": "StepDone", "time": time, "step": step, "losses": losses, "rate": 8.0, "eta": 3.0}


def told(event, step, time, **more):
    return {"event": event, "time": time, "step": step} | more


# A run that was killed at step 30, went on from its checkpoint at 20, was stopped, and went on to the end.
RUN = [
    told("Preview", 0, 1000, path="x"),
    started(0, 1010),
    done(10, 1020, mse=4.0),
    told("Saved", 20, 1030, path="x"),
    done(25, 1035, mse=3.0, other=1.0),
    done(30, 1040, mse=9.0),
    started(20, 5000, 60.0),
    done(30, 5010, mse=2.0, other=2.0),
    told("Saved", 32, 5012, path="x"),
    told("Stopped", 32, 5013),
    started(32, 9000),
    done(40, 9020, mse=1.0),
    told("Saved", 40, 9021, path="x"),
    told("Finished", 40, 9021, seconds=21.0),
]


def lines(events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def read(folder, content):
    (folder / "events.jsonl").write_bytes(content)
    return Progress(folder).update()


def known(progress):
    """All that is read off a run, without how much of its file that took."""
    return {name: value for name, value in vars(progress).items() if name not in ("_read", "_lock")}


def test_a_run_that_has_not_begun_is_at_its_beginning(tmp_path):
    progress = Progress(tmp_path / "nowhere").update()
    assert (progress.step, progress.saved, progress.expected, progress.curves()) == (0, None, {}, {})
    assert progress.previews() == []


def test_steps_done_again_count_once(tmp_path):
    progress = read(tmp_path, lines(RUN))
    assert progress.losses == {"mse": [(10, 4.0), (30, 2.0), (40, 1.0)], "other": [(30, 2.0)]}
    assert progress.sittings == [0, 20, 32]
    assert (progress.step, progress.saved, progress.time) == (40, 40, 9021)


def test_what_is_left_is_the_latest_that_was_said(tmp_path):
    progress = read(tmp_path, lines(RUN[:7]))
    assert (progress.step, progress.eta, progress.expected["memory"], progress.expected["disk"]) == (20, 60.0, 5, 7)
    progress = read(tmp_path, lines(RUN[:8]))
    assert (progress.step, progress.eta, progress.rate) == (30, 3.0, 8.0)


@pytest.mark.parametrize("seed", range(10))
def test_reading_in_pieces_is_reading_at_once(tmp_path, seed):
    rng, content = random.Random(seed), lines(RUN)
    progress, end = Progress(tmp_path), 0
    while end < len(content):
        end += rng.choice([1, 7, 60, 300])
        (tmp_path / "events.jsonl").write_bytes(content[:end])
        whole = content[:end].count(b"\n")
        assert progress.update().step == (RUN[whole - 1]["step"] if whole else 0)
    assert progress.update() == read(tmp_path, content)


def test_time_counts_while_something_trains(tmp_path):
    assert read(tmp_path, lines(RUN)).seconds == 30 + 13 + 21
    pauses = [
        told("Preview", 0, 100, path="x"),  # killed before it started
        told("Preview", 0, 2000, path="x"),
        started(0, 2010),  # killed before its first step
        told("Preview", 0, 4000, path="x"),
        started(0, 4010),
        done(5, 4015, mse=1.0),
        told("Finished", 5, 4015, seconds=5.0),
        told("Finished", 5, 9000, seconds=0.0),  # asked again for as many steps
    ]
    assert read(tmp_path, lines(pauses)).seconds == 5


@pytest.mark.parametrize("index", range(len(RUN)))
def test_torn_lines_are_as_if_they_were_not_there(tmp_path, index):
    whole, torn = known(read(tmp_path, lines(RUN))), lines([RUN[index]])
    for cut in range(1, len(torn) - 1, 5):
        content = lines(RUN[: index + 1]) + torn[:cut] + b"\n" + lines(RUN[index + 1 :])
        assert known(read(tmp_path, content)) == whole


@pytest.mark.parametrize("line", [b"", b"\0" * 40, b"\xff\xfe", b"{}", b"[1]", b"3", b'"x"', b'{"event": "Saved"}'])
def test_garbage_is_passed_over(tmp_path, line):
    whole = known(read(tmp_path, lines(RUN)))
    assert known(read(tmp_path, lines(RUN[:5]) + line + b"\n" + lines(RUN[5:]))) == whole


@pytest.mark.parametrize("count", [1, 2, POINTS - 1, POINTS, POINTS + 1, 2 * POINTS, 7 * POINTS + 3])
def test_curves_are_short_and_reach_the_last_step(tmp_path, count):
    rng = random.Random(count)
    values = [rng.random() for _ in range(count)]
    events = [done(10 * step, step, mse=value, flat=2.0) for step, value in enumerate(values, 1)]
    curves = read(tmp_path, lines([started(0, 0.5), *events])).curves()
    for curve in curves.values():
        steps = [step for step, _ in curve]
        assert POINTS / 2 < len(curve) <= POINTS or len(curve) == count
        assert steps == sorted(set(steps)) and steps[-1] == 10 * count
    assert {value for _, value in curves["flat"]} == {2.0}
    assert all(min(values) <= value <= max(values) for _, value in curves["mse"])
    if count <= POINTS:
        assert curves["mse"] == [(10 * step, value) for step, value in enumerate(values, 1)]


def test_previews_are_in_order_and_nothing_else(tmp_path):
    (tmp_path / "previews").mkdir()
    for name in ("0000100.png", "0000000.png", "0000020.png", "half.png", "0000030.txt"):
        Image.new("RGB", (4, 4)).save(tmp_path / "previews" / name, "PNG")
    assert [path.name for path in Progress(tmp_path).previews()] == ["0000000.png", "0000020.png", "0000100.png"]
