"""The styles that a model knows, with pictures: the chips under the prompt show one thing as each of them has it."""

import json
import re

from app.pictures import thumbnail_uri
from yoso_core.drawing import PictureError
from yoso_core.requests import GenerateRequest, RequestError
from yoso_core.service import Service

NAME = re.compile(r"[\w -]{1,40}")  # of a style that can stand in a style sheet
ANY = "as the model likes it, another way each time"


class StylePictures:
    """Drawn by the model when a page first asks for them, and kept: what a new model needs is only its words.

    Args:
        engine: draws.
        no_style: the name of the chip that leaves the style open.
    """

    def __init__(self, engine: Service, no_style: str) -> None:
        self.engine, self.no_style = engine, no_style
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
        chips = {self.no_style: (thing, ANY)}
        chips |= {name: (f"{thing}, {name}", about) for name, about in words.styles.items() if NAME.fullmatch(name)}
        rules = [self._rule(name, model, *asked) for name, asked in chips.items()]
        return f"<style>{''.join(rules)}</style>"

    def _rule(self, name: str, model: str, prompt: str, about: str) -> str:
        uri = thumbnail_uri(self.engine.run(GenerateRequest(prompt, model=model)).pictures[0])
        told = json.dumps(about, ensure_ascii=False).replace("<", "\\3c ")
        values = f"--side: var(--side-by, 26px); --apart: 6px; --about: {told}; --picture: url({uri})"
        return f'#style label[data-testid="{name}-radio-label"] {{ {values}; }}'
