"""Samplers equal the schedulers that do the same job in diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import nn

from train.recipes.teacher import build_scheduler
from yoso_core.denoiser import BOUNDARY_DEVIATION, Denoiser
from yoso_core.sampling import (
    ddim,
    edit_timesteps,
    few_step,
    few_step_timesteps,
    one_step,
    prior_start,
    repaint,
    sdedit_start,
    strength_timestep,
)
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


@pytest.mark.parametrize("side", [8, 64, 128])
@pytest.mark.parametrize("config", [SD15, BUNDLED], ids=["sd15", "bundled"])
def test_more_strength_is_a_noisier_timestep(config, side):
    """From the clean picture to where generation starts, with no strength that is as another a step of 0.05 away."""
    schedule = NoiseSchedule.from_config(config)
    timesteps = [strength_timestep(schedule, index / 20, side) for index in range(21)]
    assert timesteps[0] == 0 and timesteps[-1] == schedule.last
    assert timesteps == sorted(set(timesteps))
    finer = [strength_timestep(schedule, index / 1000, side) for index in range(1001)]
    assert finer == sorted(finer)


def test_the_larger_the_latents_the_more_noise_an_edit_of_equal_strength_starts_from():
    schedule = NoiseSchedule.from_config(SD15)
    for strength in (0.1, 0.5, 0.9):
        timesteps = [strength_timestep(schedule, strength, side) for side in (8, 16, 64, 128)]
        assert timesteps == sorted(set(timesteps))


def test_half_strength_hides_half_of_what_the_boundary_calls_data():
    schedule = NoiseSchedule.from_config(BUNDLED)
    t = strength_timestep(schedule, 0.5)
    assert schedule.sigma[t] / schedule.alpha[t] == pytest.approx(BOUNDARY_DEVIATION, rel=0.01)


def test_a_short_schedule_has_strengths_too():
    schedule = NoiseSchedule.from_config(BUNDLED | {"num_train_timesteps": 100})
    assert strength_timestep(schedule, 0) == 0 and strength_timestep(schedule, 1) == 99


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_edit_from_the_last_timestep_is_a_generation(steps):
    for length in (1000, 100):
        assert edit_timesteps(steps, length - 1, length) == few_step_timesteps(steps, length)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_timesteps_of_an_edit_begin_at_its_own_and_fall(steps):
    for t in range(1, 1000):
        timesteps = edit_timesteps(steps, t)
        assert len(timesteps) == steps and timesteps[0] == t and min(timesteps) >= 0
        assert timesteps == sorted(timesteps, reverse=True)


def test_repainting_keeps_the_original_outside_its_mask_at_every_step():
    schedule = NoiseSchedule.from_config(BUNDLED)
    start, context = start_and_context()
    original, mask = torch.full((1, 4, 8, 8), 3.0), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    seen = []

    def denoise(noisy, t, context):
        seen.append(noisy)
        return torch.full_like(noisy, -1)

    noise = torch.zeros_like(start)
    clean = few_step(repaint(denoise, original, mask), schedule, start, context, [999, 499], [noise])
    assert (clean[..., :4] == -1).all() and (clean[..., 4:] == 3).all()
    alpha = schedule.alpha[499]
    torch.testing.assert_close(seen[1][..., 4:], torch.full((2, 4, 8, 4), 3 * alpha))
    torch.testing.assert_close(seen[1][..., :4], torch.full((2, 4, 8, 4), -alpha))
