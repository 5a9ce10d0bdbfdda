"""From settings to what a run hands over: load, train, write ``output/`` in the run folder."""

from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import StableDiffusionPipeline

from train.base import ModelRunConfig, load_base, load_data, previewer, trainable, weights_fingerprint
from train.config import ConfigError
from train.console import follow
from train.data import CaptionedLatents, GeneratedLatents
from train.diffusion import DiffusionConfig, DiffusionTask
from train.export import Card, save_lora, save_network
from train.scratch import ScratchConfig, ScratchDiffusionConfig, build_task
from train.trainer import Trainer
from train.yoso import YosoConfig, YosoTask
from yoso_core.models import LoadedModel
from yoso_core.schedule import NoiseSchedule

SHOWN = 10  # notes on the data that are printed


Data = CaptionedLatents | GeneratedLatents


def load(config: ModelRunConfig, folder: Path) -> tuple[LoadedModel, Data]:
    """The base model of a run and its data as that model's latents."""
    base = load_base(config, PartialState().device)
    return base, _load_told(config, base, folder)


def train_yoso(config: YosoConfig, folder: Path, loaded: tuple[LoadedModel, Data] | None = None) -> None:
    """Make a text-to-image model draw in one evaluation; writes a LoRA, or the whole network, and its card.

    Args:
        config: the settings.
        folder: of the run; gets ``output/`` when it is done.
        loaded: from `load`, for several runs on the same model and data, which leave both as they are.
    """
    base, data = loaded or load(config, folder)
    torch.manual_seed(config.seed)
    generator = trainable(base.unet, config)
    pictures = previewer(config, base, data)
    task = YosoTask(base.unet, generator, base.schedule, base.prediction, data, config, pictures)
    trainer = Trainer(task, config, folder)
    if follow(trainer):
        _hand_over(trainer, "generator", config, base, None, one_step=True)


def train_diffusion(config: DiffusionConfig, folder: Path) -> None:
    """Train a model by plain diffusion, and move it to another prediction and schedule if the settings say so.

    Raises:
        ConfigError: a LoRA is asked to carry another prediction or schedule, which no LoRA file can say.
    """
    torch.manual_seed(config.seed)
    base = load_base(config, PartialState().device)
    scheduler = adapted_scheduler(base.scheduler.config, config)
    schedule = NoiseSchedule.from_config(scheduler)
    moved = config.prediction != base.prediction or not torch.equal(schedule.alpha, base.schedule.alpha)
    if moved and config.adapter == "lora":
        raise ConfigError(
            f"{config.model} predicts {base.prediction}; a LoRA can't carry another prediction or noise schedule: "
            f"use adapter full, or keep to prediction {base.prediction}"
        )
    data = _load_told(config, base, folder)
    network = trainable(base.unet, config)
    task = DiffusionTask(network, schedule, data, config, previewer(config, base, data), weights_fingerprint(base.unet))
    trainer = Trainer(task, config, folder)
    if follow(trainer):
        scheduler = type(base.scheduler).from_config(scheduler) if moved else None
        _hand_over(trainer, "network", config, base, scheduler, one_step=False)


def _load_told(config: ModelRunConfig, base: LoadedModel, folder: Path) -> Data:
    """The data; what was wrong with its files is said, and written to ``problems.txt`` in the run folder."""
    data = load_data(config, base)
    problems = getattr(data, "problems", ())
    if problems and PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "problems.txt").write_text("\n".join(map(str, problems)) + "\n")
        print(*problems[:SHOWN], sep="\n")
        print(f"{len(problems)} notes on the data, all in {folder / 'problems.txt'}; {len(data)} samples are used")
    return data


def adapted_scheduler(scheduler: dict, config: DiffusionConfig) -> dict:
    """A diffusers scheduler config that says what the network predicts after training, and where its noise ends."""
    changes = {"prediction_type": config.prediction, "rescale_betas_zero_snr": config.zero_terminal_snr}
    # With pure noise at the end sampling has to start there, which only trailing timesteps do.
    return scheduler | changes | ({"timestep_spacing": "trailing"} if config.zero_terminal_snr else {})


def train_scratch(config: ScratchConfig | ScratchDiffusionConfig, folder: Path) -> None:
    """Train a network on pixels from nothing; writes it as a diffusers ``unet`` folder."""
    trainer = Trainer(build_task(config, PartialState().device), config, folder)
    if follow(trainer) and PartialState().is_main_process:
        (network,) = trainer.averages.values()
        network.save_pretrained(folder / "output" / "unet")


def _hand_over(
    trainer: Trainer, player: str, config: ModelRunConfig, base: LoadedModel, scheduler: object | None, one_step: bool
) -> None:
    """Write the averaged weights and their card to ``output/``: a LoRA, or a whole pipeline."""
    if not PartialState().is_main_process:
        return
    out, source = trainer.folder / "output", base.spec.source
    card = Card(
        title=f"{base.spec.title}, one step" if one_step else f"{base.spec.title}, adapted",
        description=(
            "Draws in one network evaluation, by YOSO (arXiv 2403.12931)."
            if one_step
            else "Trained by plain diffusion; draws in many evaluations."
        ),
        base=source,
        licence=base.spec.licence,
        data=f"{trainer.task.sample_count:,} captioned samples of `{Path(config.data or config.captions).name}`.",
        prompt=config.preview_prompts[0] if config.preview_prompts else "a red heart",
        one_step=one_step,
        run=trainer.folder,
        prior=trainer.task.data.moments() if one_step else None,
    )
    if config.adapter == "lora":
        save_lora(trainer.averages[player], out, config, card, trainer.step, scheduler)
        return
    pipeline = StableDiffusionPipeline(
        vae=base.autoencoder,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=scheduler or base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_config(out)  # what makes the folder a pipeline of its own, which needs no other
    for name in ("vae", "text_encoder", "tokenizer"):
        getattr(pipeline, name).save_pretrained(out / name)
    save_network(trainer.averages[player], out, config, card, trainer.step, scheduler or base.scheduler)
