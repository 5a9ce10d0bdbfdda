"""Plain diffusion training: every prediction, and the schedule that it is learned under."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import FAMILY, build_unet
from tests.trained import SCHEDULE, SHORT, draws, no_preview, tiny_latents
from train.loop.config import ConfigError
from train.loop.trainer import Trainer
from train.runs.assemble import adapted_scheduler
from train.tasks.diffusion import DiffusionConfig, DiffusionTask
from train.tasks.scratch import ScratchConfig, ScratchDiffusionConfig, build_network
from yoso_core.schedule import NoiseSchedule

CONFIG = DiffusionConfig(**SHORT)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_is_wanted_gives_back_the_clean_latent(prediction):
    config = replace(CONFIG, prediction=prediction, zero_terminal_snr=False)
    schedule = NoiseSchedule.from_config({"beta_schedule": "scaled_linear"})
    task = DiffusionTask(FAMILY, build_unet(), schedule, tiny_latents(), config, no_preview)
    x = task.forward(torch.arange(4), draws())
    numbers = draws()
    clean, _ = task.data.batch(torch.arange(4), 0.1, numbers)
    noise, t = numbers.normal(8, 8, 8), task.timesteps(numbers)
    noisy = schedule.add_noise(clean, noise, t)
    torch.testing.assert_close(schedule.to_clean(x.wanted, noisy, t, prediction), clean, atol=1e-3, rtol=1e-3)


def test_high_noise_moves_timesteps_towards_noise():
    tasks = [
        DiffusionTask(FAMILY, build_unet(), SCHEDULE, tiny_latents(), replace(CONFIG, high_noise=power), no_preview)
        for power in (0.5, 1.0, 2.0)
    ]
    means = [task.timesteps(draws(1000)).float().mean().item() for task in tasks]
    assert means[0] > means[1] + 100 > means[2] + 200


def test_noise_can_not_be_predicted_at_pure_noise():
    with pytest.raises(ConfigError, match="epsilon says nothing"):
        DiffusionConfig(prediction="epsilon")


def test_adaptation_says_in_the_scheduler_what_it_did():
    before = {"prediction_type": "epsilon", "beta_schedule": "scaled_linear", "timestep_spacing": "leading"}
    after = adapted_scheduler(before, CONFIG)
    assert after["prediction_type"] == "v_prediction" and after["timestep_spacing"] == "trailing"
    assert NoiseSchedule.from_config(after).alpha[-1] == 0
    assert NoiseSchedule.from_config(before).alpha[-1] > 0


@pytest.mark.parametrize(
    ("config", "named"),
    [({"channels": (20,)}, "multiple of 16"), ({"size": 10}, "go in two"), ({"channels": ()}, "channels")],
)
def test_impossible_networks_are_refused(config, named):
    with pytest.raises(ConfigError, match=named):
        ScratchDiffusionConfig(**config)


def test_from_nothing_there_is_no_teacher_to_ask():
    with pytest.raises(ConfigError, match="no teacher"):
        ScratchConfig(consistency_path="teacher")


def test_pixel_network_is_the_same_for_both_methods():
    noisy, t, context = torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.zeros(2, 1, 8)
    made = []
    for config in (ScratchConfig(size=8, channels=(16, 32)), ScratchDiffusionConfig(size=8, channels=(16, 32))):
        torch.manual_seed(0)
        made.append(build_network(config)(noisy, t, encoder_hidden_states=context, return_dict=False)[0])
    assert made[0].shape == noisy.shape and torch.equal(*made)


def test_a_network_learns(tmp_path):
    config = replace(CONFIG, steps=60, batch=12, learning_rate=3e-3, checkpoint_every=60, preview_every=60)
    task = DiffusionTask(FAMILY, build_unet(), SCHEDULE, tiny_latents(1), config, no_preview)
    trainer = Trainer(task, config, tmp_path)
    first = trainer._gradients()["network"]["error"]
    list(trainer.run())
    assert trainer._gradients()["network"]["error"] < 0.8 * first
