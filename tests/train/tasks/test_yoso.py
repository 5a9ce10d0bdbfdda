"""YOSO: who is real, who is fake, who moves; and the methods that are settings of it."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import FAMILY, build_unet, called
from tests.trained import SCHEDULE, changed, draws, no_preview, tiny_latents
from train.loop.trainer import StepDone, Trainer
from train.tasks.base import trainable
from train.tasks.losses import per_sample_mse
from train.tasks.yoso import YosoTask
from yoso_core.denoiser import Denoiser
from yoso_core.sampling import ddim, full


def build_task(**values) -> YosoTask:
    torch.manual_seed(0)
    config, unet = changed(**values), build_unet()
    generator = trainable(SimpleNamespace(network=unet, family=FAMILY), config)
    return YosoTask(FAMILY, unet, generator, SCHEDULE, "v_prediction", tiny_latents(), config, no_preview)


def at_timestep(task, t):
    task.timesteps = lambda draws: torch.full((4,), t)
    return task


@pytest.mark.parametrize(("adapter", "moves"), [("lora", "lora_"), ("full", "")])
def test_only_what_is_trained_changes_and_the_losses_are_named(tmp_path, adapter, moves):
    task = build_task(adapter=adapter)
    generator, teacher = task.players["generator"].module, task.perception
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    events = list(Trainer(task, task.config, tmp_path).run())
    different = {name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    assert different and all(moves in name for name in different)
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())
    report = next(event for event in events if isinstance(event, StepDone))
    terms = {"discriminator", "adversarial", "consistency", "reconstruction"}
    assert set(report.losses) == terms | {"logit_real", "logit_fake"}


def test_the_real_side_is_the_generators_own_sample_from_less_noise():
    task = build_task()
    x = task.forward(torch.arange(4), draws())
    assert (x.t_target == (x.t - 25).clamp_min(0)).all()
    assert x.fake.requires_grad and not x.real.requires_grad and not x.target.requires_grad
    # The same latent and the same noise at t - 250, read by the same generator.
    noise_draws = draws()
    clean, context = task.data.batch(torch.arange(4), 0.0, noise_draws)
    noise, t_real = noise_draws.normal(8, 8, 8), (x.t - 250).clamp_min(0)
    with torch.no_grad():
        expected = task.denoise(SCHEDULE.add_noise(clean, noise, t_real), t_real, context)
    torch.testing.assert_close(x.real, expected)


def test_near_the_data_the_real_side_is_the_data():
    x = at_timestep(build_task(), 100).forward(torch.arange(4), draws())
    torch.testing.assert_close(x.real, SCHEDULE.alpha[0] * x.clean, atol=0.2, rtol=0)


def test_an_offset_of_the_whole_schedule_is_a_plain_diffusion_gan():
    x = at_timestep(build_task(cooperation_offset=1000), 999).forward(torch.arange(4), draws())
    torch.testing.assert_close(x.real, SCHEDULE.alpha[0] * x.clean, atol=0.2, rtol=0)


def test_without_the_adversarial_term_there_is_no_discriminator():
    task = build_task(adversarial_weight=0.0)
    assert set(task.players) == {"generator"} and not hasattr(task, "discriminator")
    x = task.forward(torch.arange(4), draws())
    assert x.real is None and set(task.losses("generator", x).minimised) == {"consistency", "reconstruction"}


def test_the_teachers_path_is_one_ddim_step():
    """The neighbour at t - 25 by the frozen network equals the first half of a DDIM step from t."""
    task = at_timestep(build_task(consistency_path="teacher", adversarial_weight=0.0), 999)
    noise_draws = draws()
    _, context = task.data.batch(torch.arange(4), 0.0, noise_draws)
    noise = noise_draws.normal(8, 8, 8)
    torch.manual_seed(0)
    plain = Denoiser(called(build_unet()), SCHEDULE, "v_prediction", consistent=False)
    with torch.no_grad():
        estimate = ddim(plain, SCHEDULE, noise, context, [999])  # at t = 999 the latent is all noise
        neighbour = SCHEDULE.alpha[974] * estimate + SCHEDULE.sigma[974] * noise
        expected = task.denoise(neighbour, full(974, noise), context)
    x = task.forward(torch.arange(4), draws())
    torch.testing.assert_close(x.target, expected, atol=1e-4, rtol=1e-4)


def test_gradients_of_one_player_reach_no_other():
    task = build_task()
    x = task.forward(torch.arange(4), draws())
    sum(task.losses("generator", x).minimised.values()).backward(retain_graph=True)
    assert all(value.grad is None for value in task.discriminator.parameters())
    generator = task.players["generator"].module
    generator.zero_grad(set_to_none=True)
    sum(task.losses("discriminator", x).minimised.values()).backward()
    assert all(value.grad is None for value in generator.parameters())
    assert any(value.grad is not None for value in task.discriminator.parameters())


@pytest.mark.parametrize("name", ["consistency", "reconstruction"])
def test_a_floor_keeps_a_term_alive_at_pure_noise(name):
    """The paper's weights are 0 where the signal is."""
    for floor in (0.0, 0.5):
        task = at_timestep(build_task(**{f"{name}_floor": floor}), 999)
        value = task.losses("generator", task.forward(torch.arange(4), draws())).minimised[name].item()
        assert (value > 1e-3) == (floor > 0)


def test_plain_distance_is_between_latents():
    task = at_timestep(build_task(consistency_distance="mse", consistency_floor=5.0, consistency_weight=1.0), 500)
    x = task.forward(torch.arange(4), draws())
    expected = 5 * per_sample_mse(x.fake, x.target).mean()
    torch.testing.assert_close(task.losses("generator", x).minimised["consistency"], expected)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        task = build_task(checkpointing=checkpointing)
        x = task.forward(torch.arange(4), draws())
        sum(task.losses("generator", x).minimised.values()).backward()
        parameters = task.players["generator"].module.parameters()
        gradients.append([value.grad for value in parameters if value.requires_grad])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


# The public script's numbers, where ours are others


def test_the_discriminators_optimizer_is_a_setting(tmp_path):
    given = {"discriminator_beta2": 0.999, "discriminator_weight_decay": 1e-2, "discriminator_clip": False}
    task = build_task(**given)
    trainer = Trainer(task, task.config, tmp_path)
    [group] = trainer.optimizers["discriminator"].param_groups
    assert group["betas"] == (0.0, 0.999) and group["weight_decay"] == 1e-2
    assert task.players["discriminator"].clip == float("inf") and task.players["generator"].clip is None
    assert build_task().players["discriminator"].clip is None


def test_a_player_may_be_clipped_otherwise_than_the_run(tmp_path):
    moved = []
    for clip in (True, False):
        task = build_task(discriminator_clip=clip, clip=1e-12, discriminator_learning_rate=1e-2, warmup=0, steps=2)
        weights = {name: value.clone() for name, value in task.discriminator.named_parameters()}
        list(Trainer(task, task.config, tmp_path / str(clip)).run())
        parameters = task.discriminator.named_parameters()
        moved.append(max((value - weights[name]).abs().max().item() for name, value in parameters))
    assert moved[0] < 1e-3 < moved[1]


def noised(**values):
    """The one noise of a pass, seen through data that is zero, for the student, the real side and the target."""
    task = build_task(**values)
    task.data.latents.zero_()
    seen, denoise = [], task.denoise
    task.denoise = lambda noisy, t, context: (
        seen.append(noisy / SCHEDULE.sigma[t][:, None, None, None]) or denoise(noisy, t, context)
    )
    at_timestep(task, 900).forward(torch.arange(4), draws())
    real, target, student = seen
    return student, real, target


def test_offset_noise_is_the_same_all_over_a_channel():
    plain, offset = noised()[0], noised(noise_offset=0.5)
    torch.testing.assert_close(offset[0], offset[1])  # one noise for all who look
    change = offset[0] - plain
    torch.testing.assert_close(change, change.mean((2, 3), keepdim=True).expand_as(change), atol=1e-5, rtol=0)
    assert 0.2 < change.std() < 0.9


def test_perturbed_input_is_the_students_alone():
    plain, perturbed = noised(), noised(input_perturbation=0.5)
    torch.testing.assert_close(perturbed[1:], plain[1:])
    change = perturbed[0] - plain[0]
    assert abs(change.std().item() - 0.5) < 0.1 and change.mean((2, 3)).std() < 0.2


def test_a_lora_may_start_as_published():
    spread = {}
    for start in ("gaussian", "kaiming"):
        network = build_task(lora_start=start).players["generator"].module
        down = [value for name, value in network.named_parameters() if "lora_A" in name]
        up = [value for name, value in network.named_parameters() if "lora_B" in name]
        assert all(value.abs().max() == 0 for value in up)
        spread[start] = sum(value.std().item() for value in down) / len(down)
    assert spread["gaussian"] > 2 * spread["kaiming"]


def test_the_rate_may_be_constant():
    config = build_task(warmup=0, cooldown=0.0, steps=7).config
    assert [config.learning_rate_factor(step) for step in range(7)] == [1.0] * 7
