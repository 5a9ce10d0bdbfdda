"""The styles that a model knows: chips under the prompt, whose pictures show one thing as each of them has it."""

import json
import re
from collections.abc import Collection

from app.pictures import thumbnail_uri
from yoso_core.drawing import PictureError
from yoso_core.requests import GenerateRequest, RequestError
from yoso_core.service import Service

NAME = re.compile(r"[\w -]{1,40}")  # of a style that can stand in a style sheet
ANY_STYLE, NO_STYLE = "any", "none"
ABOUT = {ANY_STYLE: "each seed has one of them", NO_STYLE: "no word of it: the model mixes them"}


def chips_of(styles: Collection[str]) -> list[str]:
    """What can be chosen, the first of it first."""
    return list(dict.fromkeys([*[ANY_STYLE] * (len(styles) > 1), *styles, NO_STYLE]))


def names_style(prompt: str, styles: Collection[str]) -> bool:
    """Whether a prompt says its style itself, which leaves the chips without a part in it."""
    return not {*styles}.isdisjoint(re.findall(r"\w+", prompt.lower()))


def with_style(prompt: str, style: str | None, styles: Collection[str]) -> str:
    """The prompt as the model reads it: the chosen style is its last words, unless the prompt names one itself."""
    unsaid = style == NO_STYLE or names_style(prompt, styles)
    word = "" if unsaid or not style else _said(style, styles)
    return ", ".join(part for part in (prompt.strip(), word) if part)


def style_of(prompt: str, styles: Collection[str]) -> tuple[str, str | None]:
    """What `with_style` was given: the prompt, and the style at its end; None where any chip gives this prompt."""
    for style in chips_of(styles)[:-1]:
        words, said = f", {prompt}", f", {_said(style, styles)}"
        if words.endswith(said) and not names_style(words.removesuffix(said), styles):
            return words.removesuffix(said).removeprefix(", "), style
    return prompt, None if names_style(prompt, styles) else NO_STYLE


def _said(style: str, styles: Collection[str]) -> str:
    """A chip as `yoso_core.prompts` reads it: of any the seed chooses one."""
    if style == ANY_STYLE and style not in styles:
        return "{" + "|".join(_said(each, styles) for each in styles) + "}"
    return re.sub(r"[\\{|}]", r"\\\g<0>", style)


class StylePictures:
    """Drawn by the model when a page first asks for them, and kept: what a new model needs is only its words.

    Args:
        engine: draws.
    """

    def __init__(self, engine: Service) -> None:
        self.engine = engine
        self._drawn: dict[str, str] = {}

    def sheet(self, model: str) -> str:
        """A ``<style>`` that gives each chip its picture and a line about it; "" where the model has no styles."""
        if model not in self._drawn:
            try:
                self._drawn[model] = self._sheet(model)
            except (RequestError, PictureError):  # the chips have their names all the same
                return ""
        return self._drawn[model]

    def _sheet(self, model: str) -> str:
        words = self.engine.models[model].words
        if not words.styles or not words.examples:
            return ""
        thing = words.examples[len(words.examples) // 2]
        told = words.styles | ABOUT
        chips = [name for name in chips_of(words.styles) if NAME.fullmatch(name)]
        rules = [self._rule(name, model, with_style(thing, name, words.styles), told[name]) for name in chips]
        return f"<style>{''.join(rules)}</style>"

    def _rule(self, name: str, model: str, prompt: str, about: str) -> str:
        uri = thumbnail_uri(self.engine.run(GenerateRequest(prompt, model=model)).pictures[0])
        told = json.dumps(about, ensure_ascii=False).replace("<", "\\3c ")
        values = f"--side: var(--side-by, 26px); --apart: 6px; --about: {told}; --picture: url({uri})"
        return f'#style label[data-testid="{name}-radio-label"] {{ {values}; }}'
