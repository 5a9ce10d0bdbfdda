"""Captions for pictures that have none, written by BLIP where its weights are on this machine or can be fetched."""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Thread

import torch
from PIL import Image

from yoso_core.checkpoints import ModelError, Source, refuse_other_files
from yoso_core.models import MODELS_FOLDER

CAPTIONER_FOLDER = MODELS_FOLDER / "captioner"  # where weights are looked for first
# The smaller Salesforce/blip-image-captioning-base has pickles alone.
CAPTIONER_HUB = Source("Salesforce/blip-image-captioning-large", "353689b859fcf0523410b1806dace5fb46ecdf41")
WEIGHTS = "model.safetensors"
FILES = (
    "config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    WEIGHTS,
)
TITLE = "The captioner"
PATIENCE = 3.0  # seconds that the hub is waited for
AT_ONCE = 4  # pictures
BEAMS, LENGTH = 3, 40  # beams of the search, tokens
NO_WORD = re.compile(r"\baraf\w*\s*")  # the published weights put it before many captions; it means nothing
NEEDED = (  # what a folder has to hold, each under one of its names
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.txt"),
)


def why_not() -> str | None:
    """Why no captions can be written here and what to do about it, in a sentence; None if they can."""
    if CAPTIONER_FOLDER.is_dir():
        for names in NEEDED:
            if not any((CAPTIONER_FOLDER / name).is_file() for name in names):
                return f"models/captioner has no {names[0]}: {_remedy()}."
        if not any(CAPTIONER_FOLDER.glob("*.safetensors")):
            return f"models/captioner has no weights in a safetensors file, and pickles are not read: {_remedy()}."
        return None
    if _in_cache() or _hub_answers():
        return None
    return f"Captions can be written once the weights of BLIP are here: {_remedy()}."


def _remedy() -> str:
    place, revision = CAPTIONER_HUB.place, CAPTIONER_HUB.revision
    return f"run hf download {place} {' '.join(FILES)} --revision {revision} --local-dir models/captioner"


def _in_cache() -> bool:
    from huggingface_hub import try_to_load_from_cache

    place, revision = CAPTIONER_HUB.place, CAPTIONER_HUB.revision
    return all(isinstance(try_to_load_from_cache(place, file, revision=revision), str) for file in FILES)


def _hub_answers() -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url, answers = hf_hub_url(CAPTIONER_HUB.place, WEIGHTS, revision=CAPTIONER_HUB.revision), []

    def ask() -> None:
        with suppress(Exception):  # whatever is wrong with a network
            answers.append(get_hf_file_metadata(url, timeout=PATIENCE))

    asking = Thread(target=ask, daemon=True)  # looking up a name heeds no time limit
    asking.start()
    asking.join(PATIENCE)
    return bool(answers)


class Captioner:
    """Describes pictures; weights are loaded when they are first needed, and kept as long as this is.

    Args:
        device: where it computes; None for a GPU if there is one.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded = None

    @torch.no_grad()
    def describe(self, pictures: Iterable[Image.Image], report: Callable[[int], None] = lambda done: None) -> list[str]:
        """A caption for each picture, the same every time.

        Args:
            pictures: RGB, asked for a few at a time.
            report: told how many are done.

        Raises:
            ModelError: the weights can't be had, or are no BLIP.
        """
        captions: list[str] = []
        remaining = iter(pictures)
        while some := list(islice(remaining, AT_ONCE)):
            if self._loaded is None:
                self._loaded = _load(_folder(), self.device)
            processor, model = self._loaded
            pixels = processor(images=some, return_tensors="pt").pixel_values.to(self.device)
            tokens = model.generate(pixel_values=pixels, num_beams=BEAMS, max_new_tokens=LENGTH, do_sample=False)
            for text in processor.batch_decode(tokens[:, 1:], skip_special_tokens=True):  # the first begins them all
                captions.append(" ".join(NO_WORD.sub("", text).split()))
            report(len(captions))
        return captions


def _folder() -> Path:
    """Where the weights are on this machine, after they were fetched.

    Raises:
        ModelError: they can't be had.
    """
    from huggingface_hub import snapshot_download

    if problem := why_not():
        raise ModelError(problem)
    if CAPTIONER_FOLDER.is_dir():
        return CAPTIONER_FOLDER
    place, revision = CAPTIONER_HUB.place, CAPTIONER_HUB.revision
    try:
        return Path(snapshot_download(place, revision=revision, allow_patterns=list(FILES)))
    except MemoryError:
        raise
    except Exception as error:  # the hub raises a dozen unrelated types
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ModelError(f"The weights of BLIP could not be fetched ({cause}): {_remedy()}.") from None


def _load(folder: Path, device: torch.device | str):
    """Processor and network: safetensors only, no remote code, errors in one sentence."""
    from transformers import BlipForConditionalGeneration, BlipProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    refuse_other_files(TITLE, folder)
    try:
        processor = BlipProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, told = BlipForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever is wrong with files that somebody else wrote
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ModelError(f"{TITLE} in {folder} can't be read ({cause}): {_remedy()}.") from None
    if missing := sorted(told["missing_keys"]):
        raise ModelError(f"{TITLE} in {folder} lacks the weights {missing[0]}: {_remedy()}.")
    return processor, model.requires_grad_(False).eval().to(device)
