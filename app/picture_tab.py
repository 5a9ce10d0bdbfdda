"""What every tab that makes pictures has, so that one listener can draw for all of them."""

from abc import ABC, abstractmethod
from typing import Any

import gradio as gr

from app.pictures import EMPTY, problem_html
from yoso_core.drawing import Result
from yoso_core.requests import GenerateRequest


def save_label(count: int) -> str:
    """What the button says that saves so many pictures: what will be in the folder of downloads."""
    return "Save PNG" if count == 1 else f"Save {count} PNG (zip)"


class PictureTab(ABC):
    """A tab, from what it asks for to how it shows what came of it; updates are by component, as Gradio takes them.

    Attributes:
        name: of the tab.
        kind: of the requests that it makes.
        stage: where its pictures stand.
        info: what they took, or what is wrong.
        shown: the request of the pictures on the page; None without any.
        save: the button that saves them.
    """

    name: str
    kind: type[GenerateRequest]
    stage: gr.HTML
    info: gr.HTML
    shown: gr.State
    save: gr.Button

    @abstractmethod
    def build(self) -> None:
        """Make the components, where they shall stand."""

    @property
    @abstractmethod
    def typed(self) -> list[Any]:
        """The controls of this tab alone; a change of one draws."""

    @abstractmethod
    def request(self, values: dict[Any, Any]) -> GenerateRequest | None:
        """What the controls ask for; None where there is nothing to draw from.

        Raises:
            RequestError: something that is not possible.
        """

    def wait(self) -> dict[Any, Any]:
        """What stands there while there is nothing to draw from."""
        return {self.stage: EMPTY, self.info: "", self.shown: None, self.save: gr.Button(save_label(1))}

    @abstractmethod
    def show(self, result: Result) -> dict[Any, Any]:
        """The pictures and what they took."""

    def refuse(self, sentence: str) -> dict[Any, Any]:
        """What is wrong; the pictures that are there stay, and are what is saved."""
        return {self.info: problem_html(sentence)}

    @property
    def of_model(self) -> list[Any]:
        """What `for_model` sets."""
        return []

    def for_model(self, name: str, values: dict[Any, Any]) -> dict[Any, dict[str, Any]]:
        """The controls of this tab as another model has them.

        Args:
            name: of the model.
            values: what the controls say now.
        """
        return {}

    @abstractmethod
    def restored(self, request: Any) -> dict[Any, Any]:
        """The controls of this tab as a picture was made with them.

        Raises:
            RequestError: it can't be made here.
        """

    @abstractmethod
    def connect(self, private: dict[str, Any]) -> None:
        """Who listens to whom on this tab.

        Args:
            private: queue rules of a listener that no program may call.
        """
