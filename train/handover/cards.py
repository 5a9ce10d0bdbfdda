"""The card that comes with trained weights: what they are, how to use them, what they were trained on."""

import dataclasses
import json
import math
import shlex
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData
from PIL import Image
from torch import Tensor

from train.handover.files import write
from train.loop.config import Settings
from yoso_core.cached import LORA_FILE
from yoso_core.checkpoints import Source
from yoso_core.models import MODELS
from yoso_core.translate import TranslatorSpec

THUMBNAIL = "thumbnail.png"
HUB_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc0-1.0", "creativeml-openrail-m", "openrail", "openrail++")

Kind = Literal["lora", "network", "controlnet", "translator"]
KINDS: dict[Kind, tuple[str, str]] = {  # what it is, and the hub's name for what it does
    "lora": ("A LoRA", "text-to-image"),
    "network": ("A whole network", "text-to-image"),
    "controlnet": ("A ControlNet", "text-to-image"),
    "translator": ("A translator of pictures", "image-to-image"),
}


# By the part of the pipeline that was trained.
NETWORKS = {"unet": "UNet2DConditionModel", "transformer": "PixArtTransformer2DModel"}


@dataclass(frozen=True)
class Card:
    """What a model card says that neither the weights nor the settings tell.

    Attributes:
        title: name of what was trained.
        description: what it is, in a sentence or a few.
        base: the model that it was trained on, and that it needs.
        licence: name of the licence of the weights, as the hub spells it.
        data: what it was trained on, in Markdown.
        prompt: a prompt to begin with.
        one_step: whether it draws in one evaluation; otherwise it is shown with a multi-step sampler.
        run: the run's folder, for its last losses and its first and last preview; None to show none.
        prior: mean and deviation (C,) of the latents that it was trained on, for the informative prior.
        trigger: words in a prompt that call what was learned; "" where there are none.
        part: what diffusers calls the network.
        pipeline: and the class of its pipeline.
    """

    title: str
    description: str
    base: Source
    licence: str
    data: str
    prompt: str
    one_step: bool = True
    run: Path | None = None
    prior: tuple[Tensor, Tensor] | None = None
    trigger: str = ""
    part: str = "unet"
    pipeline: str = "StableDiffusionPipeline"


def save_card(folder: Path, config: Settings, card: Card, steps: int, kind: Kind, usage: list[str]) -> None:
    """The card comes last, so that a folder with one is complete; `usage` are paragraphs of Markdown."""
    previews = _copy_previews(card.run, folder)
    parts = [
        f"---\n{_front_matter(card, kind)}\n---",
        f"# {card.title}",
        card.description,
        f"{KINDS[kind][0]} for {_named(card.base)}, trained for {steps:,} steps.",
        "## How to use it",
        *usage,
    ]
    if previews:
        parts += ["## Previews", *(f"![{caption}]({name})\n\n{caption}" for name, caption in previews.items())]
    parts += ["## Data", card.data, "## Settings", _table("setting value meaning", _settings(config))]
    if losses := _last_losses(card.run):
        rows = [(name, f"{value:.4f}") for name, value in losses.items()]
        parts += ["## Last losses", "Mean of each term at the end of the run.", _table("term value", rows)]
    parts += ["## Licence", f"`{card.licence}`. What the base model's licence asks for holds here too."]
    write(folder / "README.md", lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))


def _front_matter(card: Card, kind: Kind) -> str:
    """YAML as the hub checks it: a base model must be on the hub, and a licence in its list or "other"."""
    base = {} if card.base.is_folder else {"base_model": card.base.place}
    relation = {"base_model_relation": "finetune" if kind == "network" else "adapter"} if base else {}
    known = card.licence in HUB_LICENCES
    licence = {"license": card.licence} if known else {"license": "other", "license_name": card.licence}
    task = KINDS[kind][1]
    library = {} if kind == "translator" else {"library_name": "diffusers"}
    tags = [task, *library.values()] + ["one-step", "yoso"] * card.one_step + [kind] * (kind != "network")
    trigger = {"instance_prompt": card.trigger} if card.trigger else {}  # the hub's name for it
    return ModelCardData(**base, **licence, **relation, **trigger, **library, pipeline_tag=task, tags=tags).to_yaml()


def source_name(base: Source) -> str:
    """A base model as people and settings name it, without the folders of whoever trained."""
    return Path(base.place).name if base.is_folder else f"{base.place}@{base.revision}"


def _named(base: Source) -> str:
    if base.is_folder:
        return f"`{source_name(base)}`"
    return f"[{base.place}](https://huggingface.co/{base.place}) at `{base.revision}`"


def usage_in_studio(card: Card, spec: TranslatorSpec) -> list[str]:
    """A command and a program that translate a picture every way there is, for `save_card`."""
    base = next((name for name, model in MODELS.items() if model.source == card.base), None)
    base = base or source_name(card.base)
    command = f"python -m yoso_core translate in.png --model FOLDER --base {shlex.quote(base)}"
    commands, requests = [], []
    for name, direction in spec.directions.items():
        prompt = json.dumps("" if direction.prompt else card.prompt, ensure_ascii=False)
        flags = f"--direction {name}" if direction.prompt else f"--prompt {shlex.quote(card.prompt)}"
        commands.append(f"{command} {flags} --out {name}.png")
        asked = f'{prompt}, model="base", picture=picture, translator="this", direction="{name}"'
        requests.append(f'engine.run(TranslateRequest({asked})).pictures[0].save("{name}.png")')
    program = [
        "from pathlib import Path",
        "",
        "from PIL import Image",
        "from yoso_core.engine import Engine",
        "from yoso_core.models import find_model",
        "from yoso_core.requests import TranslateRequest",
        "from yoso_core.translate import read_translator",
        "",
        f'models = {{"base": find_model({json.dumps(base)})}}',
        'engine = Engine(models, translators={"this": read_translator(Path("."))})',
        'picture = Image.open("in.png").convert("RGB")',
        *requests,
    ]
    titles = ", ".join(f"`{name}` is “{direction.title}”" for name, direction in spec.directions.items())
    return [
        f"With YOSO Studio, where FOLDER is this one; {titles}:",
        "\n".join(["```sh", *commands, "```"]),
        "From Python, in this folder:",
        "\n".join(["```python", *program, "```"]),
    ]


def lora_usage(card: Card) -> list[str]:
    """How a LoRA is used whose pipeline in diffusers loads none, for `save_card`."""
    base = next((name for name, model in MODELS.items() if model.source == card.base), None)
    base, way = shlex.quote(base or source_name(card.base)), "--weights" if card.one_step else "--lora"
    return [
        "With YOSO Studio, in this folder:",
        f"```sh\npython -m yoso_core generate {shlex.quote(card.prompt)} --model {base} {way} {LORA_FILE}\n```",
        f"Its keys are those of diffusers, whose `{card.pipeline}` itself loads no LoRAs.",
    ]


def usage_in_diffusers(card: Card, own_schedule: bool, kind: Kind) -> list[str]:
    """How plain diffusers makes a picture, for `save_card`."""
    return [
        "With plain [diffusers](https://github.com/huggingface/diffusers), in this folder (from a hub, the "
        'repository\'s name takes the place of `"."`):',
        f"```python\n{_usage(card, own_schedule, kind)}\n```",
    ]


def _usage(card: Card, own_schedule: bool, kind: Kind) -> str:
    """A program that makes a picture; the published way for a one-step model."""
    sampler = "LCMScheduler" if card.one_step else "DDIMScheduler"
    base = json.dumps(card.base.place) + (f', revision="{card.base.revision}"' if card.base.revision else "")
    schedule = (
        '.from_pretrained(".", subfolder="scheduler")' if own_schedule else ".from_config(pipeline.scheduler.config)"
    )
    pipeline, part, given, options = card.pipeline, "", "", ""
    lines = []
    if kind == "network":
        kind_of = NETWORKS[card.part]
        part, given = f", {kind_of}", f", {card.part}={card.part}"
        lines = [f'{card.part} = {kind_of}.from_pretrained(".", subfolder="{card.part}")']
    elif kind == "controlnet":
        pipeline, part, given, options = (
            "StableDiffusionControlNetPipeline",
            ", ControlNetModel",
            ", controlnet=controlnet",
            "image=edges, ",
        )
        lines = [
            'controlnet = ControlNetModel.from_pretrained(".")',
            'edges = Image.open("edges.png").convert("RGB")  # white on black, of the size of the picture',
        ]
    lines = [
        *["from PIL import Image"] * (kind == "controlnet"),
        f"from diffusers import {', '.join(sorted([sampler, pipeline, *part.split(', ')[1:]]))}",
        "",
        *lines,
        f"pipeline = {pipeline}.from_pretrained({base}{given})",
        f"pipeline.scheduler = {sampler}{schedule}",
        *['pipeline.load_lora_weights(".")'] * (kind == "lora"),
        f"prompt = {json.dumps(card.prompt, ensure_ascii=False)}",
    ]
    if card.one_step:
        for steps, name in ((1, "one-step"), (2, "two-steps")):
            arguments = f"prompt, {options}num_inference_steps={steps}, guidance_scale=1"
            lines.append(f'pipeline({arguments}).images[0].save("{name}.png")')
    else:
        lines.append('pipeline(prompt, num_inference_steps=25).images[0].save("picture.png")')
    return "\n".join(lines)


def public_settings(config: Settings) -> dict[str, Any]:
    """The settings without the folders of whoever trained: of a path, its last part."""
    values = dataclasses.asdict(config)
    return {key: _unplaced(value) for key, value in values.items()}


def _unplaced(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_unplaced, value))
    return _name(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    try:
        is_there = Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # words that no path can have
        is_there = False
    return Path(text).name if is_there or Path(text).is_absolute() else text


def _settings(config: Settings) -> list[tuple[str, str, str]]:
    values = public_settings(config)
    return [(f"`{one.name}`", str(values[one.name]), one.metadata["help"]) for one in dataclasses.fields(config)]


def _table(heads: str, rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; `heads` are words."""
    columns = tuple(heads.split())
    cells = [columns, ("---",) * len(columns), *rows]
    clean = [[" ".join(cell.replace("|", r"\|").split()) for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in clean)


def _copy_previews(run: Path | None, folder: Path) -> dict[str, str]:
    """Copy the first and the last preview of a run; file name -> caption."""
    found = sorted(path for path in (run / "previews").glob("*.png") if path.stem.isdigit()) if run else []
    ends = zip(("preview-first.png", "preview-last.png"), [*found[:1], *found[1:][-1:]], strict=False)
    captions = {}
    for name, source in ends:
        write(folder / name, lambda path, source=source: shutil.copyfile(source, path))
        captions[name] = f"After {int(source.stem):,} steps"
    if found:
        write(folder / THUMBNAIL, lambda path: _corner(found[-1]).save(path, "PNG"))
    return captions


def _corner(preview: Path) -> Image.Image:
    """The first pictures of a preview, as large a square as its rows and columns divide into."""
    with Image.open(preview) as grid:
        side = math.gcd(grid.width, grid.height)
        return grid.crop((0, 0, side, side)).convert("RGB")


def _last_losses(run: Path | None) -> dict[str, float]:
    """The losses of the last report in a run's log; {} where there is none."""
    log = run / "events.jsonl" if run else None
    if log is None or not log.exists():
        return {}
    for line in reversed(log.read_text(errors="replace").splitlines()):
        with suppress(ValueError):  # a killed process may leave half a line
            event = json.loads(line)
            if event["event"] == "StepDone":
                return event["losses"]
    return {}
