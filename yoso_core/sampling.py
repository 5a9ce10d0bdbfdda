"""Samplers: pure functions of a denoiser, noise and a condition. No state, hence nothing to race.

Consistency sampling (`few_step`) wants the boundary scalings that one-step models are trained with; `ddim` and
`dpm_solver` follow the path of a diffusion model and want its plain clean estimate, and so does `tcd`.

Latents are (B, C, h, w), noise is standard normal of the same shape, a condition has B rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yoso_core.condition import Condition
from yoso_core.denoiser import Denoise
from yoso_core.schedule import NoiseSchedule

LCM_STEPS = 50  # LCM's own grid of timesteps, which the few-step ones are picked from
SCM_SECOND = 1.3 / 1.5708
LEAST_ALPHA = 2.0**-12  # at zero terminal SNR, whose logarithm says nothing; what diffusers takes


def full(t: int, like: Tensor) -> Tensor:
    """Timestep t for every sample of `like`: (B,) int64."""
    return torch.full((len(like),), t, dtype=torch.int64, device=like.device)


def few_step_timesteps(steps: int, length: int = 1000) -> list[int]:
    """Timesteps of LCMScheduler, falling; 1 step: [999], 2 steps: [999, 499] for 1000 timesteps.

    Raises:
        ValueError: more steps than the grid of 50 has.
    """
    if not 1 <= steps <= LCM_STEPS:
        raise ValueError(f"steps must be from 1 to {LCM_STEPS}, got {steps}")
    stride = length // LCM_STEPS
    falling = [(index + 1) * stride - 1 for index in reversed(range(LCM_STEPS))]
    return [falling[index * LCM_STEPS // steps] for index in range(steps)]


def prior_start(schedule: NoiseSchedule, noise: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Informative prior initialisation (YOSO, section 4.2): the moment-matched marginal at t = T - 1.

    ``alpha_T mu + sqrt(alpha_T^2 s^2 + sigma_T^2) eps``; equals `noise` under a zero-terminal-SNR schedule.

    Args:
        mean: (C,) mean of clean latents per channel.
        deviation: (C,) their standard deviation.
    """
    alpha, sigma = schedule.alpha[-1].item(), schedule.sigma[-1].item()
    mean, deviation = (moment.to(noise)[:, None, None] for moment in (mean, deviation))
    return alpha * mean + (alpha**2 * deviation**2 + sigma**2).sqrt() * noise


def sdedit_start(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, t: int) -> Tensor:
    """SDEdit (arXiv 2108.01073): the clean latent at noise level t."""
    return schedule.add_noise(clean, noise, full(t, clean))


def strength_timestep(schedule: NoiseSchedule, strength: float, side: int = 8) -> int:
    """The timestep that an edit of this strength starts from, 0 to T - 1.

    Of a feature with variance c, noise hides the share ``sigma_t^2 / (sigma_t^2 + c alpha_t^2)``; that share grows
    evenly with strength. One step redraws what is hidden, so pictures change evenly too, while evenly growing angles of
    the noise or timesteps leave most of the change to a part of the slider (``python -m benchmarks.strength``). At 8
    latent pixels a side c is 1/4, the variance behind the consistency boundary. What spreads over more of them is still
    seen in more noise (arXiv 2301.11093): c grows with the side, and at 64 strength is about the share of timesteps.

    Args:
        strength: 0 to 1.
        side: of the latents.
    """
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    hidden = sigma**2 / (sigma**2 + side / 32 * alpha**2)
    return int((hidden - torch.lerp(hidden[0], hidden[-1], strength)).abs().argmin())


def edit_timesteps(steps: int, t: int, length: int = 1000) -> list[int]:
    """Those of `few_step_timesteps`, scaled to begin at t: at the last timestep an edit is a generation."""
    return begun_at(few_step_timesteps(steps, length), t, length)


def begun_at(timesteps: Iterable[int], t: int, length: int = 1000) -> list[int]:
    """Timesteps of a generation, scaled as far as t is from the last one."""
    return [each * t // (length - 1) for each in timesteps]


def repaint(denoise: Denoise, original: Tensor, mask: Tensor) -> Denoise:
    """What is estimated inside the mask, and `original` outside (blended latent diffusion, arXiv 2206.02779).

    Args:
        original: (1 or B, C, h, w) clean latents to keep.
        mask: (1, 1, h, w), 1 where to repaint.
    """
    return lambda noisy, t, condition: mask * denoise(noisy, t, condition) + (1 - mask) * original


def one_step(denoise: Denoise, start: Tensor, condition: Condition, t: int) -> Tensor:
    """One network evaluation: G(z_t, t, c)."""
    return denoise(start, full(t, start), condition)


def few_step(
    denoise: Denoise,
    schedule: NoiseSchedule,
    start: Tensor,
    condition: Condition,
    timesteps: Sequence[int],
    noises: Sequence[Tensor],
) -> Tensor:
    """Multistep consistency sampling (arXiv 2303.01469, Alg. 1): denoise, add less noise, again.

    Args:
        start: z_t at ``timesteps[0]``.
        timesteps: falling, one evaluation each.
        noises: ``len(timesteps) - 1`` fresh noises, added between the evaluations.
    """
    clean = one_step(denoise, start, condition, timesteps[0])
    for t, noise in zip(timesteps[1:], noises, strict=True):
        clean = one_step(denoise, schedule.add_noise(clean, noise, full(t, clean)), condition, t)
    return clean


def tcd(
    denoise: Denoise,
    schedule: NoiseSchedule,
    start: Tensor,
    condition: Condition,
    timesteps: Sequence[int],
    noises: Sequence[Tensor],
) -> Tensor:
    """Trajectory consistency sampling (arXiv 2402.19159, gamma = 1): along the path to timestep 0, whose trace of noise
    stays, then more noise, again. Of one step it is what any first-order solver does that ends at timestep 0.

    `denoise` must give the plain clean estimate: without the consistency boundary.

    Args:
        start: z_t at ``timesteps[0]``.
        timesteps: falling, one evaluation each.
        noises: ``len(timesteps) - 1`` fresh noises, added between the evaluations.
    """
    noisy = start
    for t, following, noise in zip(timesteps, [*timesteps[1:], 0], [*noises, torch.zeros_like(start)], strict=True):
        clean = one_step(denoise, noisy, condition, t)
        end = ddim_step(schedule, clean, noisy, full(t, noisy), full(0, noisy))
        kept = (schedule.alpha[following] / schedule.alpha[0]).item()
        noisy = kept * end + (1 - kept**2) ** 0.5 * noise
    return noisy


def scm_timesteps(steps: int, t: int) -> list[int]:
    """Falling from t in even parts of the way (t + 1) / T; of two steps the second begins at 1.3 / 1.5708 of it.

    These are the times of SANA-Sprint (arXiv 2503.09641), whose schedule is even in them.
    """
    shares = [1.0, SCM_SECOND] if steps == 2 else [1 - step / steps for step in range(steps)]
    return [max(round((t + 1) * share) - 1, 0) for share in shares]


def ddim_timesteps(steps: int, t: int) -> list[int]:
    """Falling from t in equal strides, "trailing": 4 steps from 999 are [999, 749, 499, 249]; as many as there are."""
    return falling(round((t + 1) * (steps - index) / steps) - 1 for index in range(steps))


def dpm_solver_timesteps(steps: int, t: int) -> list[int]:
    """Falling from t, even parts of the way to 0, "linspace": 4 steps from 999 are [999, 749, 500, 250]."""
    return falling(round(t / steps * (steps - index)) for index in range(steps))


def falling(timesteps: Iterable[int]) -> list[int]:
    """Each once, the noisiest first: near the clean picture there are fewer than steps are asked for."""
    return sorted({max(t, 0) for t in timesteps}, reverse=True)


def ddim(
    denoise: Denoise, schedule: NoiseSchedule, start: Tensor, condition: Condition, timesteps: Sequence[int]
) -> Tensor:
    """Deterministic DDIM (arXiv 2010.02502, eq. 12 with eta = 0).

    `denoise` must give the plain clean estimate: without the consistency boundary.

    Args:
        start: z_t at ``timesteps[0]``.
        timesteps: of `ddim_timesteps`, one evaluation each.
    """
    noisy, clean = start, start
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        clean = one_step(denoise, noisy, condition, t)
        if following is not None:
            noisy = ddim_step(schedule, clean, noisy, full(t, noisy), full(following, noisy))
    return clean


def ddim_step(schedule: NoiseSchedule, clean: Tensor, noisy: Tensor, t: Tensor, following: Tensor) -> Tensor:
    """From timesteps t to less noisy ones along the teacher's path (eq. 12 of DDIM, eta = 0).

    Args:
        clean: (B, C, h, w), what is estimated of
        noisy: (B, C, h, w), at
        t: (B,) int64.
        following: (B,) int64.
    """
    return schedule.add_noise(clean, schedule.to_noise(clean, noisy, t), following)


def dpm_solver(
    denoise: Denoise, schedule: NoiseSchedule, start: Tensor, condition: Condition, timesteps: Sequence[int]
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, Alg. 2, data prediction); its last step, to no noise at all, is of order one.

    `denoise` must give the plain clean estimate: without the consistency boundary. Between evaluations latents are
    float32 at least.

    Args:
        start: z_t at ``timesteps[0]``.
        timesteps: of `dpm_solver_timesteps`, strictly falling, one evaluation each.
    """
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    half_log_snr = (alpha.clamp_min(LEAST_ALPHA) / sigma).log()  # lambda in the paper
    noisy = start.to(torch.promote_types(start.dtype, torch.float32))
    clean, leaps = start, []  # h in the paper
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        before, clean = clean, one_step(denoise, noisy.to(start.dtype), condition, t)
        if following is not None:
            leaps.append(half_log_snr[following] - half_log_snr[t])
            slope = (leaps[-1] / (2 * leaps[-2])).item() if len(leaps) > 1 else 0.0
            ahead = clean + slope * (clean - before)  # the estimate half a step on
            kept, drawn = sigma[following] / sigma[t], -alpha[following] * torch.expm1(-leaps[-1])
            noisy = kept.item() * noisy + drawn.item() * ahead
    return clean


@dataclass(frozen=True)
class Sampler:
    """One of the functions above, and what it is called with.

    Attributes:
        timesteps: (steps, t, T) -> so many timesteps, falling from t.
        sample: (denoise, schedule, start, condition, timesteps, fresh noises) -> clean latents (B, C, h, w).
        fresh: whether it adds a fresh noise between two steps; those are for one-step models.
        consistent: whether it wants the consistency boundary.
    """

    timesteps: Callable[[int, int, int], list[int]]
    sample: Callable[..., Tensor]
    fresh: bool = True
    consistent: bool = False

    def noises(self, steps: int) -> int:
        """How many noises so many steps take, that of the start included."""
        return steps if self.fresh else 1


# By the names of `yoso_core.requests.SAMPLERS`.
KNOWN = {
    "lcm": Sampler(edit_timesteps, few_step, consistent=True),
    "scm": Sampler(lambda steps, t, length: scm_timesteps(steps, t), few_step),
    "tcd": Sampler(edit_timesteps, tcd),
    "ddim": Sampler(lambda steps, t, length: ddim_timesteps(steps, t), lambda *given: ddim(*given[:-1]), fresh=False),
    "dpm++": Sampler(
        lambda steps, t, length: dpm_solver_timesteps(steps, t), lambda *given: dpm_solver(*given[:-1]), fresh=False
    ),
}
