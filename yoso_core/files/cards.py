"""Model cards of strangers: what they say of themselves, read safely."""

from pathlib import Path
from typing import Any

import yaml

CARD_LIMIT = 1_000_000  # bytes
FRONT_LIMIT = 10_000  # characters of a card's front matter; the worst that it can hold takes seconds to read

NOTHING = {"", "null", "none", "~"}  # what YAML and people write for nothing


def read_card(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Front matter and the lines below it; {} and [] where there is none, it is too large or broken."""
    try:
        if path.stat().st_size > CARD_LIMIT:
            return {}, []
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return {}, []
    if not lines or lines[0].rstrip() != "---":
        return {}, lines
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), 0)
    return _front_matter("\n".join(lines[1:end])), lines[end + 1 :]


def _front_matter(text: str) -> dict[str, Any]:
    """Fields of a card, their values as text, lists and dicts; the same list may stand in a million places.

    Not by huggingface_hub, whose loader follows YAML's merge keys: a few lines of them take all memory. The base
    loader knows neither these nor any other type.
    """
    if len(text) > FRONT_LIMIT:
        return {}
    try:
        fields = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
