"""Checkpoints in the layout of the published ones, of random weights, and what their networks compute.

The networks are put together in the published way, with peft and with 1x1 convolutions in the decoder, so that nothing
here shares anything with what converts and runs them.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tests.tiny import build_autoencoder, write_pipeline
from yoso_core.loading import LoadedModel, load_model
from yoso_core.models import local_model

NETWORK_RANK, AUTOENCODER_RANK = 8, 4
CHANNELS = (8, 16, 24, 24)
NETWORK_TARGETS = ["to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out"]
NETWORK_TARGETS += ["proj_in", "proj_out", "ff.net.2", "ff.net.0.proj"]
SKIPS = [f"skip_conv_{number}" for number in (1, 2, 3, 4)]
AUTOENCODER_TARGETS = ["conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v"]
AUTOENCODER_TARGETS += ["to_out.0", *SKIPS]
ADAPTERS = {"sd_encoder": "default_encoder", "sd_decoder": "default_decoder", "sd_other": "default_others"}


def build_whole_autoencoder() -> AutoencoderKL:
    """Tiny but with everything that Stable Diffusion's has."""
    return build_autoencoder(CHANNELS, latent_channels=4, attention=True)


def build_model(folder: Path) -> LoadedModel:
    """A model of the family "sd2", tiny but with everything that Stable Diffusion has."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    write_pipeline(folder, unet, build_whole_autoencoder())
    spec = replace(
        local_model(str(folder)), title="Tiny SD", family="sd2", lora=None, dtype="float32", resolution=64, sizes=(64,)
    )
    return load_model(spec)


class Blend(nn.Module):
    """The first convolution of the stochastic checkpoint: the original and the trained one, and how much of it."""

    def __init__(self, own: nn.Conv2d) -> None:
        super().__init__()
        self.conv_in_pretrained, self.conv_in_curr = copy.deepcopy(own), copy.deepcopy(own)
        self.part = 1.0

    def forward(self, hidden: Tensor) -> Tensor:
        return (1 - self.part) * self.conv_in_pretrained(hidden) + self.part * self.conv_in_curr(hidden)


def add_lora(network: nn.Module, name: str, rank: int, targets: list[str], **settings) -> None:
    network.add_adapter(
        LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=targets, **settings), adapter_name=name
    )


def stir(network: nn.Module) -> None:
    """Make what starts at zero act."""
    for name, parameter in network.named_parameters():
        if "lora_B" in name or "skip_conv" in name or "conv_in_curr" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape)


def with_skips(autoencoder: nn.Module, lora_on_skips: bool = True) -> nn.Module:
    """A copy of an autoencoder with skips and LoRAs."""
    made = copy.deepcopy(autoencoder)
    places = [(CHANNELS[3], CHANNELS[2]), (CHANNELS[3], CHANNELS[1]), (CHANNELS[2], CHANNELS[0])]
    places.append((CHANNELS[1], CHANNELS[0]))
    for name, (out, into) in zip(SKIPS, places, strict=True):
        setattr(made.decoder, name, nn.Conv2d(into, out, 1, bias=False))
    targets = [name for name in AUTOENCODER_TARGETS if lora_on_skips or name not in SKIPS]
    add_lora(made, "vae_skip", AUTOENCODER_RANK, targets)
    stir(made)
    return made.requires_grad_(False)


class Paired:
    """What pix2pix-turbo is made of, before it is saved.

    Args:
        model: what it is trained from.
        blend: with the first convolution of the stochastic one.
    """

    def __init__(self, model: LoadedModel, blend: bool, lora_on_skips: bool = True) -> None:
        torch.manual_seed(1)
        self.scheduler = model.scheduler
        self.network = copy.deepcopy(model.network)
        if blend:
            self.network.conv_in = Blend(self.network.conv_in)
        else:
            self.network.conv_in.weight.data += 0.1
        add_lora(self.network, "default", NETWORK_RANK, NETWORK_TARGETS)
        stir(self.network)
        self.network.requires_grad_(False)
        self.autoencoder = with_skips(model.autoencoder, lora_on_skips)

    def checkpoint(self) -> dict:
        network, autoencoder = self.network.state_dict(), self.autoencoder.state_dict()
        return {
            "unet_lora_target_modules": NETWORK_TARGETS,
            "vae_lora_target_modules": AUTOENCODER_TARGETS,
            "rank_unet": NETWORK_RANK,
            "rank_vae": AUTOENCODER_RANK,
            "state_dict_unet": {key: value for key, value in network.items() if "lora" in key or "conv_in" in key},
            "state_dict_vae": {key: value for key, value in autoencoder.items() if "lora" in key or "skip" in key},
        }

    def __call__(self, pictures: Tensor, context: Tensor, part: float = 1.0, noise: Tensor | None = None) -> Tensor:
        return translate(self.network, self.autoencoder, self.scheduler, pictures, context, part, noise)


class Unpaired:
    """What CycleGAN-Turbo is made of, before it is saved."""

    def __init__(self, model: LoadedModel) -> None:
        torch.manual_seed(2)
        self.scheduler = model.scheduler
        self.network = copy.deepcopy(model.network)
        self.modules = {name: [] for name in ADAPTERS}
        endings = (*(f".{name}" for name in NETWORK_TARGETS), "conv_in", "conv_out")
        for name, _ in self.network.named_modules():
            if f".{name}".endswith(endings):
                part = "sd_encoder" if name.startswith(("down", "conv_in")) else "sd_other"
                self.modules["sd_decoder" if name.startswith("up") else part].append(name)
        for part, adapter in ADAPTERS.items():
            add_lora(self.network, adapter, NETWORK_RANK, self.modules[part], lora_alpha=NETWORK_RANK)
        self.network.set_adapter(list(ADAPTERS.values()))
        stir(self.network)
        self.network.requires_grad_(False)
        self.autoencoders = {"a2b": with_skips(model.autoencoder), "b2a": with_skips(model.autoencoder)}

    def checkpoint(self) -> dict:
        prefixes = {"a2b": "vae", "b2a": "vae_b2a"}
        both = {
            f"{prefixes[way]}.{key}": value
            for way, autoencoder in self.autoencoders.items()
            for key, value in autoencoder.state_dict().items()
        }
        parts = {
            part: {
                key.replace(f".{adapter}", ""): value
                for key, value in self.network.state_dict().items()
                if f".{adapter}." in key
            }
            for part, adapter in ADAPTERS.items()
        }
        return {
            "l_target_modules_encoder": self.modules["sd_encoder"],
            "l_target_modules_decoder": self.modules["sd_decoder"],
            "l_modules_others": self.modules["sd_other"],
            "rank_unet": NETWORK_RANK,
            **parts,
            "rank_vae": AUTOENCODER_RANK,
            "vae_lora_target_modules": AUTOENCODER_TARGETS,
            "sd_vae_enc": both,
            "sd_vae_dec": dict(both),
        }

    def __call__(self, pictures: Tensor, context: Tensor, way: str) -> Tensor:
        return translate(self.network, self.autoencoders[way], self.scheduler, pictures, context, 1.0, None)


def translate(
    network: nn.Module,
    autoencoder: nn.Module,
    scheduler,
    pictures: Tensor,
    context: Tensor,
    part: float,
    noise: Tensor | None,
) -> Tensor:
    """One step of the published method; the posterior's mean where that draws from it.

    Args:
        pictures: (B, 3, H, W), in whatever range the checkpoint learned.
        part: r of the stochastic one, to which LoRAs, first convolution and skips are scaled.
        noise: (B, 4, H/8, W/8), what is blended in below 1.

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    for module in (*network.modules(), *autoencoder.modules()):
        if isinstance(module, LoraLayer):
            for adapter in module.active_adapters:
                module.set_scale(adapter, part)
    if isinstance(network.conv_in, Blend):
        network.conv_in.part = part
    kept = []
    hooks = [
        block.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
        for block in autoencoder.encoder.down_blocks
    ]
    start = autoencoder.encode(pictures).latent_dist.mode() * autoencoder.config.scaling_factor
    if part < 1:
        start = part * start + (1 - part) * noise
    scheduler = DDPMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(1)
    (timestep,) = scheduler.timesteps
    output = network(start, timestep, encoder_hidden_states=context).sample
    clean = scheduler.step(output, timestep, start, generator=torch.Generator().manual_seed(0)).prev_sample
    skips = [
        getattr(autoencoder.decoder, name)(part * feature) for name, feature in zip(SKIPS, kept[::-1], strict=True)
    ]
    hooks += [
        block.register_forward_pre_hook(lambda module, inputs, skip=skip: (inputs[0] + skip, *inputs[1:]))
        for block, skip in zip(autoencoder.decoder.up_blocks, skips, strict=True)
    ]
    pictures = autoencoder.decode(clean / autoencoder.config.scaling_factor).sample.clamp(-1, 1)
    for hook in hooks:
        hook.remove()
    return pictures
