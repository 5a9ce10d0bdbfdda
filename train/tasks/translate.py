"""One-step image translation (arXiv 2403.12036): pix2pix-turbo from pairs, CycleGAN-Turbo from two domains.

A one-step model learns to begin from an encoded picture instead of noise: by LoRAs in the network and the autoencoder,
a retrained first convolution and skips around the network. Pairs teach it by what comes out; two domains by what comes
back, the discriminator of each domain saying what belongs there.

Where this leaves the paper: pictures are compared by LPIPS on AlexNet and told from real ones by heads on its features
(and one on the pixels), or by the project's own evaluator, because CLIP and DINO want a hub; for the same reason the
similarity of picture and prompt has no weight unless it is given one; and pictures are encoded as the mean of the
posterior instead of a sample of it.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor, nn

from train.data.fitting import Fitting
from train.data.latents import (
    CaptionedPictures,
    Captions,
    choose_phrasings,
    digest_of,
    drop_prompts,
    grid,
    to_unit_range,
    weights_fingerprint,
)
from train.data.lines import bent, maps_of, sketch, varied
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player
from train.measure.evaluate import Judge
from train.tasks.augmentation import NUMBERS, augmented
from train.tasks.base import lora_config
from train.tasks.losses import discriminator_loss, generator_loss, per_sample_mse
from train.tasks.perception import Perception, PictureDiscriminator
from train.tasks.translate_config import TranslateConfig
from train.tasks.translate_data import Pairs, drawn_lines
from yoso_core.condition import Condition
from yoso_core.families.base import Family
from yoso_core.loading import LoadedModel
from yoso_core.schedule import NoiseSchedule, Prediction
from yoso_core.translate import BACK, FORWARD, Skips, Translator

# Everything that convolves or attends in an autoencoder.
AUTOENCODER_TARGETS = [
    *("conv_in", "conv1", "conv2", "conv_shortcut", "conv", "conv_out", "to_q", "to_k", "to_v", "to_out.0")
]
SHOWN = 8  # pictures in a row of a preview


class Generator(nn.Module):
    """A one-step model with what makes a translator of it, trained; the directions share the network.

    Args:
        base: the model, its one-step LoRA merged; it is copied.
        config: says what is trained.
    """

    def __init__(self, base: LoadedModel, config: TranslateConfig) -> None:
        super().__init__()
        self.family: Family = base.family
        self.schedule: NoiseSchedule = base.schedule
        self.prediction: Prediction = base.prediction
        lora = config.trained in ("all", "no-skips")
        self.unet: UNet2DConditionModel = copy.deepcopy(base.network).requires_grad_(False)
        self.first = copy.deepcopy(base.network.conv_in).requires_grad_(True)
        if lora:
            targets = [*base.family.targets, "conv_out"]
            self.unet.add_adapter(lora_config(config.rank, config.alpha, targets, config.lora_start))
        self.autoencoders = nn.ModuleDict()
        self.skips = nn.ModuleDict()
        for direction in config.directions:
            autoencoder: AutoencoderKL = copy.deepcopy(base.autoencoder).requires_grad_(False)
            if lora:
                rank = config.autoencoder_rank
                autoencoder.add_adapter(lora_config(rank, rank, AUTOENCODER_TARGETS, config.lora_start))
            self.autoencoders[direction] = autoencoder
            if config.trained in ("all", "no-lora"):
                self.skips[direction] = Skips(autoencoder.config.block_out_channels)
        if config.checkpointing:
            self.unet.enable_gradient_checkpointing()
            for autoencoder in self.autoencoders.values():
                autoencoder.enable_gradient_checkpointing()
        self.to(base.device, memory_format=torch.channels_last)

    def forward(
        self, pictures: Tensor, condition: Condition, direction: str, strength: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        """Translate pictures (B, 3, H, W) one way; see `Translator`."""
        autoencoder = self.autoencoders[direction]
        for layer in lora_layers(self.unet, autoencoder):
            layer.set_scale("default", strength)
        skips = self.skips[direction] if len(self.skips) else None
        translator = Translator(self.family, self.unet, self.schedule, self.prediction, autoencoder, skips, self.first)
        return translator(pictures, condition, strength, noise)


def lora_layers(*networks: nn.Module) -> list[LoraLayer]:
    return [module for network in networks for module in network.modules() if isinstance(module, LoraLayer)]


class _Task:
    """What both kinds of translation share: the players, and how the discriminators learn.

    Args:
        generator: what is trained, on its device.
        domains: names of what the discriminators tell apart.
        perception: compares pictures.
        config: see `TranslateConfig`.
        fingerprint: of the data and the base model.
    """

    averaged = ("generator",)

    def __init__(
        self,
        generator: nn.Module,
        domains: Iterable[str],
        perception: Perception,
        config: TranslateConfig,
        fingerprint: str,
    ) -> None:
        self.generator, self.perception, self.config, self.fingerprint = generator, perception, config, fingerprint
        self.device = next(generator.parameters()).device
        self.players: dict[str, Player] = {}
        if config.adversarial_weight:
            self.discriminators = nn.ModuleDict({name: PictureDiscriminator(perception) for name in domains})
            self.discriminators.to(self.device, memory_format=torch.channels_last)
            rate = config.discriminator_learning_rate
            self.players["discriminators"] = Player(self.discriminators, rate, betas=(0.0, 0.99), weight_decay=0.0)
        self.players["generator"] = Player(generator, config.learning_rate, betas=(0.9, 0.99))

    def _chances(self, draws: Draws) -> Tensor | None:
        """What a step's augmentations are drawn by, (B, NUMBERS): real and made pictures change alike."""
        return draws.uniform(NUMBERS) if self.config.augmentations and self.config.adversarial_weight else None

    def _augmented(self, pictures: Tensor, chances: Tensor | None) -> Tensor:
        return pictures if chances is None else augmented(pictures, self.config.augmentations, chances)

    def _discriminate(
        self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor], chances: Mapping[str, Tensor | None]
    ) -> Losses:
        """The discriminators' loss on real and made pictures of each domain."""
        self.discriminators.requires_grad_(True)
        terms, watched = {}, {}
        for name, pictures in real.items():
            logits = []
            for each in (pictures, fake[name].detach()):
                each = self._augmented(each, chances[name])
                with torch.no_grad():
                    levels = self.perception.levels(each)
                logits.append(self.discriminators[name](each, levels))
            pairs = list(zip(*logits, strict=True))
            terms[f"discriminator {name}"] = sum(discriminator_loss(*pair) for pair in pairs) / len(pairs)
            for index, kind in enumerate(("real", "fake")):
                watched[f"logit {kind} {name}"] = sum(pair[index].mean() for pair in pairs) / len(pairs)
        return Losses(terms, watched)

    def _adversarial(self, fake: Tensor, name: str, chances: Tensor | None) -> Tensor:
        self.discriminators.requires_grad_(False)
        fake = self._augmented(fake, chances)
        logits = self.discriminators[name](fake, self.perception.levels(fake))
        return self.config.adversarial_weight * sum(map(generator_loss, logits)) / len(logits)


class PairedPass(NamedTuple):
    given: Tensor  # (B, 3, H, W) in [-1, 1]
    target: Tensor
    made: Tensor  # with gradients
    texts: list[str]  # B
    strength: float
    chances: Tensor | None  # of augmentations


class PairedTask(_Task):
    """pix2pix-turbo: the picture that goes with an input and a prompt (section 3.2).

    Args:
        generator, perception, config: see `_Task`.
        pairs: what should come out, and what goes in.
        fit: what a step takes of them.
        captions: of the targets.
        empty: one row, the encoded empty prompt.
        latent: (C, h, w) of the noise.
        start: noise -> what a picture begins from without an input, see `prior_start`.
        judge: of picture and prompt; None where similarity has no weight.
        fingerprint: of data and model.
    """

    def __init__(
        self,
        generator: nn.Module,
        perception: Perception,
        config: TranslateConfig,
        pairs: Pairs,
        fit: Fitting,
        captions: Captions,
        empty: Condition,
        latent: tuple[int, int, int],
        start: Callable[[Tensor], Tensor],
        judge: Judge | None,
        fingerprint: str,
    ) -> None:
        super().__init__(generator, [FORWARD], perception, config, fingerprint)
        self.pairs, self.fit, self.captions, self.empty = pairs, fit, captions, empty
        self.latent, self.start, self.judge = latent, start, judge
        self.sample_count, self.repeats = len(pairs.targets), pairs.targets.repeats

    def forward(self, indices: Tensor, draws: Draws) -> PairedPass:
        config = self.config
        given, target = self._pictures(indices, draws)
        chosen = choose_phrasings(self.captions.first, indices, draws)
        condition, dropped = drop_prompts(self.captions.conditions[chosen], self.empty, config.drop_caption, draws)
        texts = ["" if gone else self.captions.texts[one] for one, gone in zip(chosen, dropped, strict=True)]
        noise = self.start(draws.normal(*self.latent))
        which, strength = torch.rand(2, generator=draws.generator).tolist()  # one strength for the whole batch
        strength = strength if which < config.noisy_share else 1.0
        made = self.generator(given, condition, FORWARD, strength, noise)
        return PairedPass(given, target, made, texts, strength, self._chances(draws))

    def _pictures(self, indices: Tensor, draws: Draws, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Input and target (B, 3, H, W) in [-1, 1]: of `whole` pictures, or of parts by chance where that is set."""
        stacks = [self.pairs.targets.pictures[indices]]
        if self.pairs.inputs is not None:
            stacks.append(self.pairs.inputs[indices])
        seeds = draws.uniform(3).cpu().double()
        stacks = [self.fit.middle(one) for one in stacks] if whole else self.fit.parts(draws, *stacks)
        targets = stacks[0]
        if self.pairs.inputs is None:
            inputs = []
            for row, (change, seed, kind) in enumerate(seeds.tolist()):
                picture = Image.fromarray(targets[row].permute(1, 2, 0).numpy())
                numbers = np.random.default_rng(int(seed * 2**24))
                if change < self.config.varied:
                    picture = varied(picture, numbers)
                if kind < self.config.sketched:
                    picture = bent(picture, numbers)
                    lines = sketch(np.array(picture), numbers)
                else:
                    maps = maps_of(np.array(picture))
                    lines = maps[int((kind - self.config.sketched) / (1 - self.config.sketched) * len(maps))]
                targets[row] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
                inputs.append(drawn_lines(torch.from_numpy(lines), self.config.ink))
            given = torch.stack(inputs)
        else:
            given = to_unit_range(stacks[1])
        given, target = (
            each.to(draws.device).contiguous(memory_format=torch.channels_last)
            for each in (given, to_unit_range(targets))
        )
        return given, target

    def losses(self, player: str, shared: PairedPass) -> Losses:
        config, made, target = self.config, shared.made, shared.target
        if player == "discriminators":
            return self._discriminate({FORWARD: target}, {FORWARD: made}, {FORWARD: shared.chances})
        # With noise the picture is not told by the input alone, so what compares it to one picture counts less.
        told = shared.strength
        terms = {
            "error": told * config.error_weight * per_sample_mse(made, target).mean(),
            "perceptual": told * config.perceptual_weight * self.perception.distance(made, target).mean(),
        }
        if self.judge is not None:
            named = [row for row, text in enumerate(shared.texts) if text]
            read = self.judge.read([shared.texts[row] for row in named]) if named else None
            similar = (self.judge.look(made[named]).vectors * read).sum(1).sum() if named else made.sum() * 0
            terms["similarity"] = config.similarity_weight * (len(named) - similar) / len(made)
        if config.adversarial_weight:
            terms["adversarial"] = self._adversarial(made, FORWARD, shared.chances)
        return Losses(terms)

    @torch.no_grad()
    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Rows of inputs, what is made of them, and what should be."""
        indices = torch.arange(SHOWN) * self.sample_count // SHOWN
        draws = Draws(0, 0, SHOWN, slice(None), self.device)
        given, target = self._pictures(indices, draws, whole=True)
        condition = self.captions.conditions[self.captions.first[indices]].float().to(self.device)
        made = averages["generator"](given, condition, FORWARD)
        return grid(torch.cat([given, made, target]).cpu(), SHOWN)


class UnpairedPass(NamedTuple):
    real: dict[str, Tensor]  # by the direction that they go: (B, 3, H, W)
    made: dict[str, Tensor]  # of them
    returned: dict[str, Tensor]  # of what was made, the other way
    kept: dict[str, Tensor]  # what a direction makes of pictures that are of its target domain; {} if not asked
    chances: dict[str, Tensor | None]  # of augmentations


class UnpairedTask(_Task):
    """CycleGAN-Turbo: from one domain to the other and back (section 3.4).

    Args:
        generator, perception, config: see `_Task`.
        domains: pictures that go forward, and those that go back.
        fit: what a step takes of them.
        conditions: by direction, the fixed prompts, a row each.
        fingerprint: of data and model.
    """

    def __init__(
        self,
        generator: nn.Module,
        perception: Perception,
        config: TranslateConfig,
        domains: tuple[CaptionedPictures, CaptionedPictures],
        fit: Fitting,
        conditions: Mapping[str, Condition],
        fingerprint: str,
    ) -> None:
        super().__init__(generator, (FORWARD, BACK), perception, config, fingerprint)
        self.domains, self.conditions = dict(zip((FORWARD, BACK), domains, strict=True)), conditions
        self.fit = fit
        self.sample_count, self.repeats = max(map(len, domains)), None  # see `forward`

    def _go(self, direction: str, pictures: Tensor, network: nn.Module | None = None) -> Tensor:
        condition = self.conditions[direction].expand(len(pictures)).to(pictures.device)
        return (network or self.generator)(pictures, condition, direction)

    def forward(self, indices: Tensor, draws: Draws) -> UnpairedPass:
        real = {}
        for direction, domain in self.domains.items():  # each by chance, so that counterparts meet by chance alone
            chosen = _by_chance(domain, draws.uniform().cpu())
            (parts,) = self.fit.parts(draws, domain.pictures[chosen])
            real[direction] = _mirrored(to_unit_range(parts).to(draws.device), draws)
        made = {direction: self._go(direction, real[direction]) for direction in real}
        returned = {direction: self._go(_other(direction), made[direction]) for direction in real}
        kept = {}
        if self.config.identity_weight or self.config.identity_perceptual_weight:
            kept = {direction: self._go(direction, real[_other(direction)]) for direction in real}
        return UnpairedPass(real, made, returned, kept, {direction: self._chances(draws) for direction in real})

    def losses(self, player: str, shared: UnpairedPass) -> Losses:
        config, terms = self.config, {}
        if player == "discriminators":
            real = {name: shared.real[_other(name)] for name in shared.real}
            return self._discriminate(real, shared.made, shared.chances)
        for direction, real in shared.real.items():
            returned = shared.returned[direction]
            terms[f"cycle {direction}"] = (
                config.cycle_weight * F.l1_loss(returned, real)
                + config.cycle_perceptual_weight * self.perception.distance(returned, real).mean()
            )
            if shared.kept:
                kept, there = shared.kept[direction], shared.real[_other(direction)]
                terms[f"identity {direction}"] = (
                    config.identity_weight * F.l1_loss(kept, there)
                    + config.identity_perceptual_weight * self.perception.distance(kept, there).mean()
                )
            if config.adversarial_weight:
                made, chances = shared.made[direction], shared.chances[direction]
                terms[f"adversarial {direction}"] = self._adversarial(made, direction, chances)
        return Losses(terms)

    @torch.no_grad()
    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Rows of pictures of each domain and what is made of them."""
        rows = []
        for direction, pictures in self.domains.items():
            chosen = torch.arange(SHOWN) * len(pictures) // SHOWN
            given = to_unit_range(self.fit.middle(pictures.pictures[chosen])).to(self.device)
            rows += [given, self._go(direction, given, averages["generator"])]
        return grid(torch.cat(rows).cpu(), SHOWN)


def _other(direction: str) -> str:
    return BACK if direction == FORWARD else FORWARD


def _by_chance(domain: CaptionedPictures, chance: Tensor) -> Tensor:
    """Pictures of a domain by numbers (B,) in [0, 1): (B,) int64, each as likely as its repeats say."""
    if domain.repeats is None:
        return (chance * len(domain)).long()
    ends = domain.repeats.cumsum(0).double()
    return torch.searchsorted(ends, chance.double() * ends[-1], right=True)


def _mirrored(pictures: Tensor, draws: Draws) -> Tensor:
    """Half of them mirrored; (B, 3, H, W)."""
    turned = (draws.uniform() < 0.5)[:, None, None, None]
    return torch.where(turned, pictures.flip(3), pictures).contiguous(memory_format=torch.channels_last)


def fingerprint_of(digests: list[str], base: LoadedModel) -> str:
    weights = weights_fingerprint(base.network, base.autoencoder, *base.encoders)
    return f"{digest_of(digests)[:16]} {weights}"
