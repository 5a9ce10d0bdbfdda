"""Samplers equal the schedulers that do the same job in diffusers."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    TCDScheduler,
)
from torch import nn

from tests.tiny import called
from train.recipes.teacher import build_scheduler
from yoso_core.condition import Condition
from yoso_core.denoiser import BOUNDARY_DEVIATION, Denoiser
from yoso_core.sampling import (
    ddim,
    ddim_timesteps,
    dpm_solver,
    dpm_solver_timesteps,
    edit_timesteps,
    few_step,
    few_step_timesteps,
    one_step,
    prior_start,
    repaint,
    sdedit_start,
    strength_timestep,
    tcd,
)
from yoso_core.schedule import NoiseSchedule

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
BUNDLED = dict(build_scheduler().config)


class Network(nn.Module):
    """Some smooth function of its inputs."""

    def forward(self, noisy, t, encoder_hidden_states, return_dict):
        return (torch.tanh(noisy * 0.7 + t.view(-1, 1, 1, 1) / 1000 + encoder_hidden_states.mean()),)


def start_and_condition():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 8, 8, generator=generator), Condition(torch.randn(2, 5, 6, generator=generator))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("config", [SD15, BUNDLED], ids=["sd15", "bundled"])
def test_equals_lcm_scheduler(steps, config):
    start, condition = start_and_condition()
    scheduler = LCMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == few_step_timesteps(steps)
    network, theirs = Network(), start
    generator = torch.Generator().manual_seed(5)
    for t in scheduler.timesteps:
        output = network(theirs, t.expand(2), condition.context, False)[0]
        theirs = scheduler.step(output, t, theirs, generator=generator, return_dict=False)[0]

    schedule = NoiseSchedule.from_config(config)
    generator = torch.Generator().manual_seed(5)
    noises = [torch.randn(start.shape, generator=generator) for _ in range(steps - 1)]
    denoise = Denoiser(called(network), schedule, config["prediction_type"])
    ours = few_step(denoise, schedule, start, condition, few_step_timesteps(steps), noises)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("config", [SD15, BUNDLED], ids=["sd15", "bundled"])
def test_equals_tcd_scheduler(steps, config):
    start, condition = start_and_condition()
    scheduler = TCDScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == few_step_timesteps(steps)
    network, theirs = Network(), start
    generator = torch.Generator().manual_seed(5)
    for t in scheduler.timesteps:
        output = network(theirs, t.expand(2), condition.context, False)[0]
        theirs = scheduler.step(output, t, theirs, eta=1.0, generator=generator, return_dict=False)[0]

    schedule = NoiseSchedule.from_config(config)
    generator = torch.Generator().manual_seed(5)
    noises = [torch.randn(start.shape, generator=generator) for _ in range(steps - 1)]
    denoise = Denoiser(called(network), schedule, config["prediction_type"], consistent=False)
    ours = tcd(denoise, schedule, start, condition, few_step_timesteps(steps), noises)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_one_step_of_tcd_is_one_of_a_first_order_solver_that_keeps_the_last_trace_of_noise():
    """As SDXS-512 is published: its scheduler is DEIS, of one step."""
    start, condition = start_and_condition()
    scheduler, network = DEISMultistepScheduler.from_config(SD15), Network()
    scheduler.set_timesteps(1)
    (t,) = scheduler.timesteps
    theirs = scheduler.step(network(start, t.expand(2), condition.context, False)[0], t, start).prev_sample
    schedule = NoiseSchedule.from_config(SD15)
    denoise = Denoiser(called(network), schedule, "epsilon", consistent=False)
    ours = tcd(denoise, schedule, start, condition, [schedule.last], [])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_equals_ddim_scheduler(steps):
    start, condition = start_and_condition()
    scheduler = DDIMScheduler.from_config(BUNDLED)
    scheduler.set_timesteps(steps)
    network, theirs = Network(), start
    for t in scheduler.timesteps:
        step = scheduler.step(network(theirs, t.expand(2), condition.context, False)[0], t, theirs)
        theirs = step.prev_sample
    schedule = NoiseSchedule.from_config(BUNDLED)
    assert scheduler.timesteps.tolist() == ddim_timesteps(steps, 999)
    denoise = Denoiser(called(network), schedule, "v_prediction", consistent=False)
    ours = ddim(denoise, schedule, start, condition, ddim_timesteps(steps, 999))
    torch.testing.assert_close(ours, step.pred_original_sample, rtol=1e-3, atol=1e-3)


class RandomNetwork(nn.Module):
    """Two layers of random weights, that know the timestep and the context."""

    def __init__(self):
        super().__init__()
        self.first, self.told, self.last = (
            nn.Conv2d(4, 32, 3, padding=1),
            nn.Linear(7, 32),
            nn.Conv2d(32, 4, 3, padding=1),
        )

    def forward(self, noisy, t, encoder_hidden_states, return_dict):
        told = self.told(torch.cat([t[:, None] / 1000, encoder_hidden_states.mean(1)], 1))
        return (self.last(torch.tanh(2 * self.first(noisy) + told[:, :, None, None])),)


@pytest.fixture(scope="module")
def random_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RandomNetwork().requires_grad_(False)


def dpm_configs():
    schedule = NoiseSchedule.from_config(BUNDLED)
    # What diffusers takes in place of no signal at all.
    floored = NoiseSchedule.from_alpha(schedule.alpha.clamp_min(2**-12))
    spacing = {"timestep_spacing": "linspace"}  # what the scheduler has by default
    return [
        pytest.param(SD15, NoiseSchedule.from_config(SD15), 1e-4, id="sd15"),
        pytest.param(SD15 | {"prediction_type": "v_prediction"}, NoiseSchedule.from_config(SD15), 1e-4, id="sd15 v"),
        pytest.param(BUNDLED | spacing, floored, 1e-4, id="bundled, floored"),
        pytest.param(BUNDLED | spacing, schedule, 1e-3, id="bundled"),
    ]


def by_diffusers(config, network, start, condition, timesteps):
    """What DPMSolverMultistepScheduler makes of it; `timesteps` is how many, or which."""
    scheduler = DPMSolverMultistepScheduler.from_config(config)
    given = {"num_inference_steps": timesteps} if isinstance(timesteps, int) else {"timesteps": timesteps}
    scheduler.set_timesteps(**given)
    made = start
    for t in scheduler.timesteps:
        output = network(made, t.expand(2), condition.context, False)[0]
        made = scheduler.step(output, t, made, return_dict=False)[0]
    return made, scheduler.timesteps.tolist()


def assert_close_by_deviation(ours, theirs, tolerance):
    assert theirs.std() > 0.1
    assert ((ours - theirs).abs().max() / theirs.std()).item() < tolerance


@pytest.mark.parametrize("steps", [2, 3, 4, 8, 14, 15, 25])
@pytest.mark.parametrize(("config", "schedule", "tolerance"), dpm_configs())
def test_equals_dpm_solver_scheduler(random_network, config, schedule, tolerance, steps):
    start, condition = start_and_condition()
    theirs, timesteps = by_diffusers(config, random_network, start, condition, steps)
    assert timesteps == dpm_solver_timesteps(steps, 999)
    denoise = Denoiser(called(random_network), schedule, config["prediction_type"], consistent=False)
    ours = dpm_solver(denoise, schedule, start, condition, timesteps)
    assert_close_by_deviation(ours, theirs, tolerance)


@pytest.mark.parametrize("steps", [2, 4, 8, 25])
@pytest.mark.parametrize("t", [80, 400, 998])
def test_an_edit_equals_dpm_solver_scheduler(random_network, t, steps):
    start, condition = start_and_condition()
    schedule, noise = (
        NoiseSchedule.from_config(SD15),
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9)),
    )
    noisy = sdedit_start(schedule, start, noise, t)
    timesteps = dpm_solver_timesteps(steps, t)
    assert len(timesteps) == steps and timesteps[0] == t
    theirs, _ = by_diffusers(SD15, random_network, noisy, condition, timesteps)
    denoise = Denoiser(called(random_network), schedule, "epsilon", consistent=False)
    assert_close_by_deviation(dpm_solver(denoise, schedule, noisy, condition, timesteps), theirs, 1e-4)


@pytest.mark.parametrize("sample", [ddim, dpm_solver])
def test_who_knows_the_picture_is_believed(sample):
    """Every solver ends at the estimate of its last evaluation, from any noise."""
    start, condition = start_and_condition()
    schedule, known = NoiseSchedule.from_config(BUNDLED), torch.full_like(start, 0.5)
    made = sample(lambda noisy, t, condition: known, schedule, start, condition, [999, 500, 20, 0])
    assert torch.equal(made, known)


def test_second_order_follows_a_line_exactly():
    """Where the estimate is linear in half the log of SNR, order two errs far less than order one."""
    schedule = NoiseSchedule.from_config(SD15)
    half_log_snr = (schedule.alpha.double() / schedule.sigma.double()).log()
    start, condition = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        Condition(torch.zeros(1, 1, 6)),
    )
    seen = {}

    def denoise(noisy, t, condition):
        seen[t.item()] = noisy
        return torch.full_like(noisy, half_log_snr[t].item())

    def at_timestep(sample, timesteps):
        sample(denoise, schedule, start, condition, timesteps)
        return seen[timesteps[-1]]

    exact = at_timestep(ddim, list(range(999, 99, -1)))
    errors = [
        (at_timestep(sample, [999, 800, 600, 400, 200, 100]) - exact).abs().max() for sample in (ddim, dpm_solver)
    ]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("spread", [ddim_timesteps, dpm_solver_timesteps])
def test_timesteps_begin_at_their_own_fall_and_are_as_many_as_there_are(spread):
    for steps in (2, 3, 8, 25, 50):
        for t in range(1, 1000):
            timesteps = spread(steps, t)
            assert timesteps[0] == t and min(timesteps) >= 0 and timesteps == sorted(set(timesteps), reverse=True)
            assert len(timesteps) == steps or (t < 2 * steps and len(timesteps) > 0)


def test_timesteps_are_those_of_dpm_solver_scheduler():
    scheduler = DPMSolverMultistepScheduler.from_config(SD15)
    for steps in range(2, 51):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == dpm_solver_timesteps(steps, 999)


def test_one_step_is_one_evaluation():
    calls = []

    def denoise(noisy, t, condition):
        calls.append(t.tolist())
        return noisy

    start, condition = start_and_condition()
    one_step(denoise, start, condition, 999)
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
    noise, _ = start_and_condition()
    start = prior_start(NoiseSchedule.from_config(BUNDLED), noise, torch.ones(4), torch.ones(4))
    torch.testing.assert_close(start, noise)


def test_sdedit_start_goes_from_the_picture_to_noise():
    schedule = NoiseSchedule.from_config(BUNDLED)
    clean, noise = start_and_condition()[0], torch.randn(2, 4, 8, 8)
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
    start, condition = start_and_condition()
    original, mask = torch.full((1, 4, 8, 8), 3.0), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    seen = []

    def denoise(noisy, t, condition):
        seen.append(noisy)
        return torch.full_like(noisy, -1)

    noise = torch.zeros_like(start)
    clean = few_step(repaint(denoise, original, mask), schedule, start, condition, [999, 499], [noise])
    assert (clean[..., :4] == -1).all() and (clean[..., 4:] == 3).all()
    alpha = schedule.alpha[499]
    torch.testing.assert_close(seen[1][..., 4:], torch.full((2, 4, 8, 4), 3 * alpha))
    torch.testing.assert_close(seen[1][..., :4], torch.full((2, 4, 8, 4), -alpha))
