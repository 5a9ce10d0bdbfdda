"""What a model of a hub is: its settings tell, a few kilobytes, before anything else of it comes."""

import re
from dataclasses import replace

from yoso_core import cached, hub
from yoso_core.cached import HubError, Need
from yoso_core.hub import Listing

SETTINGS = re.compile(r"model_index\.json|README\.md|[a-z_0-9]+/(config|scheduler_config)\.json", re.ASCII)
SETTINGS_LIMIT = 2_000_000  # bytes of one such file
HALVES = "fp16"


def look_at(place: str, revision: str = "", trusted: bool = True) -> dict[str, str]:
    """Where a model of a hub is, by "place", "commit", "variant" and "licence"; its settings are on this machine then.

    Args:
        place: "owner/name".
        revision: 40 hex digits; "" for the newest.
        trusted: whether the hub is told whose machine asks.

    Raises:
        HubError: it has none that can be drawn with, or does not answer; a few words say why.
    """
    need = Need(place, place, revision, trusted=trusted)
    if revision and (folder := cached.find(need)):  # all of it, so nobody is asked
        halves = any(f".{HALVES}." in path.name for path in folder.rglob("*.safetensors"))
        return {"place": place, "commit": revision, "variant": HALVES * halves, "licence": ""}
    ((_, listing),) = hub.look([need])
    if not isinstance(listing, Listing):
        raise listing
    settings = {name: size for name, size in listing.sizes.items() if SETTINGS.fullmatch(name)}
    settings = {name: size for name, size in settings.items() if size <= SETTINGS_LIMIT}
    if "model_index.json" not in settings:
        raise HubError("it is no model in diffusers' layout: it has no model_index.json")
    halves = cached.wanted(need, listing.sizes) != cached.wanted(replace(need, variant=HALVES), listing.sizes)
    for _ in hub.download(place, listing.commit, settings, token=trusted):
        pass
    return {"place": place, "commit": listing.commit, "variant": HALVES * halves, "licence": listing.licence}
