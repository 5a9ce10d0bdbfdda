"""What a training run hands over: weights that other programs load, and a card that says what they are.

Every file appears whole or not at all: it is written beside its place and then renamed.
"""

import dataclasses
import json
import math
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import ModelMixin, SchedulerMixin
from huggingface_hub import ModelCardData
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from train.loop.config import ConfigError, Settings
from train.tasks.translate import Generator
from yoso_core.lora.reading import PRIOR_KEY
from yoso_core.models import LORA_FILE, MODELS, TRAINED_HERE, Source
from yoso_core.translate import CONFIG, FIRST, NETWORK_FILE, TranslatorSpec, write_config

KOHYA_FILE = "kohya.safetensors"
SNAPSHOTS = 12  # LoRAs of earlier steps that a run keeps
THUMBNAIL = "thumbnail.png"
CONFIG_KEY = "yoso_config"
FAMILIES = {768: "sd_v1", 1024: "sd_v2"}  # kohya's names, by the width of the prompt's encoding
HUB_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc0-1.0", "creativeml-openrail-m", "openrail", "openrail++")


Kind = Literal["lora", "network", "controlnet", "translator"]
KINDS: dict[Kind, tuple[str, str]] = {  # what it is, and the hub's name for what it does
    "lora": ("A LoRA", "text-to-image"),
    "network": ("A whole network", "text-to-image"),
    "controlnet": ("A ControlNet", "text-to-image"),
    "translator": ("A translator of pictures", "image-to-image"),
}


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


def save_lora(
    network: ModelMixin, folder: Path, config: Settings, card: Card, steps: int, scheduler: SchedulerMixin | None = None
) -> None:
    """Write the LoRA of a network, in float16: for diffusers, for programs that read kohya's format, and its card.

    Args:
        network: a UNet with one adapter from `add_adapter`; compiled or not, on any device; left as it is.
        folder: gets ``pytorch_lora_weights.safetensors``, ``kohya.safetensors``, ``README.md``, and previews.
        config: the settings of the run, which go into both files.
        card: what the card says.
        steps: optimizer steps done.
        scheduler: with the noise schedule to use, where it is not the base model's.

    Raises:
        ValueError: not one adapter, or one whose layers differ in rank or strength, which no reader would get right.
    """
    rank, alpha, layers = _adapter(network)
    diffusers, kohya = {}, {}
    for name, (down, up) in layers.items():
        diffusers |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
        stem = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        kohya[f"{stem}.alpha"] = torch.tensor(float(alpha))
    # Without r and lora_alpha diffusers takes alpha = rank. In kohya's file they would make it refuse the file.
    adapter = {"unet.r": rank, "unet.lora_alpha": alpha, "unet.target_modules": sorted(layers)}
    width = network.config.get("cross_attention_dim")
    shared = {"format": "pt", CONFIG_KEY: json.dumps(_public(config))}
    if card.prior is not None:
        mean, deviation = (moment.tolist() for moment in card.prior)
        shared[PRIOR_KEY] = json.dumps({"mean": mean, "deviation": deviation})
    for_diffusers = shared | {"lora_adapter_metadata": json.dumps(adapter)}
    for_kohya = shared | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_network_args": json.dumps({"conv_dim": str(rank), "conv_alpha": str(alpha)}),
        "ss_sd_model_name": Path(card.base.place).name,
        "ss_base_model_version": FAMILIES.get(width, "unknown"),
        "ss_v2": str(FAMILIES.get(width) == "sd_v2"),
        "ss_steps": str(steps),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / LORA_FILE, lambda path: save_file(diffusers, path, for_diffusers))
    _write(folder / KOHYA_FILE, lambda path: save_file(kohya, path, for_kohya))
    _save_scheduler(folder, scheduler)
    usage = _for_diffusers(card, scheduler is not None, "lora")
    usage.append(f"Programs that read kohya's format, such as ComfyUI and A1111, take `{KOHYA_FILE}`.")
    _save_card(folder, config, card, steps, "lora", usage)


def save_network(
    network: ModelMixin,
    folder: Path,
    config: Settings,
    card: Card,
    steps: int,
    scheduler: SchedulerMixin | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Write a whole network, in float16, as a ``unet`` folder of diffusers with a card.

    Args:
        network: any diffusers model; compiled or not, on any device; left as it is.
        folder: gets ``unet/``, ``yoso_config.json``, ``README.md``, previews, and ``scheduler/`` where one is given.
        config: the settings of the run.
        card: what the card says.
        steps: optimizer steps done.
        scheduler: with the noise schedule to use, where it is not the base model's.
        max_shard_size: the weights are split into files of at most this size.
    """
    half = _half_network(network)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "unet", lambda path: half.save_pretrained(path, max_shard_size=max_shard_size))
    _save_settings(folder, config)
    _save_scheduler(folder, scheduler)
    _save_card(folder, config, card, steps, "network", _for_diffusers(card, scheduler is not None, "network"))


def save_controlnet(network: ModelMixin, folder: Path, config: Settings, card: Card, steps: int) -> None:
    """Write a ControlNet, in float16, so that `folder` itself is what ``ControlNetModel.from_pretrained`` reads.

    Args:
        network: compiled or not, on any device; left as it is.
        folder: gets the weights with their ``config.json``, ``yoso_config.json``, ``README.md`` and previews.
        config: the settings of the run.
        card: what the card says.
        steps: optimizer steps done.
    """
    half = _half_network(network)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "controlnet", half.save_pretrained)
    for written in (folder / "controlnet").iterdir():
        written.replace(folder / written.name)
    (folder / "controlnet").rmdir()
    _save_settings(folder, config)
    _save_card(folder, config, card, steps, "controlnet", _for_diffusers(card, False, "controlnet"))


def save_translator(
    generator: Generator, folder: Path, spec: TranslatorSpec, config: Settings, card: Card, steps: int
) -> None:
    """Write a translator, in float16, so that `folder` is what ``yoso_core.translate.read_translator`` reads.

    Args:
        generator: on any device; left as it is.
        folder: gets its files, ``yoso_config.json``, ``README.md`` and previews.
        spec: what it is; its folder does not matter.
        config: the settings of the run.
        card: what the card says.
        steps: optimizer steps done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt"}
    first = {f"{FIRST}.{name}": _half(value) for name, value in generator.first.named_parameters()}
    files = {NETWORK_FILE: first | _changes(generator.unet, "unet")}
    for direction, autoencoder in generator.autoencoders.items():
        skips = generator.skips[direction].weights if direction in generator.skips else []
        weights = {f"skips.{index}.weight": _half(weight) for index, weight in enumerate(skips)}
        files[f"{direction}.safetensors"] = weights | _changes(autoencoder, "vae")
    for name, tensors in files.items():
        _write(folder / name, lambda path, tensors=tensors: save_file(tensors, path, metadata))
    _write(folder / CONFIG, lambda path: write_config(spec, path, base=_source(card.base)))
    _save_settings(folder, config)
    _save_card(folder, config, card, steps, "translator", _for_translation(card, spec))


def _changes(network: ModelMixin, part: str) -> dict[str, Tensor]:
    """The LoRA of a network in diffusers' spelling, of strength 1; {} where it has none."""
    found = {}
    for name, layer in _lora_layers(network).items():
        (adapter,) = layer.r
        scale = layer.lora_alpha[adapter] / layer.r[adapter]
        found[f"{part}.{name}.lora_A.weight"] = _half(layer.lora_A[adapter].weight)
        found[f"{part}.{name}.lora_B.weight"] = _half(layer.lora_B[adapter].weight * scale)
    return found


def keep_snapshot(output: Path, folder: Path, step: int, most: int = SNAPSHOTS) -> None:
    """Keep the LoRA of a step beside those of others, so that they can be compared.

    Where there are more than `most`, those go whose neighbours lie closest together; the first and the last stay.

    Args:
        output: as `save_lora` has just left it.
        folder: gets ``step-NNNNNNN.safetensors`` and a picture of the same name.
        step: optimizer steps done.
        most: how many stay, at least 2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source, ending in ((LORA_FILE, ".safetensors"), (THUMBNAIL, ".png")):
        if (output / source).is_file():
            _write(folder / f"step-{step:07d}{ending}", lambda path, source=source: _link(output / source, path))
    kept = sorted(folder.glob("step-*.safetensors"))
    while len(kept) > most:
        steps = [int(path.stem.removeprefix("step-")) for path in kept]
        gone = min(range(1, len(kept) - 1), key=lambda index: steps[index + 1] - steps[index - 1])
        for path in (kept[gone], kept[gone].with_suffix(".png")):
            path.unlink(missing_ok=True)
        del kept[gone]


def _link(source: Path, path: Path) -> None:
    """The same file under another name; a copy where the disk can't do that. What `_write` replaces stays as it is."""
    try:
        path.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, path)


def _half_network(network: ModelMixin) -> ModelMixin:
    network = getattr(network, "_orig_mod", network)
    with torch.device("meta"):
        half = type(network).from_config(network.config)
    half.load_state_dict({_plain(key): _half(value) for key, value in network.state_dict().items()}, assign=True)
    return half


def _save_settings(folder: Path, config: Settings) -> None:
    settings = json.dumps(_public(config), indent=2)
    _write(folder / TRAINED_HERE, lambda path: path.write_text(settings + "\n", encoding="utf-8"))


def read_config(path: Path) -> dict | None:
    """The settings that a LoRA was trained with, out of its file; None where it holds none.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CONFIG_KEY)
        return dict(json.loads(text)) if text is not None else None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ConfigError(f"no settings can be read from {path} ({error!s:.80})") from None


def _adapter(network: ModelMixin) -> tuple[int, float, dict[str, tuple[Tensor, Tensor]]]:
    """Rank, alpha and (A, B) of every module that the network's one adapter changes, by the module's name."""
    adapters = getattr(network, "peft_config", {})
    if len(adapters) != 1:
        raise ValueError(f"the network has {len(adapters)} adapters; a LoRA file holds exactly one")
    [(adapter, lora)] = adapters.items()
    modules = _lora_layers(network)
    for name, module in modules.items():
        if module.r[adapter] != lora.r or module.scaling[adapter] != lora.lora_alpha / lora.r:
            raise ValueError(
                f"the LoRA of {name} has rank {module.r[adapter]} and strength {module.scaling[adapter]} where "
                f"{lora.r} and {lora.lora_alpha / lora.r} are expected; one rank and one alpha must serve all"
            )
    pairs = {
        name: (_half(module.lora_A[adapter].weight), _half(module.lora_B[adapter].weight))
        for name, module in modules.items()
    }
    return lora.r, lora.lora_alpha, pairs


def _lora_layers(network: ModelMixin) -> dict[str, LoraLayer]:
    return {_plain(name): module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def _plain(name: str) -> str:
    """A dotted name without what torch.compile puts between."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _half(value: Tensor) -> Tensor:
    """As a safetensors file holds it, whatever device and memory format it is trained in."""
    half = value.detach().to("cpu", torch.float16).contiguous()
    if not half.isfinite().all():
        raise ConfigError("the trained weights are not finite in float16; train again with a lower learning_rate")
    return half


def _write(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a file or a folder beside `path`, then put it in its place."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: its shards may be others
    make(partial)
    for written in [partial, *partial.rglob("*")]:  # safetensors makes files that nobody else can read
        if written.is_file():
            written.chmod(path.parent.stat().st_mode & 0o666)
    if path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)


def _save_scheduler(folder: Path, scheduler: SchedulerMixin | None) -> None:
    if scheduler is not None:
        _write(folder / "scheduler", scheduler.save_pretrained)


def _save_card(folder: Path, config: Settings, card: Card, steps: int, kind: Kind, usage: list[str]) -> None:
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
    _write(folder / "README.md", lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))


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


def _source(base: Source) -> str:
    """A base model as people and settings name it, without the folders of whoever trained."""
    return Path(base.place).name if base.is_folder else f"{base.place}@{base.revision}"


def _named(base: Source) -> str:
    if base.is_folder:
        return f"`{_source(base)}`"
    return f"[{base.place}](https://huggingface.co/{base.place}) at `{base.revision}`"


def _for_translation(card: Card, spec: TranslatorSpec) -> list[str]:
    """A command and a program that translate a picture every way there is, for `_save_card`."""
    base = next((name for name, model in MODELS.items() if model.source == card.base), None)
    base = base or _source(card.base)
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


def _for_diffusers(card: Card, own_schedule: bool, kind: Kind) -> list[str]:
    """How plain diffusers makes a picture, for `_save_card`."""
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
    pipeline, part, given, options = "StableDiffusionPipeline", "", "", ""
    lines = []
    if kind == "network":
        part, given = ", UNet2DConditionModel", ", unet=unet"
        lines = ['unet = UNet2DConditionModel.from_pretrained(".", subfolder="unet")']
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


def _public(config: Settings) -> dict[str, Any]:
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
    values = _public(config)
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
        _write(folder / name, lambda path, source=source: shutil.copyfile(source, path))
        captions[name] = f"After {int(source.stem):,} steps"
    if found:
        _write(folder / THUMBNAIL, lambda path: _corner(found[-1]).save(path, "PNG"))
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
