"""The corpus in one small file, for a machine that reaches no registry: a GPU that is rented by the minute.

    python -m train.recipes.corpus.travel pack --out corpus.tar.gz      # about 35 MB
    python -m train.recipes.corpus.travel unpack corpus.tar.gz

The art of many colours is kept with losses that nobody sees at 128 pixels, and of what the sentence model says 256
principal directions in 8 bits; train the text encoder here once before, so that there is something to keep.
"""

import argparse
import io
import tarfile
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor
from tqdm import tqdm

from train.loop.console import run_command
from train.recipes.corpus.art import CORPUS, MEANINGS, read_art

MANY_COLOURS = ("3d", "glossy")  # styles whose pictures are large without losses
QUALITY = 85
DIRECTIONS = 256


def pack(corpus: Path, out: Path) -> int:
    """Write everything that training needs of the corpus; returns the bytes of the file.

    Raises:
        FileNotFoundError: no corpus was built.
    """
    art = read_art(corpus)
    with tarfile.open(out, "w:gz", compresslevel=3) as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for one in tqdm(art, desc="packing", unit="picture"):
            path = corpus / one.file
            add(one.file, _lossy(path) if one.style in MANY_COLOURS else path.read_bytes())
        for path in (corpus / "art.jsonl", *sorted(corpus.glob("common-*.txt"))):
            add(path.name, path.read_bytes())
        if (corpus / MEANINGS).exists():
            with safe_open(corpus / MEANINGS, "pt") as file:
                small = few_directions(file.get_tensor("embeddings").float())
                add(f"small-{MEANINGS}", save(small, file.metadata()))
    return out.stat().st_size


def _lossy(path: Path) -> bytes:
    content = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGBA").save(content, "webp", quality=QUALITY, alpha_quality=90)
    return content.getvalue()


def few_directions(embeddings: Tensor) -> dict[str, Tensor]:
    """(N, D) as their mean, the directions in which they differ most, and 8 bits for each of those."""
    mean = embeddings.mean(0)
    rank = min(DIRECTIONS, *embeddings.shape)
    _, _, directions = torch.pca_lowrank(embeddings - mean, rank, center=False, niter=4)
    places = (embeddings - mean) @ directions
    scale = places.abs().amax(0).clamp_min(1e-8) / 127
    return {
        "mean": mean,
        "directions": directions.half().contiguous(),
        "scale": scale,
        "places": (places / scale).round().to(torch.int8),
    }


def all_directions(small: dict[str, Tensor]) -> Tensor:
    """What `few_directions` was made of, nearly: (N, D), unit length."""
    embeddings = (small["places"].float() * small["scale"]) @ small["directions"].float().T + small["mean"]
    return torch.nn.functional.normalize(embeddings, dim=-1)


def unpack(archive: Path, corpus: Path) -> None:
    """Lay the corpus out as it was built."""
    corpus.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as file:
        file.extractall(corpus, filter="data")
    small = corpus / f"small-{MEANINGS}"
    if small.exists():
        with safe_open(small, "pt") as file:
            embeddings = all_directions({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            save_file({"embeddings": embeddings.half()}, corpus / MEANINGS, metadata=file.metadata())
        small.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CORPUS, help="folder of the corpus")
    ways = parser.add_subparsers(required=True, dest="way")
    ways.add_parser("pack").add_argument("--out", type=Path, default=Path("corpus.tar.gz"), help="file to write")
    ways.add_parser("unpack").add_argument("archive", type=Path, help="what pack wrote")
    options = parser.parse_args()
    if options.way == "pack":
        print(f"{options.out}: {pack(options.data, options.out) / 1e6:.1f} MB")
    else:
        unpack(options.archive, options.data)
        print(f"{len(read_art(options.data))} sprites in {options.data}")


if __name__ == "__main__":
    run_command(main)
