"""The architectures that the studio knows. Whatever tells one from another is in its one file here."""

from pathlib import Path

from yoso_core.checkpoints import index_of
from yoso_core.families.base import Family
from yoso_core.families.pixart import PixArt
from yoso_core.families.sana import SanaSprint
from yoso_core.families.sdxl import StableDiffusionXL
from yoso_core.families.stable_diffusion import StableDiffusion

KNOWN = (StableDiffusion(), StableDiffusionXL(), PixArt(), SanaSprint())
FAMILIES: dict[str, Family] = {family.name: family for family in KNOWN}


def family_of(folder: Path) -> Family:
    """The family that a folder of diffusers says it is of; where it says none, the first, whose loading names it."""
    index = index_of(folder)
    known = list(FAMILIES.values())
    return next((family for family in known if family.recognises(index)), known[0])
