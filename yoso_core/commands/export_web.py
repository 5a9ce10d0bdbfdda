"""A model as a static page that draws in the visitor's browser."""

import argparse
from pathlib import Path

from yoso_core.commands.common import Commands, find_loras, new_command, report
from yoso_core.requests import DEFAULT_MODEL, LoraUse


def add_to(commands: Commands) -> None:
    command = new_command(commands, "export-web", "write a page that draws in the browser, without a server")
    command.add_argument("out", type=Path, help="folder to write; an earlier page in it is replaced")
    command.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"a known model or a diffusers folder; default: {DEFAULT_MODEL}"
    )
    command.add_argument(
        "--lora", action="append", default=[], metavar="LORA[:WEIGHT]", help="merged into it; may be repeated"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    loras = find_loras(options.lora)
    for lora in loras:
        LoraUse(lora.name, lora.weight)  # refuses a weight that none can have
    import torch  # seconds to import

    from yoso_core.loading import load_model
    from yoso_core.lora.admission import admit
    from yoso_core.models import find_model
    from yoso_core.needs import fetch_model
    from yoso_core.web.export import export_page, refuse_other_folders

    refuse_other_folders(options.out)
    spec = find_model(options.model)
    fetch_model(spec, report)
    model = load_model(spec, dtype=torch.float32, report=report)
    uses = [(admit(lora.path, model.loras.for_requests), lora.weight) for lora in loras]
    sizes = export_page(model, [(model.one_step, 1.0), *uses], options.out, report)
    print(
        f"{options.out}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB; serve it with any web server, such as"
    )
    print(f"python -m http.server --bind 127.0.0.1 --directory {options.out}")
