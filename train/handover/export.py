"""What a training run hands over: weights that other programs load, each with its card."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import ModelMixin, SchedulerMixin
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from train.handover.cards import (
    THUMBNAIL,
    Card,
    lora_usage,
    public_settings,
    save_card,
    source_name,
    usage_in_diffusers,
    usage_in_studio,
)
from train.handover.files import write
from train.loop.config import ConfigError, Settings
from train.tasks.translate import Generator
from yoso_core.cached import LORA_FILE
from yoso_core.lora.reading import PRIOR_KEY
from yoso_core.models import TRAINED_HERE
from yoso_core.translate import CONFIG, FIRST, NETWORK_FILE, TranslatorSpec, write_config

KOHYA_FILE = "kohya.safetensors"
SNAPSHOTS = 12  # LoRAs of earlier steps that a run keeps
CONFIG_KEY = "yoso_config"
FAMILIES = {768: "sd_v1", 1024: "sd_v2"}  # kohya's names, by the width of the prompt's encoding


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
    part, (rank, alpha, layers) = card.part, _adapter(network)
    diffusers, kohya = {}, {}
    for name, (down, up) in layers.items():
        diffusers |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
        stem = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        kohya[f"{stem}.alpha"] = torch.tensor(float(alpha))
    # Without r and lora_alpha diffusers takes alpha = rank. In kohya's file they would make it refuse the file.
    adapter = {f"{part}.r": rank, f"{part}.lora_alpha": alpha, f"{part}.target_modules": sorted(layers)}
    width = network.config.get("cross_attention_dim")
    shared = {"format": "pt", CONFIG_KEY: json.dumps(public_settings(config))}
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
    write(folder / LORA_FILE, lambda path: save_file(diffusers, path, for_diffusers))
    _save_scheduler(folder, scheduler)
    if part == "unet":
        write(folder / KOHYA_FILE, lambda path: save_file(kohya, path, for_kohya))
        usage = usage_in_diffusers(card, scheduler is not None, "lora")
        usage.append(f"Programs that read kohya's format, such as ComfyUI and A1111, take `{KOHYA_FILE}`.")
    else:
        usage = lora_usage(card)
    save_card(folder, config, card, steps, "lora", usage)


def save_network(
    network: ModelMixin,
    folder: Path,
    config: Settings,
    card: Card,
    steps: int,
    scheduler: SchedulerMixin | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Write a whole network, in float16, as a folder of diffusers such as ``unet``, with a card.

    Args:
        network: any diffusers model; compiled or not, on any device; left as it is.
        folder: gets ``unet/``, or what the card calls it, ``yoso_config.json``, ``README.md``, previews, and
            ``scheduler/`` where one is given.
        config: the settings of the run.
        card: what the card says.
        steps: optimizer steps done.
        scheduler: with the noise schedule to use, where it is not the base model's.
        max_shard_size: the weights are split into files of at most this size.
    """
    half = _half_network(network)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / card.part, lambda path: half.save_pretrained(path, max_shard_size=max_shard_size))
    _save_settings(folder, config)
    _save_scheduler(folder, scheduler)
    save_card(folder, config, card, steps, "network", usage_in_diffusers(card, scheduler is not None, "network"))


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
    write(folder / "controlnet", half.save_pretrained)
    for written in (folder / "controlnet").iterdir():
        written.replace(folder / written.name)
    (folder / "controlnet").rmdir()
    _save_settings(folder, config)
    save_card(folder, config, card, steps, "controlnet", usage_in_diffusers(card, False, "controlnet"))


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
        write(folder / name, lambda path, tensors=tensors: save_file(tensors, path, metadata))
    write(folder / CONFIG, lambda path: write_config(spec, path, base=source_name(card.base)))
    _save_settings(folder, config)
    save_card(folder, config, card, steps, "translator", usage_in_studio(card, spec))


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
            write(folder / f"step-{step:07d}{ending}", lambda path, source=source: _link(output / source, path))
    kept = sorted(folder.glob("step-*.safetensors"))
    while len(kept) > most:
        steps = [int(path.stem.removeprefix("step-")) for path in kept]
        gone = min(range(1, len(kept) - 1), key=lambda index: steps[index + 1] - steps[index - 1])
        for path in (kept[gone], kept[gone].with_suffix(".png")):
            path.unlink(missing_ok=True)
        del kept[gone]


def _link(source: Path, path: Path) -> None:
    """The same file under another name; a copy where the disk can't do that. What `write` replaces stays as it is."""
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
    settings = json.dumps(public_settings(config), indent=2)
    write(folder / TRAINED_HERE, lambda path: path.write_text(settings + "\n", encoding="utf-8"))


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


def _save_scheduler(folder: Path, scheduler: SchedulerMixin | None) -> None:
    if scheduler is not None:
        write(folder / "scheduler", scheduler.save_pretrained)
