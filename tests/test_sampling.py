"""Samplers equal the schedulers that do the same job in diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import nn

from train.recipes.teacher import build_scheduler
from yoso_core.denoiser import Denoiser
from yoso_core.sampling import ddim, few_step, few_step_timesteps, one_step, prior_start, sdedit_start
from yoso_core.schedule import NoiseSchedule

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
BUNDLED = dict(build_scheduler().config)


class Network(nn.Module):
    """Some smooth function of its inputs."""

    def forward(self, noisy, t, encoder_hidden_states, return_dict):
        return (torch.tanh(noisy * 0.7 + t.view(-1, 1, 1, 1) / 1000 + encoder_hidden_states.mean()),)


def start_and_context():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 6, generator=generator)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("config", [SD15, BUNDLED], ids=["sd15", "bundled"])
def test_equals_lcm_scheduler(steps, config):
    start, context = start_and_context()
    scheduler = LCMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == few_step_timesteps(steps)
    network, theirs = Network(), start
    generator = torch.Generator().manual_seed(5)
    for t in scheduler.timesteps:
        output = network(theirs, t.expand(2), context, False)[0]
        theirs = scheduler.step(output, t, theirs, generator=generator, return_dict=False)[0]

    schedule = NoiseSchedule.from_config(config)
    generator = torch.Generator().manual_seed(5)
    noises = [torch.randn(start.shape, generator=generator) for _ in range(steps - 1)]
    denoise = Denoiser(network, schedule, config["prediction_type"])
    ours = few_step(denoise, schedule, start, context, few_step_timesteps(steps), noises)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_equals_ddim_scheduler(steps):
    start, context = start_and_context()
    scheduler = DDIMScheduler.from_config(BUNDLED)
    scheduler.set_timesteps(steps)
    network, theirs = Network(), start
    for t in scheduler.timesteps:
        step = scheduler.step(network(theirs, t.expand(2), context, False)[0], t, theirs)
        theirs = step.prev_sample
    schedule = NoiseSchedule.from_config(BUNDLED)
    ours = ddim(Denoiser(network, schedule, "v_prediction", consistent=False), schedule, start, context, steps)
    torch.testing.assert_close(ours, step.pred_original_sample, rtol=1e-3, atol=1e-3)


def test_one_step_is_one_evaluation():
    calls = []

    def denoise(noisy, t, context):
        calls.append(t.tolist())
        return noisy

    start, context = start_and_context()
    one_step(denoise, start, context, 999)
    assert calls == [[999, 999]]


def test_informative_prior_has_the_moments_of_noisy_data():
    """Noisy data at the last timestep and the prior's start agree in mean and deviation, channel by channel."""
    schedule = NoiseSchedule.from_config(SD15)
    mean, deviation = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 2.0])
    generator = torch.Generator().manual_seed(0)
    clean = mean[:, None, None] + deviation[:, None, None] * torch.randn(400, 2, 16, 16, generator=generator)
    noise, other = torch.randn(2, 400, 2, 16, 16, generator=generator).unbind()
    noisy = schedule.add_noise(clean, noise, torch.full((400,), schedule.last))
    start = prior_start(schedule, other, mean, deviation)
    torch.testing.assert_close(start.mean((0, 2, 3)), noisy.mean((0, 2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(start.std((0, 2, 3)), noisy.std((0, 2, 3)), rtol=0.02, atol=0)


def test_informative_prior_is_plain_noise_at_zero_terminal_snr():
    noise, _ = start_and_context()
    start = prior_start(NoiseSchedule.from_config(BUNDLED), noise, torch.ones(4), torch.ones(4))
    torch.testing.assert_close(start, noise)


def test_sdedit_start_goes_from_the_picture_to_noise():
    schedule = NoiseSchedule.from_config(BUNDLED)
    clean, noise = start_and_context()[0], torch.randn(2, 4, 8, 8)
    assert (sdedit_start(schedule, clean, noise, 0) - clean).abs().max() < 0.2
    assert torch.equal(sdedit_start(schedule, clean, noise, 999), noise)


@pytest.mark.parametrize("steps", [0, 51])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="steps"):
        few_step_timesteps(steps)
