"""The bundled one-step LoRA: YOSO on the bundled teacher, with the settings of ``train/recipes/yoso.json``.

    python -m train.recipes.one_step --config train/recipes/yoso.json --run runs/yoso

The same as ``python -m train yoso``, but that its data are packed scenes instead of a folder of pictures.
"""

from pathlib import Path

from accelerate import PartialState

from train.loop.config import parse
from train.loop.console import run_command
from train.recipes.packed import PackedScenes
from train.runs.assemble import train_yoso
from train.tasks.base import load_base
from train.tasks.yoso import YosoConfig


def main() -> None:
    config, folder = parse(YosoConfig, __doc__, "runs/yoso")
    device = PartialState().device
    base = load_base(config, device)
    train_yoso(config, folder, (base, PackedScenes.load(Path(config.data), Path(config.model), device)))


if __name__ == "__main__":
    run_command(main)
