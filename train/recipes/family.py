"""The whole bundled family, stage by stage: art, text encoder, autoencoder, judge, teacher, one-step LoRA, the rest.

    python -m train.recipes.family --minutes 600
    python -m train.recipes.family --minutes 11 --parallel --only teacher one-step

Every stage is a command of its own, which is printed; its run goes on where it was stopped, so the same command given
again goes on too. A stage gets its share of the minutes. ``--parallel``, for a GPU, starts every stage whose needs are
there; otherwise one follows the other. What has been done is in ``runs/family/done``.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from train.loop.config import ConfigError
from train.loop.console import run_command
from train.recipes.corpus.styles import STYLES

RUNS = Path("runs/family")
ONE_STEP = "yoso_lora.safetensors"  # where a model's folder has it


@dataclass(frozen=True)
class Stage:
    """A command, what has to be done before, and its share of the minutes.

    Attributes:
        command: after ``python -m``; {model}, {runs} and {minutes} are filled in.
        needs: names of stages.
        share: of all minutes; 0 where the work is as long as it is.
        hands_over: (from, to) a file that is copied at the end.
    """

    command: str
    needs: tuple[str, ...] = ()
    share: float = 0.0
    hands_over: tuple[str, str] | None = None


STAGES = {
    "art": Stage("train.recipes.corpus.art"),
    "words": Stage("train.recipes.text_encoder --out {model} --run {runs}/words --minutes {minutes}", ("art",), 0.12),
    "autoencoder": Stage(
        "train.recipes.autoencoder --out {model}/vae --run {runs}/autoencoder --minutes {minutes}", ("art",), 0.16
    ),
    "judge": Stage("train.recipes.evaluator --run {runs}/judge --minutes {minutes}", ("art",), 0.12),
    "packed": Stage("train.recipes.packed --model {model} --out {runs}/packed.safetensors", ("words", "autoencoder")),
    "teacher": Stage(
        "train.recipes.teacher --model {model} --data {runs}/packed.safetensors --run {runs}/teacher "
        "--minutes {minutes}",
        ("packed",),
        0.28,
    ),
    "decoder": Stage(
        "train.recipes.autoencoder --sharpen --start-from {model}/vae --out {model}/vae --run {runs}/decoder "
        "--minutes {minutes}",
        ("packed",),
        0.12,
    ),
    "one-step": Stage(
        "train.recipes.one_step --config train/recipes/yoso.json --model {model} --data {runs}/packed.safetensors "
        "--run {runs}/one-step --minutes {minutes}",
        ("teacher",),
        0.18,
        ("{runs}/one-step/output/pytorch_lora_weights.safetensors", "{model}/" + ONE_STEP),
    ),
    "scenes": Stage("train.recipes.corpus.export --out data/scenes", ("art",)),
    "day-night scenes": Stage(
        "train.recipes.corpus.export --out data/day-night --count 2500 --weathers day night", ("art",)
    ),
    "clear-rainy scenes": Stage(
        "train.recipes.corpus.export --out data/day-rain --count 2500 --weathers day rain", ("art",)
    ),
    "flat-3d scenes": Stage("train.recipes.corpus.export --out data/flat-3d --count 2500 --styles flat 3d", ("art",)),
    "styles": Stage("train.recipes.corpus.styles --data data/scenes --out data/styles", ("scenes",)),
    "controlnet": Stage(
        "train controlnet --config train/recipes/controlnet.json --model {model} --run {runs}/controlnet "
        "--minutes {minutes}",
        ("one-step", "scenes"),
        0.1,
    ),
    **{
        name: Stage(
            f"train translate --config train/recipes/{name}.json --model {{model}} --run {{runs}}/{name} "
            "--minutes {minutes}",
            ("one-step", "decoder", data),
            0.12,
        )
        for name, data in (
            ("edges", "scenes"),
            ("flat-3d", "flat-3d scenes"),
            ("day-night", "day-night scenes"),
            ("clear-rainy", "clear-rainy scenes"),
        )
    },
    **{
        style.replace(" ", "-"): Stage(
            f"train teacher --config train/recipes/styles/{style.replace(' ', '-')}.json --model {{model}} "
            f"--run {{runs}}/{style.replace(' ', '-')} --minutes {{minutes}}",
            ("one-step", "styles"),
            0.04,
        )
        for style in STYLES
    },
}


class StageError(ConfigError):
    """A stage failed; what it said is in its log."""


class Family:
    """Carries stages out and remembers what is done.

    Args:
        model: folder that becomes the bundled model.
        runs: folder of the stages' runs, logs and marks.
        minutes: for all stages together.
        extra: what is added to the command of a stage, by its name.
    """

    def __init__(self, model: str, runs: Path, minutes: float, extra: dict[str, list[str]]) -> None:
        self.model, self.runs, self.minutes, self.extra = model, runs, minutes, extra
        (runs / "done").mkdir(parents=True, exist_ok=True)

    def done(self, name: str) -> bool:
        return (self.runs / "done" / name).exists()

    def _filled(self, name: str, text: str) -> str:
        minutes = f"{STAGES[name].share * self.minutes:.3f}"
        return text.format(model=self.model, runs=self.runs, minutes=minutes)

    def start(self, name: str) -> subprocess.Popen:
        words = [*self._filled(name, STAGES[name].command).split(), *self.extra.get(name, [])]
        print(f"{name}: python -m {' '.join(words)}", flush=True)
        log = open(self.runs / f"{name.replace(' ', '-')}.log", "a")  # noqa: SIM115
        return subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log, env=os.environ)

    def finish(self, name: str, code: int) -> None:
        """Mark a stage as done.

        Raises:
            StageError: it was not.
        """
        log = self.runs / f"{name.replace(' ', '-')}.log"
        if code:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise StageError(f"{name} failed ({last:.200}); mend it and give the same command again: {log}")
        if handed := STAGES[name].hands_over:
            shutil.copyfile(*(self._filled(name, path) for path in handed))
        (self.runs / "done" / name).touch()

    def run(self, wanted: list[str], parallel: bool) -> None:
        """Carry out what is not done yet; what is in the way of the rest is told last.

        Raises:
            StageError: one failed; those that do not need it went on.
        """
        left = [name for name in STAGES if name in wanted and not self.done(name)]
        running: dict[str, subprocess.Popen] = {}
        failures: list[StageError] = []
        while left or running:
            free = parallel or not running
            ready = [name for name in left if all(self.done(need) or need not in wanted for need in STAGES[name].needs)]
            for name in ready if parallel else ready[: int(free)]:
                left.remove(name)
                running[name] = self.start(name)
            if not running:
                break
            time.sleep(0.2)
            for name, process in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[name]
                    try:
                        self.finish(name, code)
                        print(f"{name}: done", flush=True)
                    except StageError as error:
                        failures.append(error)
                        print(error, flush=True)
        if failures:
            raise failures[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/next", help="folder that becomes the bundled model")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the stages' runs and logs")
    parser.add_argument("--minutes", type=float, default=600, help="minutes of training, shared out among the stages")
    parser.add_argument("--parallel", action="store_true", help="start every stage that can start; for a GPU")
    parser.add_argument(
        "--only", nargs="+", choices=STAGES, default=list(STAGES), help="these stages; needs are taken as met"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="append",
        default=[],
        metavar=("STAGE", "FLAG"),
        help="flags for one stage, with = before each: --set teacher =--batch=64",
    )
    options = parser.parse_args()
    extra = {name: [flag.removeprefix("=") for flag in flags] for name, *flags in options.set}
    if unknown := sorted(set(extra) - set(STAGES)):
        raise ConfigError(f"there is no stage {unknown[0]!r}; stages: {', '.join(STAGES)}")
    Family(options.model, options.runs, options.minutes, extra).run(options.only, options.parallel)


if __name__ == "__main__":
    run_command(main)
