"""What is lost when the trainer or the studio is killed: nothing but the steps since the last checkpoint.

    python -m benchmarks.kills --kills 50

A run of small random networks trains beside the studio; one of the two is killed with SIGKILL at a random instant, by
turns. After each the run must be found, the studio must answer, and a killed trainer must go on from its last
checkpoint. What each LoRA file on disk is worth is checked by reading it.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from tests.tiny import write_tiny_model
from train.runs.jobs import ROOT, Job, Runs, read_json
from train.runs.progress import Progress
from train.tasks.diffusion import DiffusionConfig
from yoso_core.lora.library import of_run

EVERY = 5  # steps between checkpoints
PATIENCE = 180  # seconds for a process to begin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(root: Path, port: int) -> subprocess.Popen:
    """The studio, once it answers."""
    command = [sys.executable, "app.py", "--port", str(port), "--runs", str(root)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
            return server
        except OSError:
            assert time.monotonic() < until and server.poll() is None, "the studio does not begin"
            time.sleep(0.2)


def begin(root: Path, model: Path) -> Job:
    job = Runs(root).draft("")
    for number, name in enumerate("abc"):
        Image.new("RGB", (64, 64), (80 * number, 0, 90)).save(job.data / f"square {name}.png")
    config = DiffusionConfig(
        **{"steps": 10**6, "batch": 2, "rank": 2, "adapter": "lora", "precision": "fp32", "model": str(model)},
        **{"checkpoint_every": EVERY, "preview_every": 1000},
    )
    return Runs(root).begin(job, "teacher", "quick", "Victim", asdict(config))


def wait_for(job: Job, step: int) -> int:
    """Wait until the run has got beyond a step; returns where it is."""
    until = time.monotonic() + PATIENCE
    while (done := Progress(job.folder).update().step) <= step:
        assert time.monotonic() < until and job.state in ("queued", "running"), (job.state, job.log())
        time.sleep(0.05)
    return done


def kill_trainer(job: Job) -> int:
    """Kill it, see that it is found, let it go on; returns the steps that were lost."""
    os.kill(read_json(job.folder / "state.json")["pid"], signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while job.alive and time.monotonic() < until:
        time.sleep(0.02)
    [found] = Runs(job.folder.parent).all("")
    assert found.id == job.id and found.state == "interrupted", found.state
    loras = of_run(found.folder)
    assert loras and loras[0].rank == 2, "what was handed over can't be read"
    before = Progress(job.folder).update()
    found.start()
    wait_for(found, before.step)  # it goes on, beyond where it was
    # The log may be one checkpoint behind: killed between the two, nothing is lost.
    return max(0, before.step - Progress(job.folder).update().sittings[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, port = random.Random(options.seed), free_port()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "runs"
        server, job = serve(root, port), begin(root, write_tiny_model(Path(place) / "model"))
        lost = []
        try:
            wait_for(job, EVERY)
            for number in range(options.kills):
                time.sleep(chance.uniform(0, 4))
                if number % 2:
                    server.kill()
                    server.wait()
                    [found] = Runs(root).all("")
                    assert found.state == "running", found.state
                    step = Progress(job.folder).update().step
                    server = serve(root, port)
                    wait_for(job, step)  # it never noticed
                else:
                    lost.append(kill_trainer(job))
                    assert lost[-1] <= EVERY, lost
                print(f"{number + 1}: found, going on", flush=True)
        finally:
            server.kill()
            job.discard()
    trainers = len(lost)
    print(
        f"{options.kills} kills ({trainers} of the trainer, {options.kills - trainers} of the studio): always found, "
        f"always went on; at most {max(lost)} steps lost, with a checkpoint every {EVERY}"
    )


if __name__ == "__main__":
    main()
