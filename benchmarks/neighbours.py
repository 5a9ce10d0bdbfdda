"""What else a machine is busy with while something is timed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NICENESS = 10  # of a training run, as the studio starts them
LOOP = """
import os, sys, torch
os.nice(int(sys.argv[1]))
network = torch.nn.Sequential(*[torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(4)])
optimizer = torch.optim.SGD(network.parameters(), 1e-6)
print("runs", flush=True)
while True:
    network(torch.randn(16, 64, 32, 32)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@contextmanager
def neighbours() -> Iterator[None]:
    """A training run, and one busy process of equal rights, until they are no longer needed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", LOOP, "0"], stdout=subprocess.PIPE, env=environment),
        subprocess.Popen([sys.executable, "-c", LOOP, str(NICENESS)], stdout=subprocess.PIPE),
    ]
    try:
        for process in started:
            process.stdout.readline()
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
