"""What others may read says nothing of where files lie on this machine."""

import errno

import pytest

from app.private import reason, without_places
from train.runs.jobs import ROOT, Job


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("step 5: {run}/checkpoints/step-0000005", "step 5: runs/abc-sky/checkpoints/step-0000005"),
        ("all in {run}/problems.txt; 3 samples", "all in runs/abc-sky/problems.txt; 3 samples"),
        ("{run} can't be written to", "runs/abc-sky can't be written to"),
        ('File "{root}/train/loop/trainer.py", line 5', 'File "./train/loop/trainer.py", line 5'),
        ("{parent}/device.lock", "runs/device.lock"),
        ("no such file: '/srv/secret place/x/y.txt'", None),
        ("/opt/models/sd15/unet is broken", "unet is broken"),
        ("~/models and /home/ann/models/sd", None),
        (
            "and/or, 3/4, a/b/c, https://example.org/a/b, 10/20 steps",
            "and/or, 3/4, a/b/c, https://example.org/a/b, 10/20 steps",
        ),
        ("/generate and /translate", "/generate and /translate"),
    ],
)
def test_places_are_left_out(tmp_path, text, shown):
    job = Job(tmp_path / "a studio" / "abc-sky")
    job.folder.mkdir(parents=True)
    told = text.format(run=job.folder, root=ROOT, parent=job.folder.parent)
    private = without_places(told, job)
    if shown is not None:
        assert private == shown
    for secret in (str(tmp_path), str(ROOT), "/srv/", "/home/ann", "/opt/models"):
        assert secret not in private


def test_a_full_disk_is_told_without_its_place():
    told = reason(OSError(errno.ENOSPC, "No space left on device", "/srv/secret/x"))
    assert told == "The disk of this machine is full (No space left on device); make room and try again."
    assert reason(PermissionError(errno.EACCES, "Permission denied", "/srv")).startswith("That could not be done (Perm")
    assert reason(ValueError("It has begun.")) == "It has begun."
