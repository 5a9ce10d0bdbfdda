"""Serve the studio: python app.py [--port 7860] [--add-model FOLDER] [--loras FOLDER] [--mcp], and more with --help."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave their core to neighbours; before torch
if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  # before torch, in place of whose CUDA it puts what works without a GPU

from app import space
from app.server.hosts import hosts_at
from app.server.lent_training import LentTraining
from app.server.uploads import FolderError, own_folder
from app.server.zero import LentEngine
from app.settings import is_proposed
from app.train_mode import MODES, usual_mode
from app.ui import build_app, launch_options
from yoso_core.devices import device_named
from yoso_core.engine import Engine, PictureError
from yoso_core.lora.library import bundled, distinct, in_folder, left_out, trained
from yoso_core.models import MODELS as KNOWN
from yoso_core.models import local_model
from yoso_core.requests import AUTO, RUNTIME_HELP, RUNTIMES, GenerateRequest, RequestError
from yoso_core.service import Service
from yoso_core.translate import find_translators

SHELF = {"open": True, "closed": False, None: None}
PORTS = range(1, 65_536)
REPLICAS = 1000
THREADS = 40  # Gradio's, beside those that wait for pictures


def parse_arguments() -> argparse.Namespace:
    host = os.environ.get("HOST") or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")  # a Space sets the latter
    parser = argparse.ArgumentParser(description="One prompt, one network evaluation, one picture.")
    parser.add_argument("--host", default=host, help="address to listen at")
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "7860"))
    parser.add_argument(
        "--allow-host",
        action="append",
        default=os.environ.get("ALLOW_HOST", "").split(),
        metavar="NAME",
        help="a further name that the studio answers to, such as that of a reverse proxy",
    )
    parser.add_argument("--share", action="store_true", help="also make a public link through Gradio's servers")
    parser.add_argument("--device", help="cpu, cuda, ...; default: the best there is")
    parser.add_argument("--runtime", choices=(AUTO, *RUNTIMES), default=AUTO, help=RUNTIME_HELP)
    parser.add_argument(
        "--replicas",
        type=replica_count,
        metavar="N",
        help="engines, each in a process and on a GPU of its own, through Ray Serve; 1-8: as many as are needed",
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster that they run on; default: this machine")
    parser.add_argument("--add-model", action="append", default=[], metavar="FOLDER", help="in diffusers' layout")
    parser.add_argument("--loras", type=Path, default=Path("loras"), metavar="FOLDER", help="LoRAs to offer everybody")
    parser.add_argument(
        "--translators", type=Path, default=Path("translators"), metavar="FOLDER", help="folders of more translators"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of training runs")
    train = os.environ.get("TRAIN") or None  # a variable of a Space, as a few of these are
    parser.add_argument(
        "--train", choices=MODES, default=train, help="who may train what; default: by address, off on a Space"
    )
    parser.add_argument(
        "--shelf",
        choices=[*filter(None, SHELF)],
        help="whether visitors may fetch, add and remove models; default: closed but on one's own machine",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        default=bool(space.name()),
        help="also offer the endpoints as tools for language models; a Space does",
    )
    options = parser.parse_args()
    options.host = options.host.strip("[]")  # as addresses of IPv6 are written before a port
    return options


def replica_count(text: str) -> tuple[int, int]:
    """Fewest and most, of "4" or "1-8"."""
    fewest, dash, most = text.partition("-")
    found = int(fewest), int(most if dash else fewest)
    if not 1 <= found[0] <= found[1] <= REPLICAS:
        raise argparse.ArgumentTypeError(f"write a number from 1 to {REPLICAS}, or two such as 1-8, not {text!r:.20}")
    return found


def check_address(host: str, port: int) -> None:
    """See whether the studio can listen there, before anything that takes time.

    Raises:
        OSError: it can't, in one sentence.
    """
    if port not in PORTS:
        raise OSError(f"there is no port {port}; choose one from {PORTS[0]} to {PORTS[-1]}")
    try:
        family, kind, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"nothing can listen at {host} port {port} ({reason}); choose others by --host and --port"
        ) from None


@contextmanager
def service(options: argparse.Namespace) -> Iterator[Service]:
    """What answers here, with the models that are to be there from the start in memory."""
    added = {spec.title: spec for spec in map(local_model, options.add_model)}
    translators = find_translators(options.translators)

    known = KNOWN
    if space.name():
        known = space.offered(
            KNOWN, device_named(options.device).type == "cuda", lambda message: print(message, flush=True)
        )
    known = known | added
    given = {"device": options.device, "translators": translators}
    if options.replicas or options.ray:
        from yoso_core.replicas.front import replicas

        print("Starting replicas ...", flush=True)
        given |= {"runtime": options.runtime, "waits": False}
        with replicas(options.replicas, options.ray, known, **given) as several:
            several.load(several.first)
            yield several
        return
    if space.lends_gpu():

        def proposed(request: GenerateRequest) -> bool:
            return request.model in known and is_proposed(request, known[request.model])

        engine: Engine = LentEngine(known, proposed, **given)
    else:
        engine = Engine(known, **given, runtime=options.runtime, waits=False)
    for name in known if space.lends_gpu() else [engine.first]:
        engine.load(name, report=lambda message: print(f"{message} on {engine.device} ...", flush=True))
    yield engine


def serve(options: argparse.Namespace, engine: Service) -> None:
    public = bool(space.name())
    hosts = hosts_at(options.host, options.allow_host, options.share, public)
    mode = options.train or usual_mode(options.host, options.share)
    shared = trained(options.runs) if MODES[mode].private else []  # else the Train tab lists them
    loras = distinct([*bundled(), *in_folder(options.loras), *shared])
    for sentence in left_out(options.loras):
        print(f"note: {sentence}", flush=True)
    lent = LentTraining() if space.lends_gpu() and MODES[mode].presets else None
    demo = build_app(engine, loras, options.loras, options.runs, mode, SHELF[options.shelf], lent)
    name = f"[{options.host}]" if ":" in options.host else options.host
    try:
        demo.launch(
            server_name=name,
            server_port=options.port,
            share=options.share,
            max_threads=THREADS + engine.places,
            **launch_options(options.mcp, mode, hosts, behind_proxy=public),
        )
    finally:
        demo.close(verbose=False)


def end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    options = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # uploads are to be cleared away
        signal.signal(number, end)
    try:
        check_address(options.host, options.port)
        root = os.environ.get("GRADIO_TEMP_DIR")
        with own_folder(Path(root) if root else None) as folder:
            os.environ["GRADIO_TEMP_DIR"] = str(folder)
            with service(options) as engine:
                serve(options, engine)
    except (RequestError, PictureError, FolderError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
