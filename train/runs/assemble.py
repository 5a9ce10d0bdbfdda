"""From settings to what a run hands over: load, train, write ``output/`` in the run folder."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin
from torch import Tensor, nn

from train.data.fitting import Fitting, fitting
from train.data.latents import (
    CaptionedLatents,
    GeneratedLatents,
    encode_captions,
    load_pictures,
    weights_fingerprint,
)
from train.data.listings import Problem
from train.handover.cards import Card
from train.handover.export import keep_snapshot, save_controlnet, save_lora, save_network, save_translator
from train.loop.config import ConfigError
from train.loop.console import follow
from train.loop.trainer import Trainer, writing
from train.measure.evaluate import load_judge
from train.measure.translation import measure
from train.runs.jobs import NOW
from train.tasks.base import ModelRunConfig, load_base, load_data, previewer, trainable
from train.tasks.controlnet import ControlConfig, ControlTask, begin_controlnet, make_variants
from train.tasks.diffusion import DiffusionConfig, DiffusionTask
from train.tasks.perception import Perception, load_perception
from train.tasks.scratch import ScratchConfig, ScratchDiffusionConfig, build_task
from train.tasks.translate import Generator, PairedTask, UnpairedTask, fingerprint_of
from train.tasks.translate_config import TranslateConfig, settled
from train.tasks.translate_data import held_out_pictures, load_domains, load_pairs, spec_of
from train.tasks.yoso import YosoConfig, YosoTask
from yoso_core.condition import Condition
from yoso_core.loading import LoadedModel
from yoso_core.sampling import prior_start
from yoso_core.schedule import NoiseSchedule
from yoso_core.translate import check_spec

SHOWN = 10  # notes on the data that are printed
Data = CaptionedLatents | GeneratedLatents


def load(config: ModelRunConfig, folder: Path) -> tuple[LoadedModel, Data]:
    """The base model of a run and its data as that model's latents."""
    begin(folder, *config.sources)
    base = load_base(config, PartialState().device)
    return base, _load_data(config, base, folder)


def train_yoso(config: YosoConfig, folder: Path, loaded: tuple[LoadedModel, Data] | None = None) -> bool:
    """Make a text-to-image model draw in one evaluation; writes a LoRA, or the whole network, and its card.

    Args:
        config: the settings.
        folder: of the run; gets ``output/`` with its first checkpoint.
        loaded: from `load`, for several runs on the same model and data, which leave both as they are.

    Returns:
        Whether it got to the end; False if it was stopped on the way. So do the others.
    """
    base, data = loaded or load(config, folder)
    torch.manual_seed(config.seed)
    generator = trainable(base, config)
    preview = previewer(config, base, data)
    task = YosoTask(base.family, base.network, generator, base.schedule, base.prediction, data, config, preview)
    return follow(
        Trainer(task, config, folder, lambda trainer: _hand_over(trainer, "generator", config, base, one_step=True))
    )


def train_diffusion(config: DiffusionConfig, folder: Path) -> bool:
    """Train a model by plain diffusion, and move it to another prediction and schedule if the settings say so.

    Raises:
        ConfigError: a LoRA is asked to carry another prediction or schedule, which no LoRA file can say.
    """
    begin(folder, *config.sources)
    base = load_base(config, PartialState().device, config.on_one_step)
    scheduler = adapted_scheduler(base.scheduler.config, config)
    schedule = NoiseSchedule.from_config(scheduler)
    moved = config.prediction != base.prediction or not torch.equal(schedule.alpha, base.schedule.alpha)
    if moved and config.adapter == "lora":
        raise ConfigError(
            f"{config.model} predicts {base.prediction}; a LoRA can't carry another prediction or noise schedule: "
            f"use adapter full, or keep to prediction {base.prediction}"
        )
    data = _load_data(config, base, folder)
    torch.manual_seed(config.seed)
    network = trainable(base, config)
    task = DiffusionTask(
        base.family, network, schedule, data, config, previewer(config, base, data), weights_fingerprint(base.network)
    )
    changed = DDIMScheduler.from_config(scheduler) if moved else None  # not all can end in pure noise
    return follow(
        Trainer(task, config, folder, lambda trainer: _hand_over(trainer, "network", config, base, False, changed))
    )


def train_controlnet(config: ControlConfig, folder: Path) -> bool:
    """Train a ControlNet for a model with its one-step LoRA; writes it as a folder of diffusers.

    Raises:
        ConfigError: there are no pictures to take maps of.
    """
    begin(folder, *config.sources)
    if not config.data:
        raise ConfigError("name the training data: a folder of captioned pictures, whose edges are the maps")
    base = load_base(config, PartialState().device, one_step=True)
    data = _load_data(config, base, folder)
    pictures = load_pictures(Path(config.data), base.spec.resolution).pictures
    variants = make_variants(pictures, config.variants, base.autoencoder, config.seed)
    torch.manual_seed(config.seed)
    controlnet = begin_controlnet(base.network, config).to(base.device).train()
    controlnet.to(memory_format=torch.channels_last)
    preview = previewer(config, base, data)
    task = ControlTask(
        base.family, base.network, controlnet, base.schedule, base.prediction, data, variants, config, preview
    )
    card = Card(
        title=config.title or f"{base.spec.title}, guided by edges",
        description="Draws along edges (Canny) or a scribble, white on black, in one evaluation as in many.",
        base=base.spec.source,
        licence=base.spec.licence,
        data=f"{len(data):,} pictures of `{Path(config.data).name}`, their edges and scribbles made of them.",
        prompt=config.preview_prompts[0] if config.preview_prompts else "a red heart",
        run=folder,
    )

    def hand_over(trainer: Trainer) -> None:
        save_controlnet(trainer.averages["controlnet"], folder / "output", config, card, trainer.step)

    return follow(Trainer(task, config, folder, hand_over))


def train_translate(config: TranslateConfig, folder: Path) -> bool:
    """Train a translator of pictures, from pairs or two domains; writes it as a folder of `yoso_core.translate`.

    Raises:
        ConfigError: the data can't be used, or a network that compares pictures has no weights here.
    """
    begin(folder, *config.sources)
    config = settled(config)
    device = PartialState().device
    base = load_base(config, device, one_step=True)
    spec = spec_of(config, base, folder / "output")
    try:
        check_spec(spec)
    except ValueError as error:
        raise ConfigError(
            f"what it learns could not be offered: {error}; change the title, the domains or the prompts"
        ) from None
    perception = load_perception(config.perceptual, device)
    torch.manual_seed(config.seed)
    generator = Generator(base, config)
    task = build_translation(generator, perception, config, base, folder)
    compared = {"lpips": "LPIPS on AlexNet", "evaluator": "the project's evaluator"}[config.perceptual]
    sources = " and ".join(f"`{Path(source).name}`" for source in config.sources)
    card = Card(
        title=spec.title,
        description=(
            "Translates pictures in one network evaluation "
            f"({'CycleGAN-Turbo' if config.domains else 'pix2pix-turbo'}, arXiv 2403.12036). "
            f"In training pictures were compared, and told from real ones, by {compared}."
        ),
        base=base.spec.source,
        licence=base.spec.licence,
        data=f"{task.sample_count:,} {'pictures of the larger domain' if config.domains else 'pictures'} of {sources}.",
        prompt="" if isinstance(task, UnpairedTask) else (config.preview_prompts or task.captions.texts)[0],
        run=folder,
    )

    def hand_over(trainer: Trainer) -> None:
        save_translator(trainer.averages["generator"], folder / "output", spec, config, card, trainer.step)

    return follow(Trainer(task, config, folder, hand_over, _measures(task, config, base)))


def _measures(
    task: PairedTask | UnpairedTask, config: TranslateConfig, base: LoadedModel
) -> Callable[[dict[str, nn.Module]], dict[str, float]]:
    """Measures the average generator on what is held out; on nothing where that is not asked for, or not there."""

    def read(prompts: list[str]) -> Condition:
        return base.encode_texts(prompts)

    all_tried = held_out_pictures(config, task.fit, read)
    if config.measured and not all_tried:
        print("nothing is held out to measure on: put pairs or domains into test_A and test_B beside train_A")
    judge = load_judge(config.judge, config.clip_model, base.device) if all_tried else None

    def figures(averages: dict[str, nn.Module]) -> dict[str, float]:
        network = averages["generator"]

        def go(direction: str, given: Tensor, condition: Condition) -> Tensor:
            return network(given.to(task.device), condition.to(task.device), direction)

        found = [measure(one, partial(go, one.name), task.perception.levels, judge) for one in all_tried]
        return {name: value for one in found for name, value in one.items()}

    return figures


def build_translation(
    generator: nn.Module, perception: Perception, config: TranslateConfig, base: LoadedModel, folder: Path
) -> PairedTask | UnpairedTask:
    """What a generator, ours or another, is to learn from the data that the settings name."""
    config = settled(config)
    size = config.resolution or base.spec.resolution
    fit = fitting(config.preparation, size)

    def read(text: str) -> Condition:
        return base.encode_texts([text])

    if config.domains:
        domains = load_domains(config, fit)
        problems = list(dict.fromkeys(problem for domain in domains for problem in domain.problems))
        tell(problems, sum(map(len, domains)), folder)
        conditions = dict(zip(config.directions, map(read, config.fixed_prompts), strict=True))
        marks = fingerprint_of([domain.digest for domain in domains], base)
        for domain in domains:
            _check_size(domain.pictures, fit, base)
        return UnpairedTask(generator, perception, config, domains, fit, conditions, marks)
    pairs = load_pairs(config, fit)
    tell(pairs.targets.problems, len(pairs.targets), folder)
    judge = None
    if config.similarity_weight:
        judge = load_judge(config.similarity, config.clip_model, base.device)
    seen = _check_size(pairs.targets.pictures, fit, base)
    latent = (base.channels, *(side // base.pixels_per_latent for side in seen))
    captions = encode_captions(pairs.targets.captions, base)
    marks = fingerprint_of([pairs.digest], base)

    def start(noise: Tensor) -> Tensor:
        return prior_start(base.schedule, noise, base.prior_mean, base.prior_deviation)

    return PairedTask(generator, perception, config, pairs, fit, captions, read(""), latent, start, judge, marks)


def _check_size(pictures: Tensor, fit: Fitting, base: LoadedModel) -> tuple[int, int]:
    """Height and width of what a step sees of pictures (N, 3, H, W).

    Raises:
        ConfigError: the model's latents have no such size.
    """
    height, width = fit.middle(pictures[:1]).shape[2:]
    step = base.pixels_per_latent
    if height % step or width % step:
        raise ConfigError(
            f"pictures of {width} x {height} pixels can't be encoded: both must be multiples of {step}; choose another "
            "resolution or preparation"
        )
    return height, width


def _load_data(config: ModelRunConfig, base: LoadedModel, folder: Path) -> Data:
    """The data of a run, and a word on what was wrong with it."""
    now("reads the pictures and encodes them" if config.data else "makes latents of the captions")
    data = load_data(config, base)
    tell(getattr(data, "problems", ()), len(data), folder)
    return data


def begin(folder: Path, *sources: str) -> None:
    """Make a run's folder, before anything that takes time.

    Args:
        folder: of the run.
        sources: folders of pictures that it reads.

    Raises:
        ConfigError: it lies among the training pictures, where its previews would become some of them.
        TrainingError: it can't be made.
    """
    for source in sources:
        if folder.resolve().is_relative_to(Path(source).resolve()):
            raise ConfigError(f"the run's folder {folder} lies in the data folder {source}; choose one outside")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    now("reads the model")


def now(doing: str) -> None:
    """Say what takes time before the first step, for whoever follows the log."""
    if PartialState().is_main_process:
        print(f"{NOW}{doing}", flush=True)


def tell(problems: Sequence[Problem], used: int, folder: Path) -> None:
    """Say what was wrong with the data's files, and write all of it to ``problems.txt``."""
    if not problems or not PartialState().is_main_process:
        return
    with writing(folder):
        (folder / "problems.txt").write_text("\n".join(map(str, problems)) + "\n")
    print(*problems[:SHOWN], sep="\n")
    print(f"{len(problems)} notes on the data, all in {folder / 'problems.txt'}; {used} samples are used")


def adapted_scheduler(scheduler: dict, config: DiffusionConfig) -> dict:
    """A diffusers scheduler config that says what the network predicts after training, and where its noise ends."""
    changes = {"prediction_type": config.prediction, "rescale_betas_zero_snr": config.zero_terminal_snr}
    # With pure noise at the end sampling has to start there, which only trailing timesteps do.
    return scheduler | changes | ({"timestep_spacing": "trailing"} if config.zero_terminal_snr else {})


def train_scratch(config: ScratchConfig | ScratchDiffusionConfig, folder: Path) -> bool:
    """Train a network on pixels from nothing; writes it as a diffusers ``unet`` folder."""
    begin(folder, *config.sources)
    task = build_task(config, PartialState().device)
    tell(task.data.problems, len(task.data), folder)

    def hand_over(trainer: Trainer) -> None:
        (network,) = trainer.averages.values()
        network.save_pretrained(folder / "output" / "unet")

    return follow(Trainer(task, config, folder, hand_over))


def _hand_over(
    trainer: Trainer,
    player: str,
    config: ModelRunConfig,
    base: LoadedModel,
    one_step: bool,
    scheduler: SchedulerMixin | None = None,
) -> None:
    """Write the averaged weights and their card to ``output/``: a LoRA, or a whole pipeline."""
    out, source = trainer.folder / "output", base.spec.source
    card = Card(
        title=config.title or (f"{base.spec.title}, one step" if one_step else f"{base.spec.title}, adapted"),
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
        trigger=config.trigger,
        part=base.family.network,
        pipeline=base.family.diffusers,
    )
    if config.adapter == "lora":
        save_lora(trainer.averages[player], out, config, card, trainer.step, scheduler)
        keep_snapshot(out, trainer.folder / "snapshots", trainer.step)
    else:
        scheduler = scheduler or base.scheduler
        _save_pipeline(trainer.averages[player], out, config, card, trainer.step, base, scheduler)


def _save_pipeline(
    network: nn.Module,
    out: Path,
    config: ModelRunConfig,
    card: Card,
    steps: int,
    base: LoadedModel,
    scheduler: SchedulerMixin,
) -> None:
    """The whole model, for which no other is needed."""
    parts = base.parts | {"vae": _with_moments(base.autoencoder, card.prior), "scheduler": scheduler}
    base.family.save(parts, out)
    save_network(network, out, config, card, steps, scheduler)


def _with_moments(autoencoder: AutoencoderKL, prior: tuple[Tensor, Tensor] | None) -> AutoencoderKL:
    """The same network with the moments (C,) of its scaled latents in its config, for the informative prior."""
    if prior is None:
        return autoencoder
    mean, deviation = ((moment.cpu() / autoencoder.config.scaling_factor).tolist() for moment in prior)
    changed = copy.copy(autoencoder)
    changed.register_to_config(latents_mean=mean, latents_std=deviation)
    return changed


# By name: settings, what trains, and what it is for.
RUNS = {
    "yoso": (YosoConfig, train_yoso, "make a model draw in one evaluation"),
    "teacher": (
        DiffusionConfig,
        train_diffusion,
        "plain diffusion: adapt a model before YOSO, fine-tune it, or a LoRA",
    ),
    "controlnet": (ControlConfig, train_controlnet, "a ControlNet for edges and scribbles, at one step"),
    "translate": (
        TranslateConfig,
        train_translate,
        "pictures to pictures in one evaluation: from pairs or two domains",
    ),
    "scratch": (ScratchConfig, train_scratch, "a one-step generator from nothing, on pixels, without prompts"),
    "scratch-diffusion": (ScratchDiffusionConfig, train_scratch, "its baseline: the same network by plain diffusion"),
}
