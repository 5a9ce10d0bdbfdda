"""The schedule's conversions are inverses of each other and agree with diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from train.recipes.teacher import build_scheduler
from yoso_core.schedule import PREDICTIONS, NoiseSchedule

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(params=[False, True], ids=["plain", "zero-terminal-snr"])
def config(request):
    return SD15 | {"rescale_betas_zero_snr": request.param}


def output_for(schedule, clean, noise, t, prediction):
    """What a perfect network would return."""
    return {"epsilon": noise, "v_prediction": schedule.velocity(clean, noise, t), "sample": clean}[prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noise_to_clean_and_back(config, prediction):
    schedule = NoiseSchedule.from_config(config)
    t = torch.tensor([0, 1, 250, 499, 900])
    clean, noise = torch.randn(2, 5, 4, 8, 8).unbind()
    noisy = schedule.add_noise(clean, noise, t)
    estimate = schedule.to_clean(output_for(schedule, clean, noise, t, prediction), noisy, t, prediction)
    torch.testing.assert_close(estimate, clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(schedule.to_noise(clean, noisy, t), noise, rtol=1e-3, atol=1e-3)


def test_velocity_survives_zero_terminal_snr():
    schedule = NoiseSchedule.from_config(build_scheduler().config)
    assert schedule.alpha[-1] == 0 and schedule.sigma[-1] == 1
    assert schedule.snr(torch.tensor([schedule.last])) == 0
    clean, noise, t = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([schedule.last])
    assert torch.equal(schedule.add_noise(clean, noise, t), noise)
    estimate = schedule.to_clean(schedule.velocity(clean, noise, t), noise, t, "v_prediction")
    torch.testing.assert_close(estimate, clean)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_equals_diffusers(config, kind):
    ours = NoiseSchedule.from_config(config | {"beta_schedule": kind})
    for scheduler in (DDIMScheduler, LCMScheduler):
        theirs = scheduler(**config | {"beta_schedule": kind}).alphas_cumprod
        torch.testing.assert_close(ours.alpha**2, theirs, rtol=1e-4, atol=1e-6)


def test_signal_and_noise_keep_unit_variance(config):
    schedule = NoiseSchedule.from_config(config)
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(1000))
    assert (schedule.alpha.diff() < 0).all()


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="sigmoid"):
        NoiseSchedule.from_config({"beta_schedule": "sigmoid"})
