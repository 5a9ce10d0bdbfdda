"""The training loop on tiny networks: resume is exact, checkpoints are whole, losses keep their weights."""

import json
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch import nn

from tests.tiny import build_unet
from train.checkpoint import checkpoints, save_checkpoint
from train.config import RunConfig, load_config
from train.data import CaptionedLatents, batch_indices, generator_for
from train.discriminator import LatentDiscriminator, UNetEncoder
from train.losses import (
    consistency_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_weight,
    weighted_mse,
)
from train.trainer import DivergedError, Finished, Player, Preview, Saved, StepDone, Trainer
from train.yoso import YosoConfig, YosoTask
from yoso_core.schedule import NoiseSchedule


class LineTask:
    """Learn a line; a task of ten numbers."""

    averaged = ("line",)
    sample_count = 10

    def __init__(self):
        torch.manual_seed(0)
        self.line = nn.Linear(1, 1)
        self.players = {"line": Player(self.line, 0.1)}

    def forward(self, indices, generator):
        x = indices.float()[:, None] / 10 + 0.01 * torch.randn(len(indices), 1, generator=generator)
        return self.line(x), 3 * x + 1

    def losses(self, player, shared):
        return {"mse": (shared[0] - shared[1]).square().mean()}

    def preview(self, averages):
        return Image.new("RGB", (4, 4))


CONFIG = RunConfig(steps=12, batch=4, warmup=2, checkpoint_every=1, preview_every=6, bf16=False)


def weights(trainer):
    return {f"{n}.{k}": v.clone() for n, m in trainer._modules.items() for k, v in m.state_dict().items()}


def test_events_tell_the_run(tmp_path):
    events = list(Trainer(LineTask(), CONFIG, tmp_path).run())
    assert [event.step for event in events if isinstance(event, Preview)] == [0, 6, 12]
    assert len([event for event in events if isinstance(event, Saved)]) == 12
    assert isinstance(events[-1], Finished) and any(isinstance(event, StepDone) for event in events)
    log = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == [type(event).__name__ for event in events]
    assert load_config(RunConfig, tmp_path / "config.json") == CONFIG


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resume_is_exact(tmp_path, stop):
    whole = Trainer(LineTask(), CONFIG, tmp_path / "whole")
    list(whole.run())
    first = Trainer(LineTask(), CONFIG, tmp_path / "parts")
    for event in first.run():
        if isinstance(event, Saved) and event.step == stop:
            break
    second = Trainer(LineTask(), CONFIG, tmp_path / "parts")
    assert second.resume() == stop
    list(second.run())
    for name, value in weights(whole).items():
        assert torch.equal(weights(second)[name], value)


def test_a_half_written_checkpoint_is_not_seen_and_old_ones_go_last(tmp_path, monkeypatch):
    task = LineTask()
    save_checkpoint(tmp_path, 1, {"line": task.line}, {})
    monkeypatch.setattr("train.checkpoint.save_file", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, {"line": task.line}, {})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000001"]


def test_divergence_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    task = LineTask()
    trainer = Trainer(task, CONFIG, tmp_path)
    with pytest.raises(DivergedError, match="mse"):
        for event in trainer.run():
            if isinstance(event, Saved) and event.step == 3:
                task.line.weight.data.fill_(torch.nan)
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step-0000003"


def test_unknown_and_impossible_settings_are_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"stepz": 3}')
    with pytest.raises(ValueError, match="stepz"):
        load_config(RunConfig, path)
    with pytest.raises(ValueError, match="steps"):
        RunConfig(steps=0)
    with pytest.raises(ValueError, match="ema"):
        RunConfig(ema=2.0)


def test_learning_rate_rises_stays_and_falls():
    config = RunConfig(steps=100, warmup=10, decay=0.2)
    factors = [config.learning_rate_factor(step) for step in range(100)]
    assert factors[0] == 0.1 and factors[50] == 1.0 and factors[-1] == pytest.approx(0.05)


def test_every_sample_once_an_epoch_in_an_order_of_its_own():
    seen = torch.cat([batch_indices(10, 4, seed=1, step=step) for step in range(5)])
    first, second = seen[:10], seen[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    assert torch.equal(batch_indices(10, 4, seed=1, step=3), seen[12:16])
    assert not torch.equal(batch_indices(10, 10, seed=2, step=0), first)


def test_noise_depends_on_its_numbers_alone():
    assert torch.equal(torch.randn(4, generator=generator_for(1, 2)), torch.randn(4, generator=generator_for(1, 2)))
    assert not torch.equal(torch.randn(4, generator=generator_for(1, 2)), torch.randn(4, generator=generator_for(2, 1)))


def test_each_sample_keeps_its_weight():
    a, b = torch.zeros(3, 2, 2), torch.stack([torch.full((2, 2), float(value)) for value in (1, 2, 3)])
    weight = torch.tensor([1.0, 10.0, 100.0])
    assert weighted_mse(a, b, weight).item() == pytest.approx((1 + 40 + 900) / 3)


def test_softplus_comes_before_the_mean():
    logits = torch.tensor([-4.0, 4.0])
    expected = torch.nn.functional.softplus(torch.tensor([4.0, -4.0])).mean()
    assert generator_loss(logits) == expected
    assert generator_loss(logits) > torch.nn.functional.softplus(-logits.mean())
    assert discriminator_loss(logits, logits) == pytest.approx(2 * expected.item())


def test_weights_of_the_paper():
    assert reconstruction_weight(torch.tensor([0.0, 3.0, 9.0]), 5).tolist() == [0, 3, 5]
    weight = consistency_weight(torch.tensor([1.0, 1.0, 0.0, 100.0]), torch.tensor([4.0, 1.0, 0.01, 101.0]), 5)
    assert weight.tolist() == [2, 5, 0, 5]  # 1 / (1 - 1/2); coinciding; pure noise; nearly coinciding
    assert torch.isfinite(weight).all()


def tiny_latents(count=12):
    contexts = torch.randn(count * 2, 32, 32).bfloat16()
    return CaptionedLatents(
        torch.randn(count, 8, 8, 8), contexts, torch.arange(0, count * 2 + 1, 2), torch.zeros(1, 32, 32)
    )


def test_encoder_features_are_those_of_the_network():
    unet = build_unet().eval()
    caught = []
    unet.mid_block.register_forward_hook(lambda module, inputs, output: caught.append(output))
    latent, t, context = torch.randn(2, 8, 8, 8), torch.tensor([0, 900]), torch.randn(2, 32, 32)
    with torch.no_grad():
        unet(latent, t, context)
        features = UNetEncoder(unet)(latent, t, context)
    assert torch.equal(features, caught[0])
    assert LatentDiscriminator(unet)(latent, t, context).shape == (2,)


SCHEDULE = NoiseSchedule.from_config({"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"})


@dataclass(frozen=True)
class TinyYoso(YosoConfig):
    steps: int = 3
    batch: int = 4
    warmup: int = 1
    learning_rate: float = 1e-3
    rank: int = 2
    checkpoint_every: int = 3
    preview_every: int = 3
    bf16: bool = False


def test_yoso_changes_the_lora_alone_and_names_its_losses(tmp_path):
    task = YosoTask(
        build_unet(), SCHEDULE, "v_prediction", tiny_latents(), TinyYoso(), lambda sample: Image.new("RGB", (4, 4))
    )
    before = {name: value.clone() for name, value in task.generator.state_dict().items()}
    events = list(Trainer(task, TinyYoso(), tmp_path).run())
    changed = {name for name, value in task.generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    report = next(event for event in events if isinstance(event, StepDone))
    assert set(report.losses) == {"discriminator", "adversarial", "consistency", "reconstruction"}


def test_the_real_side_is_the_generators_own_sample_from_less_noise():
    task = YosoTask(build_unet(), SCHEDULE, "v_prediction", tiny_latents(), TinyYoso(), None)
    shared = task.forward(torch.arange(4), generator_for(0))
    assert (shared.t_real == (shared.t - 250).clamp_min(0)).all()
    assert (shared.t_target == (shared.t - 25).clamp_min(0)).all()
    assert shared.fake.requires_grad and not shared.real.requires_grad and not shared.target.requires_grad
    task.schedule = SCHEDULE
    task.timesteps = lambda count, generator: torch.full((count,), 100)
    shared = task.forward(torch.arange(4), generator_for(0))
    torch.testing.assert_close(shared.real, SCHEDULE.alpha[0] * shared.clean, atol=0.2, rtol=0)  # near the data itself
