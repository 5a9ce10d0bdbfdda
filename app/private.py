"""What a shared studio tells of itself: nothing of where its files lie."""

import errno
import os
import re
import sys
import tempfile
from pathlib import Path

from train.runs.jobs import ROOT, Job

# A path from the root, in what programs write: up to a quote, a blank or what ends a sentence.
PATH = re.compile(r"(?<![\w./:~-])(?:/[\w.@%+=~-]+){2,}/?")
HOME = re.compile(r"(?<![\w.])~?/(?:home|root|Users)/[^\s/'\"]+")


def without_places(text: str, job: Job) -> str:
    """A text about a run without the folders of the machine.

    What lies in the run's folder is told by its place there, everything else by its last name alone. Addresses of the
    web stay; so do paths that are no more than a name.
    """
    for place, shown in _known(job):
        text = text.replace(place, shown)
    text = PATH.sub(lambda match: _last(match[0]), text)
    return HOME.sub("~", text)


def _known(job: Job) -> list[tuple[str, str]]:
    """Folders as they may be written, the longest first, and what stands for each; they may hold blanks."""
    run = f"runs/{job.id}"
    found = {str(job.folder.resolve()): run, str(job.folder): run, str(job.folder.absolute()): run}
    for folder, shown in (
        (job.folder.parent, "runs"),
        (ROOT, "."),
        (Path(sys.prefix), "python"),
        (Path(sys.base_prefix), "python"),
        (Path.home(), "~"),
        (Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()), "temporary"),
    ):
        found |= dict.fromkeys((str(folder.resolve()), str(folder.absolute())), shown)
    found = {place: shown for place, shown in found.items() if len(place) > 1 and Path(place).is_absolute()}
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def reason(error: BaseException) -> str:
    """Why something failed, in words without the place of a file."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of this machine is full ({error.strerror}); make room and try again."
    return f"That could not be done ({error.strerror}); please try again."
