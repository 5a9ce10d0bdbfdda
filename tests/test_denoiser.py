"""Whatever the network predicts, a denoiser returns the clean latent."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.tiny import FAMILY, called
from yoso_core.condition import Condition
from yoso_core.conditioning import Guide
from yoso_core.denoiser import Denoiser, boundary_scalings, guided
from yoso_core.schedule import PREDICTIONS, NoiseSchedule

SCHEDULE = NoiseSchedule.from_config({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
CLEAN, NOISE = torch.randn(2, 3, 4, 8, 8).unbind()
CONTEXT = Condition(torch.randn(3, 5, 6))


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
    estimate = Denoiser(called(Oracle(prediction)), SCHEDULE, prediction, consistent=False)(noisy, t, CONTEXT)
    torch.testing.assert_close(estimate, CLEAN, rtol=1e-3, atol=1e-3)


def test_generator_returns_its_input_at_no_noise():
    skip, out = boundary_scalings(torch.tensor([0, 999]))
    assert skip[0] == 1 and out[0] == 0
    assert skip[1] < 1e-6 and abs(out[1] - 1) < 1e-6
    t = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(Denoiser(called(Linear()), SCHEDULE, "epsilon")(CLEAN, t, CONTEXT), CLEAN)


@pytest.mark.parametrize("together", [True, False])
def test_guidance_of_clean_estimates_is_guidance_of_outputs(together):
    t, negative = torch.tensor([10, 500, 900]), Condition(torch.randn(1, 5, 6))
    denoise = Denoiser(called(Linear()), SCHEDULE, "epsilon", consistent=False)
    ours = guided(denoise, 1.5, negative, together)(NOISE, t, CONTEXT)
    away, towards = (denoise.output(NOISE, t, c) for c in (negative.expand(3), CONTEXT))
    theirs = SCHEDULE.to_clean(away + 1.5 * (towards - away), NOISE, t, "epsilon")
    torch.testing.assert_close(ours, theirs)


def test_guidance_of_one_costs_nothing():
    denoise = Denoiser(called(Linear()), SCHEDULE, "epsilon")
    assert guided(denoise, 1, CONTEXT) is denoise


class Joined(nn.Module):
    """A network that shows what a ControlNet adds to it."""

    def forward(
        self,
        noisy,
        t,
        encoder_hidden_states,
        return_dict,
        down_block_additional_residuals=(),
        mid_block_additional_residual=0.0,
    ):
        return (encoder_hidden_states.mean() + sum(down_block_additional_residuals) + mid_block_additional_residual,)


def test_what_a_control_adds_reaches_the_network():
    noisy, t = torch.zeros(3, 4, 8, 8), torch.tensor([10, 500, 900])
    asked = []

    def control(noisy, t, condition):
        asked.append((noisy, t, condition))
        return [torch.full_like(noisy, value) for value in (1.0, 10.0, 100.0)]

    plain = Denoiser(called(Joined()), SCHEDULE, "sample").output(noisy, t, CONTEXT)
    guided_by = Denoiser(called(Joined()), SCHEDULE, "sample", control=control).output(noisy, t, CONTEXT)
    torch.testing.assert_close(guided_by - plain, torch.full_like(noisy, 111.0))
    assert [(one is other) for one, other in zip(asked[0], (noisy, t, CONTEXT), strict=True)] == [True] * 3


def test_a_control_that_does_not_act_changes_nothing():
    noisy, t = torch.zeros(3, 4, 8, 8), torch.tensor([10, 500, 900])
    silent = Denoiser(called(Linear()), SCHEDULE, "sample", control=lambda noisy, t, condition: ())
    assert torch.equal(silent(noisy, t, CONTEXT), Denoiser(called(Linear()), SCHEDULE, "sample")(noisy, t, CONTEXT))


class Maps(nn.Module):
    """A ControlNet that adds the mean of its map and of its context, and says what it was given."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, noisy, t, encoder_hidden_states, controlnet_cond, conditioning_scale, return_dict):
        assert return_dict is False
        self.shapes.append((len(noisy), len(t), len(encoder_hidden_states), len(controlnet_cond)))
        means = (controlnet_cond.mean((1, 2, 3)) + encoder_hidden_states.mean((1, 2))).view(-1, 1, 1, 1)
        return [means.expand_as(noisy) * conditioning_scale], means.expand_as(noisy) * conditioning_scale


def test_guidance_with_a_control_asks_it_for_both_halves():
    """One map and two pictures: each half of the doubled batch is guided by the map and by its own prompt."""
    noisy, t = NOISE[:2], torch.tensor([900, 900])
    condition, negative = CONTEXT[:2], Condition(torch.randn(1, 5, 6))
    guide = Guide(partial(FAMILY.follow, maps := Maps()), torch.full((1, 3, 16, 16), 0.5), last=999)
    denoise = Denoiser(called(Joined()), SCHEDULE, "sample", consistent=False, control=guide)
    ours = guided(denoise, 2.0, negative)(noisy, t, condition)
    assert maps.shapes == [(4, 4, 4, 4)]
    both = torch.cat([negative.context.expand(2, -1, -1), condition.context])
    added = 2 * (0.5 + both.mean((1, 2)))
    away, towards = (both.mean() + added).view(-1, 1, 1, 1).chunk(2)
    torch.testing.assert_close(ours, (away + 2.0 * (towards - away)).expand_as(noisy))
