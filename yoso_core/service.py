"""What answers requests, as page and command line know it: an engine in this process, or copies of it in others.

Names stand for models, LoRAs, ControlNets and translators; which there are is known here, and what a request needs of
a hub is brought before anybody works on it.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from yoso_core.cached import HubError, Need
from yoso_core.conditioning import ControlSpec, choose_control
from yoso_core.drawing import Result
from yoso_core.fetches import Fetches
from yoso_core.loading import LoadedModel
from yoso_core.models import ModelSpec
from yoso_core.needs import fetch_need, missing, needs_of
from yoso_core.prompts import called, take_loras
from yoso_core.requests import ControlUse, GenerateRequest, RequestError
from yoso_core.translate import TranslatorSpec, find_translators
from yoso_core.turns import Turns

Report = Callable[[str], None]


def unheard(message: str) -> None:
    """The `Report` of those who don't listen."""


class Service(ABC):
    """Answers requests, whoever asks from whatever thread.

    Args:
        models: what can be asked for, by name.
        controls: the ControlNets that can be asked for, by name.
        translators: what translates pictures, by name; None takes those that come along.
        waits: whether a request for what has to be fetched from a hub fetches it, others going on meanwhile; else it
            is told that it is not here, or how far it is on its way.

    Attributes:
        device: what is computed on.
        lock: under which what is known here is changed; it goes to all who ask in turn.
        fetches: what is being brought from a hub.
        places: requests that gain by being worked on at the same time.
        held: how often the weights of a network are in memory beside its own, for the sake of speed.
        rest: seconds for which nothing has to be typed until what was typed is worth a request.
    """

    device: torch.device
    places = 1
    held = 0
    rest = 0.0

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        controls: Mapping[str, ControlSpec],
        translators: Mapping[str, TranslatorSpec] | None,
        waits: bool,
    ) -> None:
        self.models, self.controls = dict(models), dict(controls)
        self.translators = find_translators() if translators is None else dict(translators)
        self.waits, self.fetches = waits, Fetches()
        self.lock = Turns()
        self._lora_files: dict[str, Path] = {}
        self._busy: Counter[str] = Counter()  # requests by model

    def run(self, request: GenerateRequest, report: Report = unheard) -> Result:
        """Make the pictures of a request.

        Everything that the request needs (model, LoRAs and their weights) is settled from the request alone, so no
        request can see another's.

        Raises:
            RequestError: an unknown model or LoRA, a file that does not fit; nothing was changed.
            PictureError: the networks returned NaN, or there is not enough memory.
        """
        with self._answering(request.model):
            return self.answer(self._settled(request, report), report)

    @contextmanager
    def _answering(self, model: str) -> Iterator[None]:
        self._busy[model] += 1  # counted, not locked: a number that is wrong for an instant refuses or allows a removal
        try:
            yield
        finally:
            self._busy[model] -= 1

    def is_busy(self, model: str) -> bool:
        """Whether a request is being answered with a model, or waits for that."""
        return self._busy[model] > 0

    def run_each(self, requests: Sequence[GenerateRequest], report: Report = unheard) -> Iterator[Result]:
        """The results of several requests in their order, each as soon as it is there; raises as `run` does."""
        for number, request in enumerate(requests, 1):
            place = f"{number} of {len(requests)}"
            yield self.run(request, lambda message, place=place: report(f"{place}: {message}"))

    def _settled(self, request: GenerateRequest, report: Report) -> GenerateRequest:
        """A request as `answer` takes it."""
        offered = {called(name): name for name in list(self._lora_files)}
        prompt, loras = take_loras(request.prompt, request.loras, offered)
        self._bring(self._missing(request.model, request.control), report)
        return self.completed(replace(request, prompt=prompt, loras=loras))

    def completed(self, request: GenerateRequest) -> GenerateRequest:
        """A request with what it left to its model, see `Offer.settle`."""
        spec = self._spec(request.model)
        return spec.offer.settle(spec.title, request)

    @abstractmethod
    def answer(self, request: GenerateRequest, report: Report = unheard) -> Result:
        """The same of a request whose prompt names no LoRA any more, and whose files are on this machine."""

    @abstractmethod
    def load(self, name: str, report: Report = unheard) -> LoadedModel | None:
        """Bring a model into memory ahead of its first request; raises as `run` does.

        Returns:
            The model, to be looked at and not changed; None where it is in another process.
        """

    @abstractmethod
    def check_lora(self, name: str, model: str) -> tuple[str, ...]:
        """See whether a LoRA of the library fits a model.

        Returns:
            What of its file is left out, in words.

        Raises:
            RequestError: it does not fit, and why.
        """

    @abstractmethod
    def control_map(self, use: ControlUse, size: int, report: Report = unheard) -> Image.Image:
        """The map that a ControlNet would be given at this size, to be looked at.

        Raises:
            RequestError: an unknown annotator, or one whose weights are not here.
        """

    def add_lora(self, name: str, path: Path) -> None:
        """Put a LoRA file into the library under `name`; it is checked when first used with a model."""
        with self.lock:
            self._forget_lora(name)
            self._lora_files[name] = Path(path)

    def remove_lora(self, name: str) -> None:
        """Take a LoRA out of the library; nothing happens if it is not there."""
        with self.lock:
            self._forget_lora(name)
            self._lora_files.pop(name, None)

    def add_control(self, name: str, spec: ControlSpec) -> None:
        """Put a ControlNet among those that can be asked for by `name`; it is read anew when it is used next."""
        with self.lock:
            self.controls[name] = spec
            self._forget_control(name)

    def remove_control(self, name: str) -> None:
        """Take a ControlNet out again; nothing happens if it is not there."""
        with self.lock:
            self.controls.pop(name, None)
            self._forget_control(name)

    def add_translator(self, name: str, spec: TranslatorSpec) -> None:
        """Put a translator among those that can be asked for by `name`; it is read anew when it is used next."""
        with self.lock:
            self.translators[name] = spec
            self._forget_translator(name)

    def remove_translator(self, name: str) -> None:
        """Take a translator out again; nothing happens if it is not there."""
        with self.lock:
            self.translators.pop(name, None)
            self._forget_translator(name)

    def is_loaded(self, name: str) -> bool:
        """Whether a model is in memory."""
        return self._is_loaded(name)

    def forget_model(self, name: str) -> None:
        """Let go of what is in memory of a model, whose files go."""
        with self.lock:
            self._forget_model(name)

    @abstractmethod
    def _forget_model(self, name: str) -> None: ...

    @abstractmethod
    def _forget_lora(self, name: str) -> None:
        """What was made of a file that goes, or that another takes the place of; under the lock, as the next two."""

    @abstractmethod
    def _forget_control(self, name: str) -> None: ...

    @abstractmethod
    def _forget_translator(self, name: str) -> None: ...

    @abstractmethod
    def _is_loaded(self, name: str) -> bool:
        """Whether a model is in memory, so that nothing of it has to be looked for."""

    @property
    def first(self) -> str:
        """The model that is taken where none is named."""
        return next(iter(self.models))

    def missing(self, name: str) -> list[Need]:
        """What a model needs of a hub that is not on this machine.

        Raises:
            RequestError: there is no such model, or it can't be had.
        """
        self._spec(name)
        return self._missing(name)

    def _missing(self, name: str, control: ControlUse | None = None) -> list[Need]:
        """The same of a model, which is in memory as a rule, and of the ControlNet that a request wants with it."""
        if name not in self.models:  # which is told where it is used
            return []
        spec = self.models[name]
        needs = [] if self._is_loaded(name) else needs_of(spec)
        if control is not None:
            with suppress(RequestError):  # the same
                chosen = self.controls[choose_control(self.controls, control, spec.family)]
                needs += missing([(f"The ControlNet {chosen.title}", chosen.source, chosen.variant)])
        return needs

    def _bring(self, needs: Sequence[Need], report: Report) -> None:
        """See to it that what is needed is on this machine; never under the lock.

        Raises:
            HubError: it can't be had, or not yet.
        """
        for need in needs:
            if not self.waits:
                raise HubError(self.fetches.tell(need))
            fetch_need(need, report)

    def _spec(self, name: str) -> ModelSpec:
        """
        Raises:
            RequestError: there is none of this name, as in the next two.
        """
        if name not in self.models:
            raise RequestError(f"There is no model {name!r:.60}; choose one of {', '.join(self.models)}.")
        return self.models[name]

    def _translator_spec(self, name: str) -> TranslatorSpec:
        if name not in self.translators:
            known = f"choose one of {', '.join(self.translators)}" if self.translators else "none are here"
            raise RequestError(f"There is no translator {name!r:.60}; {known}.")
        return self.translators[name]

    def _lora_file(self, name: str) -> Path:
        if name not in self._lora_files:
            raise RequestError(f"There is no LoRA {name!r:.60} in the library; add its file first.")
        return self._lora_files[name]
