"""The command line.

python -m yoso_core generate "a red heart, 3d" --seed 7 --steps 1 --out heart.png
"""

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path

from yoso_core.requests import DEFAULT_MODEL, STEPS, GenerateRequest, LoraUse, RequestError


def parse_lora(text: str) -> tuple[Path, float]:
    """PATH or PATH:WEIGHT."""
    path, colon, weight = text.rpartition(":")
    if not colon:
        return Path(text), 1.0
    try:
        return Path(path), float(weight)
    except ValueError:
        return Path(text), 1.0  # the colon belongs to the path


def output_paths(out: Path, count: int) -> list[Path]:
    """One file: `out`; several: out-1, out-2, ...

    Raises:
        RequestError: the folder can't be written to.
    """
    if out.is_dir():
        raise RequestError(f"{out} is a folder; choose a file for --out.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.parent / f".{out.name}.probe", "w"):
            pass
        (out.parent / f".{out.name}.probe").unlink()
    except OSError as error:
        raise RequestError(f"{out.parent} can't be written to ({error.strerror}); choose another --out.") from None
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{index + 1}") for index in range(count)]


def generate(options: argparse.Namespace) -> None:
    paths = output_paths(options.out, options.count)  # before the seconds of work, not after
    loras = [parse_lora(text) for text in options.lora]
    names = [path.stem if len({p.stem for p, _ in loras}) == len(loras) else str(path) for path, _ in loras]
    from yoso_core.models import find_model, with_weights  # torch takes seconds to import

    spec = with_weights(find_model(options.model), options.weights)
    model = options.model if options.weights == "own" else f"{options.model} + {Path(options.weights).name}"
    request = GenerateRequest(
        prompt=options.prompt,
        negative=options.negative,
        seed=options.seed,
        steps=options.steps,
        guidance=options.guidance,
        count=options.count,
        model=model,
        size=options.size,
        loras=tuple(LoraUse(name, weight) for name, (_, weight) in zip(names, loras, strict=True)),
    )
    from yoso_core.engine import Engine
    from yoso_core.metadata import save_png

    engine = Engine({model: spec})
    for name, (path, _) in zip(names, loras, strict=True):
        engine.add_lora(name, path)
    result = engine.run(request, report=lambda message: print(f"{message} ...", file=sys.stderr))
    for index, path in enumerate(paths):
        save_png(result, index, path)
    if result.cut:
        print(f"The model did not read the end of the prompt: {result.cut!r}", file=sys.stderr)
    summary = {
        "files": [str(path) for path in paths],
        "seeds": result.seeds,
        "evaluations": result.evaluations,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
    }
    if options.json:
        print(json.dumps(summary))
    else:
        times = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in result.seconds.items())
        print(f"{' '.join(summary['files'])}: {result.evaluations} network evaluation(s) a picture, {times}")


def convert_lora(options: argparse.Namespace) -> None:
    """Turn a LoRA that was saved as a pickle into safetensors. Nothing in the file is run: weights only."""
    import torch
    from safetensors.torch import save_file

    try:
        if not options.source.is_file():
            raise ValueError("there is no such file")
        data = options.source.read_bytes()  # once, so that the hash is of what is converted
        if data[8:9] == b"{":
            raise ValueError(f"it is safetensors already, so copy it to {options.out} as it is")
        digest = hashlib.sha256(data).hexdigest()
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]
        if not isinstance(found, dict) or not found:
            raise ValueError("it holds no weights by name")
        for key, value in found.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"{key!r:.80} in it is no tensor but {type(value).__name__}")
        if sum(value.numel() * value.element_size() for value in found.values()) > 2 * len(data):
            raise ValueError("its tensors are far larger than the file")
        # Cloned, because a pickle's tensors may be views of one another and those of safetensors may not.
        tensors = {str(key): value.detach().clone().contiguous() for key, value in found.items()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, options.out, metadata={"format": "pt", "converted_from_sha256": digest})
    except Exception as error:  # unpickling raises whatever it meets
        reason = " ".join(str(error).split())[:160]
        raise RequestError(f"{options.source} can't be converted ({reason}).") from None
    print(f"{options.out}: {len(tensors)} tensors, converted from sha256 {digest}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m yoso_core", description="One prompt, one network evaluation, one picture."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    make = commands.add_parser("generate", help="make pictures from a prompt")
    make.add_argument("prompt")
    make.add_argument("--out", type=Path, default=Path("picture.png"), help="PNG to write; several get -1, -2, ...")
    make.add_argument("--seed", type=int, default=0, help="seed of the first picture")
    make.add_argument("--steps", type=int, default=1, help=f"network evaluations: {', '.join(map(str, STEPS))}")
    make.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance; 1 is off")
    make.add_argument("--negative", default="", help="what to move away from, when guidance is above 1")
    make.add_argument("--count", type=int, default=1, help="number of pictures, seeds counting up")
    make.add_argument("--size", type=int, help="side in pixels; default: the model's own")
    make.add_argument("--model", default=DEFAULT_MODEL, help="a known model, a diffusers folder, or OWNER/NAME@COMMIT")
    make.add_argument(
        "--weights",
        default="own",
        help="one-step weights: own (the model's), none, a LoRA file, or the output folder of a training run",
    )
    make.add_argument("--lora", action="append", default=[], metavar="PATH[:WEIGHT]", help="on top; may be repeated")
    make.add_argument("--json", action="store_true", help="print files, seeds and timings as JSON")
    make.set_defaults(run=generate)

    convert = commands.add_parser("convert-lora", help="convert a pickled LoRA, weights only, to safetensors")
    convert.add_argument("source", type=Path)
    convert.add_argument("out", type=Path)
    convert.set_defaults(run=convert_lora)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (RequestError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
