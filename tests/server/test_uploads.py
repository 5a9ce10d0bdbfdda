"""The account of uploads, and the folder that goes with its studio."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.server.uploads import FolderError, Uploads, own_folder

STUDIO = """
import sys, time
from pathlib import Path
from app.server.uploads import own_folder
with own_folder(Path(sys.argv[1])) as folder:
    (folder / "picture").write_text("of a stranger")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_share_comes_back_with_time(tmp_path):
    now = [0.0]
    uploads = Uploads(tmp_path, each=100_000, in_all=10**6, keep=120, clock=lambda: now[0])
    assert uploads.charge("me", 70_000) and uploads.refusal("me", 30_000) is None
    now[0] = 60.0
    assert uploads.charge("me", 20_000)
    assert "100 kB in 2 minutes" in uploads.refusal("me", 11_000) and uploads.refusal("you", 100_000) is None
    assert not uploads.charge("me", 11_000)
    now[0] = 121.0
    assert uploads.refusal("me", 69_000) is None and "now" in uploads.refusal("me", 70_000)
    now[0] = 400.0
    assert uploads.refusal("me", 100_000) is None


def test_a_folder_is_gone_with_its_studio_however_that_ends(tmp_path):
    def begin() -> tuple[subprocess.Popen, Path]:
        process = subprocess.Popen([sys.executable, "-c", STUDIO, tmp_path], stdout=subprocess.PIPE, text=True)
        return process, Path(process.stdout.readline().strip())

    (killed, left), (alive, kept) = begin(), begin()
    killed.kill()
    killed.wait()
    assert (left / "picture").exists()
    with own_folder(tmp_path) as folder:
        assert not left.exists() and (kept / "picture").exists() and folder.is_dir() and folder != kept
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "mine").touch()
    assert not folder.exists()
    alive.send_signal(signal.SIGINT)  # ends as by an exception
    alive.wait()
    assert not kept.exists()


def test_a_folder_of_somebody_else_is_not_used(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    with pytest.raises(FolderError, match="belongs to somebody else"), own_folder(tmp_path / "linked"):
        pass
    if os.getuid() == 0:
        os.chown(tmp_path / "real", 1, 1)
        with pytest.raises(FolderError, match="belongs to somebody else"), own_folder(tmp_path / "real"):
            pass
