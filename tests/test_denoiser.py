"""Whatever the network predicts, a denoiser returns the clean latent."""

import pytest
import torch
from torch import nn

from yoso_core.denoiser import Denoiser, boundary_scalings, guided
from yoso_core.schedule import PREDICTIONS, NoiseSchedule

SCHEDULE = NoiseSchedule.from_config({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
CLEAN, NOISE = torch.randn(2, 3, 4, 8, 8).unbind()
CONTEXT = torch.randn(3, 5, 6)


class Oracle(nn.Module):
    """A network that knows the answer."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, noisy, t, encoder_hidden_states, return_dict):
        match self.prediction:
            case "epsilon":
                return (NOISE,)
            case "sample":
                return (CLEAN,)
            case "v_prediction":
                return (SCHEDULE.velocity(CLEAN, NOISE, t),)


class Linear(nn.Module):
    """Output that depends on noisy input and context."""

    def forward(self, noisy, t, encoder_hidden_states, return_dict):
        return (noisy * 0.3 + encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1),)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_the_clean_latent(prediction):
    t = torch.tensor([10, 500, 900])
    noisy = SCHEDULE.add_noise(CLEAN, NOISE, t)
    estimate = Denoiser(Oracle(prediction), SCHEDULE, prediction, consistent=False)(noisy, t, CONTEXT)
    torch.testing.assert_close(estimate, CLEAN, rtol=1e-3, atol=1e-3)


def test_generator_returns_its_input_at_no_noise():
    skip, out = boundary_scalings(torch.tensor([0, 999]))
    assert skip[0] == 1 and out[0] == 0
    assert skip[1] < 1e-6 and abs(out[1] - 1) < 1e-6
    t = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(Denoiser(Linear(), SCHEDULE, "epsilon")(CLEAN, t, CONTEXT), CLEAN)


def test_guidance_of_clean_estimates_is_guidance_of_outputs():
    t, negative = torch.tensor([10, 500, 900]), torch.randn(1, 5, 6)
    denoise = Denoiser(Linear(), SCHEDULE, "epsilon", consistent=False)
    ours = guided(denoise, 1.5, negative)(NOISE, t, CONTEXT)
    away, towards = (denoise.output(NOISE, t, c) for c in (negative.expand_as(CONTEXT), CONTEXT))
    theirs = SCHEDULE.to_clean(away + 1.5 * (towards - away), NOISE, t, "epsilon")
    torch.testing.assert_close(ours, theirs)


def test_guidance_of_one_costs_nothing():
    denoise = Denoiser(Linear(), SCHEDULE, "epsilon")
    assert guided(denoise, 1, CONTEXT) is denoise
