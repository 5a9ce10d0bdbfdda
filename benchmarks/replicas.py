"""What replicas give: pictures a second for many clients, and what one waits for alone.

    python -m benchmarks.replicas --json benchmarks/replicas.json

The bundled model on this machine's CPU, by one engine in this process and by 1, 2 and 4 replicas. Clients ask for this
and that (several seeds, guidance, a LoRA), each anew as soon as it is answered; a round is so many seconds, and comes
after one that is not counted. Then, of the most replicas, one is killed in the middle of a round: how many requests
were lost, and how long the slowest waited.
"""

import argparse
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import psutil

from benchmarks.one_step import machine
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.models import MODELS
from yoso_core.replicas.front import replicas
from yoso_core.requests import AUTO, DEFAULT_MODEL, RUNTIME_HELP, RUNTIMES, GenerateRequest, LoraUse
from yoso_core.service import Service

COUNTS = (0, 1, 2, 4)
CLIENTS = 16
ALONE = 100  # requests of one client


@contextmanager
def serving(count: int, runtime: str) -> Iterator[Service]:
    """One engine, or so many replicas, with the bundled LoRAs."""
    models = {DEFAULT_MODEL: MODELS[DEFAULT_MODEL]}
    if not count:
        service: Service = Engine(models, "cpu", runtime=runtime)
        service.load(DEFAULT_MODEL)
        yield service
        return
    with replicas((count, count), None, models, "cpu", runtime=runtime) as several:
        yield several


def mixed(lora: str) -> Iterator[GenerateRequest]:
    """What clients ask for."""
    kinds = itertools.cycle([{}, {}, {"count": 2}, {"guidance": 2.0}, {"loras": (LoraUse(lora, 0.7),)}])
    labels = itertools.cycle(["red heart", "grinning cat", "palm tree", "rocket", "fried egg"])
    for seed in itertools.count():
        yield GenerateRequest(f"a {next(labels)}", seed=seed, **next(kinds))


def crowd(service: Service, requests: Iterator[GenerateRequest], seconds: float) -> dict[str, float]:
    """Pictures a second of all clients, what a request took at the median and 19 of 20, and how many failed."""
    until, drawn, waited, failed = time.perf_counter() + seconds, [], [], []
    lock = threading.Lock()

    def client(number: int) -> None:
        while time.perf_counter() < until:
            with lock:
                request = next(requests)
            started = time.perf_counter()
            try:
                drawn.append(len(service.run(request).pictures))
            except Exception as error:  # whatever is lost is what is counted
                failed.append(error)
            waited.append(time.perf_counter() - started)

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    rate = sum(drawn) / (time.perf_counter() - started)
    slow = quantiles(waited, n=20)[-1]
    told = {"pictures_a_second": rate, "median_ms": median(waited) * 1000, "19_of_20_ms": slow * 1000}
    return told | {"slowest_ms": max(waited) * 1000, "requests": len(waited), "lost": len(failed)}


def alone(service: Service) -> float:
    """Median milliseconds of one client's plain requests."""
    taken = []
    for seed in range(ALONE):
        started = time.perf_counter()
        service.run(GenerateRequest("a red heart", seed=seed))
        taken.append(time.perf_counter() - started)
    return median(taken) * 1000


def kill_one() -> None:
    """Kill a replica that this process' Ray has started."""
    started = psutil.Process().children(recursive=True)
    next(one for one in started if "ServeReplica" in " ".join(one.cmdline())).kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--runtime", choices=(AUTO, *RUNTIMES), default="torch", help=RUNTIME_HELP)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="of replicas; 0: one engine, here")
    options = parser.parse_args()
    entry = bundled()[0]
    found = {"machine": machine(), "runtime": options.runtime, "clients": CLIENTS, "rounds": {}}
    for count in options.counts:
        started = time.perf_counter()
        with serving(count, options.runtime) as service:
            ready = time.perf_counter() - started
            service.add_lora(entry.id, entry.path)
            requests = mixed(entry.id)
            crowd(service, requests, options.seconds / 2)
            row = {"ready_s": ready, "alone_ms": alone(service)} | crowd(service, requests, options.seconds)
            if count > 1 and count == max(options.counts):
                timer = threading.Timer(options.seconds / 3, kill_one)
                timer.start()
                found["one_killed"] = crowd(service, requests, options.seconds)
        found["rounds"][str(count)] = row
        print(count or "one engine", {name: round(value, 1) for name, value in row.items()}, flush=True)
    print("one of them killed", {name: round(value, 1) for name, value in found.get("one_killed", {}).items()})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
