"""The architectures that the studio knows. Whatever tells one from another is in its one file here."""

from pathlib import Path

from yoso_core.checkpoints import ModelError, index_of
from yoso_core.families.base import Family
from yoso_core.families.pixart import PixArt
from yoso_core.families.sana import SanaSprint
from yoso_core.families.sdxl import StableDiffusionXL
from yoso_core.families.stable_diffusion import StableDiffusion
from yoso_core.offers import either

KNOWN = (StableDiffusion(), StableDiffusionXL(), PixArt(), SanaSprint())
FAMILIES: dict[str, Family] = {family.name: family for family in KNOWN}


def family_of(folder: Path, title: str = "") -> Family:
    """The family that a folder of diffusers says it is of.

    Args:
        title: what people call it; "" for the folder itself.

    Raises:
        ModelError: it says none that is known.
    """
    index, title = index_of(folder), title or f"The folder {folder}"
    if not (kind := index.get("_class_name")):
        raise ModelError(f"{title} is not a whole diffusers model (no model_index.json in it says of what kind it is).")
    if found := next((family for family in FAMILIES.values() if family.recognises(index)), None):
        return found
    known = either(family.diffusers for family in FAMILIES.values())
    raise ModelError(f"{title} is a {kind!s:.60}, which is not drawn with here; what is, is a {known}.")
