"""What a large text encoder makes of prompts: kept on disk, so that the encoder is in memory for new ones alone.

T5-XXL is 9.5 GB, and the network that reads its encodings a tenth of that. What has been encoded once is read from the
disk in a millisecond, and the encoder is let go wherever memory is short.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from yoso_core.checkpoints import Checkpoint, index_of, link, load_text_encoder, refuse_absent
from yoso_core.devices import free_memory
from yoso_core.runtimes.cache import cache_folder

LARGE = 4e9  # bytes of an encoder
ROOM = 500e6  # bytes of encodings on disk; a prompt of 20 words in bfloat16 has 0.2 MB
SPARE = 4e9  # bytes of memory that are free beside an encoder that is kept
LOOKED_AT = 64  # places of a file of weights, by which it is told from others
LENGTH = 4096  # bytes each

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


def identity(folders: Iterable[Path]) -> str:
    """A text that is another for other files; of large ones a few places are looked at, the first of which name all
    tensors.
    """
    told = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        told.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for place in range(0, size, max(LENGTH, size // LOOKED_AT)):
                file.seek(place)
                told.update(file.read(LENGTH))
    return told.hexdigest()


class Encodings:
    """Used under the engine's lock alone.

    Args:
        place: of the encoder in its pipeline's folder.
        load: reads it from there.
        size: of the files, in bytes.
        call: the encoder, tokens (B, L) int64 and mask (B, L) -> (B, L, D).
        made_of: says which encoder it is, in which precision; see `identity`.
        folder: where encodings are kept; None for the user's cache.
    """

    def __init__(
        self,
        place: Path,
        load: Callable[[], nn.Module],
        size: int,
        call: Call,
        made_of: str,
        folder: Path | None = None,
    ) -> None:
        self.place, self.load, self.size, self.call, self.made_of = place, load, size, call, made_of
        self.folder = cache_folder() / "prompts" if folder is None else folder
        self.encoder: nn.Module | None = None

    def __call__(self, tokens: Tensor, mask: Tensor, device: torch.device) -> Tensor:
        """Encodings of prompts, each by itself; zeros where the mask has none.

        Args:
            tokens: (B, L) int64.
            mask: (B, L) bool; what is true comes first.
            device: where new prompts are encoded, if there is room; else on the CPU.

        Returns:
            (B, L, D) on the CPU.
        """
        rows = [self._row(tokens[row : row + 1], mask[row : row + 1], device) for row in range(len(tokens))]
        self._let_go()
        return torch.cat(rows)

    def save(self, folder: Path) -> None:
        """Put the encoder into a pipeline's folder: as links, since it has gigabytes, where the disk has those."""
        for path in self.place.iterdir():
            if path.suffix in (".json", ".safetensors"):
                link(path, folder / self.place.name / path.name)
        named = {self.place.name: index_of(self.place.parent)[self.place.name]}
        (folder / "model_index.json").write_text(json.dumps(index_of(folder) | named, indent=2) + "\n")

    def _row(self, tokens: Tensor, mask: Tensor, device: torch.device) -> Tensor:
        count = int(mask.sum())
        said = f"{self.made_of} {tokens.tolist()} {count}"
        path = self.folder / f"{hashlib.sha256(said.encode()).hexdigest()}.safetensors"
        read = _read(path)
        if read is None:
            read = self._encode(tokens, mask, device)[:, :count]
            self._keep(path, read)
        return torch.cat([read, read.new_zeros(1, tokens.shape[1] - count, read.shape[2])], dim=1)

    @torch.no_grad()
    def _encode(self, tokens: Tensor, mask: Tensor, device: torch.device) -> Tensor:
        if self.encoder is None:
            there = device.type == "cpu" or free_memory(device) > self.size + SPARE
            self.encoder = self.load().requires_grad_(False).eval().to(device if there else "cpu")
        at = next(self.encoder.parameters()).device
        return self.call(self.encoder, tokens.to(at), mask.to(at)).cpu()

    def _let_go(self) -> None:
        """Keep the encoder for the next prompt where there is room for it."""
        if self.encoder is not None and free_memory(next(self.encoder.parameters()).device) < SPARE:
            self.encoder = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _keep(self, path: Path, encoding: Tensor) -> None:
        """Write it, and remove what was not asked for the longest; a full or closed disk is no reason to fail."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with suppress(OSError, SafetensorError):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                save_file({"encoding": encoding.contiguous()}, partial)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            kept = sorted((each.stat() for each in self.folder.glob("*.safetensors")), key=lambda state: state.st_mtime)
            if sum(state.st_size for state in kept) > ROOM:
                half = kept[len(kept) // 2].st_mtime
                for each in self.folder.glob("*.safetensors"):
                    if each.stat().st_mtime < half:
                        each.unlink(missing_ok=True)


def encodings(files: Checkpoint, kind: Any, dtype: torch.dtype, call: Call) -> Encodings:
    """Those of a pipeline's text encoder; a large one is computed in bfloat16, whatever the rest is in.

    Args:
        files: the pipeline.
        kind: class of the encoder.
        dtype: of the rest.
        call: as of `Encodings`.

    Raises:
        ModelError: the encoder or its tokenizer is not there.
    """
    folders = [Path(files.place) / name for name in ("text_encoder", "tokenizer")]
    refuse_absent(files, {folder.name: folder if folder.is_dir() else None for folder in folders})
    size = sum(path.stat().st_size for path in folders[0].glob("*.safetensors"))
    dtype = torch.bfloat16 if size > LARGE else dtype

    def load() -> nn.Module:
        return load_text_encoder(files, kind, "text_encoder", dtype)

    return Encodings(folders[0], load, size, call, f"{identity(folders)} {dtype}")


def _read(path: Path) -> Tensor | None:
    """What was kept; None where there is nothing whole."""
    try:
        found = load_file(path)["encoding"]
        os.utime(path)
        return found
    except (OSError, SafetensorError, KeyError):
        return None
