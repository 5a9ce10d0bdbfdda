"""A model as a static page that draws in the visitor's own browser: no server computes, nothing leaves the visitor.

``page/`` is the page itself, ``shared/`` what it has in common with the studio's. Beside them lie the networks as ONNX,
the tokenizer's files, `onnxruntime-web` to execute them, and ``model.json``, which says everything that the page has to
know of the model: it knows no sizes, no schedule and no style by itself.
"""

import hashlib
import html
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from yoso_core.autoencoder import decode, to_pil
from yoso_core.conditioning import CONTROLS, ControlSpec, load_control
from yoso_core.loading import LoadedModel
from yoso_core.lora.changes import Lora
from yoso_core.npm import fetch
from yoso_core.requests import RequestError
from yoso_core.runtimes.cache import cache_folder
from yoso_core.runtimes.parts import Decode, Encode, Follow, Read
from yoso_core.sampling import full, prior_start, strength_timestep
from yoso_core.web.networks import CleanLatent, write_network

ROOM = Path(__file__).parent
PAGE, SHARED = ROOM / "page", ROOM / "shared"
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Its builds: the one with WebGPU is larger and no faster without.
BUILDS = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
TOKENIZER = ("vocab.json", "merges.txt")
LISTING = "files.js"  # of what an export holds, and the mark by which a folder is known to be one
ICONS = (192, 512)  # pixels
PROOF = "a red heart"  # drawn by the page before it trusts a GPU
LEVELS = 192
MOST = 200_000_000  # parameters; more is nothing that a visitor waits for


def export_page(
    model: LoadedModel,
    uses: Sequence[tuple[Lora, float]],
    out: Path,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, int]:
    """Write the page of a model.

    Args:
        model: in float32, on the CPU. The LoRAs are left in its weights.
        uses: what is merged into its weights, with their strengths; its own one-step LoRA is one of them.
        out: a folder that is not there yet, is empty, or holds an earlier page.

    Returns:
        Bytes by file.

    Raises:
        RequestError: the folder holds something else, the model is too large or of another family, something is not
            installed or can't be fetched.
    """
    refuse_other_folders(out)
    _refuse_other_models(model)
    runtime = fetch_runtime()
    out.mkdir(parents=True, exist_ok=True)
    (out / LISTING).write_text("")  # a page that is not finished can be written over
    model.loras.apply([use for use in uses if use[1]])
    about = {
        "title": _title(model),
        "styles": list(model.spec.styles),
        "examples": list(model.spec.words.examples),
        "tokenizer": _tokenizer(model),
        "builds": {name: _build(runtime, files, out) for name, files in BUILDS.items()},
        **_mathematics(model),
        **_networks(model, _control_of(model), out, report),
        "proof": _proof(model),
    }
    _write_json(out / "model.json", about)
    _write_json(out / "words.json", {"emoji": dict(model.spec.words.emoji)})
    (out / "tokenizer").mkdir(exist_ok=True)
    for name in TOKENIZER:
        shutil.copyfile(Path(model.spec.source.place) / "tokenizer" / name, out / "tokenizer" / name)
    _page(model, out)
    return _list(out)


def fetch_runtime() -> Path:
    """The tarball of what executes networks in a browser: 40 MB, fetched once.

    Raises:
        RequestError: it can't be had.
    """
    return fetch(RUNTIME, cache_folder() / "npm", RUNTIME_SHA512)


def refuse_other_folders(out: Path) -> None:
    """
    Raises:
        RequestError: a folder that holds anything but an earlier page.
    """
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; choose a folder.")
    if out.is_dir() and any(path.name != ".git" for path in out.iterdir()) and not (out / LISTING).is_file():
        raise RequestError(f"{out} holds something else; choose a folder that is empty or not there yet.")


def _refuse_other_models(model: LoadedModel) -> None:
    """
    Raises:
        RequestError: what the page can't read, or nobody would wait for.
    """
    title, tokenizer = model.spec.title, Path(model.spec.source.place) / "tokenizer"
    networks = (model.network, *model.encoders, model.autoencoder)
    size = sum(weight.numel() for network in networks for weight in network.parameters())
    if size > MOST:
        raise RequestError(
            f"{title} has {size / 1e6:,.0f} million weights; a page is for models of at most {MOST / 1e6:.0f}."
        )
    if len(model.encoders) > 1 or not all((tokenizer / name).is_file() for name in TOKENIZER):
        raise RequestError(f"{title} reads prompts in a way that the page does not know; choose another model.")


def _mathematics(model: LoadedModel) -> dict[str, Any]:
    """What the page computes with besides the networks: sizes, and the start of a picture at each strength."""
    schedule, side = model.schedule, model.spec.resolution
    latents = side // model.pixels_per_latent
    alpha, sigma = schedule.alpha[-1].item(), schedule.sigma[-1].item()
    mean, deviation = model.prior_mean, model.prior_deviation
    steps = [strength_timestep(schedule, hundredth / 100, latents) for hundredth in range(101)]
    return {
        "side": side,
        "latent": [model.channels, latents, latents],
        # `prior_start`: first.mean + first.deviation * noise
        "first": {
            "mean": (alpha * mean).tolist(),
            "deviation": (alpha**2 * deviation**2 + sigma**2).sqrt().tolist(),
        },
        # By hundredths of strength: t, and the shares of picture and noise at it, as of `sdedit_start`.
        "edits": [[t, schedule.alpha[t].item(), schedule.sigma[t].item()] for t in steps],
    }


@torch.inference_mode()
def _proof(model: LoadedModel) -> dict[str, Any]:
    """Levels of a picture, evenly spaced in its bytes, by which the page sees whether a GPU draws as it should."""
    side = model.spec.resolution
    latents = side // model.pixels_per_latent
    noise = torch.randn(1, model.channels, latents, latents, generator=torch.Generator().manual_seed(0))
    start = prior_start(model.schedule, noise, model.prior_mean, model.prior_deviation)
    condition = model.family.encode_texts(model, [PROOF])
    clean = CleanLatent(model)(start, full(model.schedule.last, start), condition.context)
    (picture,) = to_pil(decode(model.decoder, clean))
    levels = list(picture.tobytes())
    return {"prompt": PROOF, "seed": 0, "levels": levels[:: max(1, len(levels) // LEVELS)], "tolerance": 8}


def _tokenizer(model: LoadedModel) -> dict[str, Any]:
    tokenizer = model.parts["tokenizer"]
    return {
        "begin": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "padding": tokenizer.pad_token_id,
        "special": tokenizer.all_special_tokens,
        "length": tokenizer.model_max_length,
    }


def _control_of(model: LoadedModel) -> ControlSpec | None:
    """The ControlNet that comes along for the lines of its pictures."""
    own = (spec for spec in CONTROLS.values() if spec.source.is_folder and spec.family == model.spec.family)
    return next((spec for spec in own if {"canny", "scribble"} <= {*spec.annotators}), None)


def _networks(
    model: LoadedModel, control: ControlSpec | None, out: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Write the networks; what the page has to know of them."""
    side, latents = model.spec.resolution, model.spec.resolution // model.pixels_per_latent
    tokens = torch.zeros(1, model.parts["tokenizer"].model_max_length, dtype=torch.int64)
    noisy, t = torch.zeros(1, model.channels, latents, latents), torch.zeros(1, dtype=torch.int64)
    picture = torch.zeros(1, 3, side, side)
    files = {name: f"networks/{name}.onnx.deflate" for name in ("text", "network", "decoder", "encoder", "control")}
    if control is None:
        del files["control"]
    (encoder,) = model.family.encoders
    (out / "networks").mkdir(exist_ok=True)

    def write(name: str, network: torch.nn.Module, *inputs: torch.Tensor) -> list[tuple[int, ...]]:
        report(f"Writing {files[name]}")
        return write_network(network, inputs, out / files[name])

    (context,) = write("text", Read(model.family, encoder, model.parts[encoder]), tokens)
    words, added = torch.zeros(context), []
    if control is not None:
        added = write("control", Follow(model.family, load_control(control, model, report)), noisy, t, words, picture)
    write("network", CleanLatent(model), noisy, t, words, *map(torch.zeros, added))
    write("decoder", Decode(model.decoder), noisy)
    write("encoder", Encode(model.autoencoder), picture)
    return {"networks": files, "context": context[1:], "added": added}


def _build(tarball: Path, files: Sequence[str], out: Path) -> dict[str, str]:
    """One build of the runtime, unpacked; its largest file deflated."""
    (out / "runtime").mkdir(exist_ok=True)
    script, glue, binary = (f"runtime/{name}" for name in files)
    with tarfile.open(tarball) as archive:
        script_bytes, glue_bytes, wasm = (archive.extractfile(f"package/dist/{name}").read() for name in files)
    (out / script).write_bytes(script_bytes)
    (out / glue).write_bytes(glue_bytes)
    (out / f"{binary}.deflate").write_bytes(zlib.compress(wasm))
    return {"script": script, "glue": glue, "binary": f"{binary}.deflate"}


def _page(model: LoadedModel, out: Path) -> None:
    """The page itself: its files, the icons, and what makes the folder a static Space."""
    for path in (*PAGE.iterdir(), *SHARED.iterdir()):
        shutil.copyfile(path, out / path.name)
    # The studio runs this script with what it needs in scope; here it is a function of the same.
    canvas = (SHARED / "canvas.js").read_text("utf-8")
    (out / "canvas.js").write_text(
        f"export function canvas(element, props, trigger, watch, TAB, SIDE, WIDTH) {{\n{canvas}}}\n", "utf-8"
    )
    for name, spell in (("index.html", html.escape), ("README.md", _quoted), ("manifest.webmanifest", _quoted)):
        text = (out / name).read_text("utf-8")
        for key, value in (("{title}", _title(model)), ("{licence}", model.spec.licence)):
            text = text.replace(key, spell(value))
        (out / name).write_text(text, "utf-8")
    for side in ICONS:
        _icon(side).save(out / f"icon-{side}.png")


def _title(model: LoadedModel) -> str:
    """On a page of its own there is nothing that it is bundled with."""
    return model.spec.title.removesuffix(" (bundled)")


def _quoted(text: str) -> str:
    """As JSON and YAML have it; titles of folders may hold anything."""
    return json.dumps(text, ensure_ascii=False)


def _icon(side: int) -> Image.Image:
    """The studio's yellow dot on its paper."""
    picture = Image.new("RGB", (4 * side, 4 * side), "#faf9f7")
    ImageDraw.Draw(picture).ellipse([side, side, 3 * side, 3 * side], fill="#ffc42e")
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def _list(out: Path) -> dict[str, int]:
    """Write down which files there are, with their hashes, for the service worker."""
    paths = [
        path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in (LISTING, "README.md", "sw.js")
    ]
    names = {path.relative_to(out).as_posix(): path for path in paths if ".git" not in path.parts}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}
    (out / LISTING).write_text(f"const FILES = {json.dumps(hashes, indent=1)};\n")
    return {name: path.stat().st_size for name, path in names.items()}


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", "utf-8")
