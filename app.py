"""Serve the studio: python app.py [--port 7860] [--add-model FOLDER] [--loras FOLDER] [--mcp], and more with --help."""

import argparse
import os
import sys
from pathlib import Path

from app.train_mode import MODES, usual_mode
from app.ui import build_app, launch_options
from yoso_core.engine import Engine, PictureError
from yoso_core.lora.library import bundled, distinct, in_folder, trained
from yoso_core.models import MODELS, local_model
from yoso_core.requests import DEFAULT_MODEL, RequestError
from yoso_core.translate import find_translators


def parse_arguments() -> argparse.Namespace:
    host = os.environ.get("HOST") or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")  # a Space sets the latter
    parser = argparse.ArgumentParser(description="One prompt, one network evaluation, one picture.")
    parser.add_argument("--host", default=host, help="address to listen at")
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "7860"))
    parser.add_argument("--share", action="store_true", help="also make a public link through Gradio's servers")
    parser.add_argument("--device", help="cpu, cuda, ...; default: the best there is")
    parser.add_argument("--add-model", action="append", default=[], metavar="FOLDER", help="in diffusers' layout")
    parser.add_argument("--loras", type=Path, default=Path("loras"), metavar="FOLDER", help="LoRAs to offer everybody")
    parser.add_argument(
        "--translators", type=Path, default=Path("translators"), metavar="FOLDER", help="folders of more translators"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of training runs")
    parser.add_argument("--train", choices=MODES, help="who may train what; default: by address, off on a public Space")
    parser.add_argument("--mcp", action="store_true", help="also offer the endpoints as tools for language models")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    address = {"server_name": options.host, "server_port": options.port, "share": options.share}
    try:
        added = {spec.title: spec for spec in map(local_model, options.add_model)}
        translators = find_translators(options.translators)
        engine = Engine(MODELS | added, options.device, translators=translators)
        mode = options.train or usual_mode(options.host, options.share)
        shared = trained(options.runs) if MODES[mode].private else []  # else the Train tab lists them
        loras = distinct([*bundled(), *in_folder(options.loras), *shared])
        engine.load(DEFAULT_MODEL, report=lambda message: print(f"{message} on {engine.device} ...", flush=True))
        demo = build_app(engine, loras, options.loras, options.runs, mode)
        demo.launch(**address, **launch_options(options.mcp, MODES[mode].upload))
    except (RequestError, PictureError, OSError) as error:  # OSError: the port is taken
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
