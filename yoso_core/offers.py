"""What a model can be asked for: the page makes its controls of it, and the engine refuses the rest with a reason."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from yoso_core.requests import (
    CONSISTENCY,
    FEW_STEP_SAMPLERS,
    MANY_STEPS,
    SAMPLERS,
    STEPS,
    EditRequest,
    GenerateRequest,
    RequestError,
    TranslateRequest,
)


@dataclass(frozen=True)
class Offer:
    """Samplers, steps, guidance and edits of a model.

    Attributes:
        samplers: keys of `SAMPLERS`; the first is the model's own.
        steps: which of `STEPS` the samplers for one-step models may take.
        guidance: what is meant where a request says nothing, 1 to 8.
        guided: "freely": by the difference to a negative prompt, which doubles the evaluations; "told": the network is
            told how strongly, in one evaluation and without a negative prompt; "never": there is none.
        edits: whether it can begin at a picture, and not from noise alone.
        exact: whether all its samplers take those steps and no others.
    """

    samplers: tuple[str, ...] = (CONSISTENCY, "ddim", "dpm++")
    steps: tuple[int, ...] = STEPS
    guidance: float = 1.0
    guided: Literal["freely", "told", "never"] = "freely"
    edits: bool = True
    exact: bool = False

    def settle(self, title: str, request: GenerateRequest) -> GenerateRequest:
        """A request with what it left to the model.

        Args:
            title: of the model.

        Raises:
            RequestError: it asks for what the model can't do; what it can is said.
        """
        if isinstance(request, TranslateRequest):
            return replace(request, sampler=CONSISTENCY, guidance=1.0)  # it has one evaluation of its own
        sampler, guidance = request.sampler or self.samplers[0], request.guidance or self.guidance
        named = SAMPLERS[sampler]
        if sampler not in self.samplers:
            own = either(SAMPLERS[name] for name in self.samplers)
            raise RequestError(f"{title} is drawn with {own}, not with {named}.")
        if (sampler in FEW_STEP_SAMPLERS or self.exact) and request.steps not in self.steps:
            few = f"{either(map(str, self.steps))} step{'s' if max(self.steps) > 1 else ''}"
            more = "; other samplers take more" if self.many else ""
            raise RequestError(f"{title} takes {few} with {named}, not {request.steps}{more}.")
        if sampler not in FEW_STEP_SAMPLERS and request.steps < MANY_STEPS[0]:
            raise RequestError(f"{title} takes {MANY_STEPS[0]} to {MANY_STEPS[1]} steps with {named}, not 1.")
        if self.guided == "never" and guidance != 1 and request.one_step:  # without its LoRA it is another network
            raise RequestError(f"{title} draws without guidance; leave it at 1.")
        if isinstance(request, EditRequest) and not self.edits:
            raise RequestError(f"{title} begins at noise alone and can't edit; choose another model for edits.")
        return replace(request, sampler=sampler, guidance=guidance)

    @property
    def many(self) -> bool:
        """Whether there are samplers of many steps."""
        return not self.exact and not {*self.samplers} <= {*FEW_STEP_SAMPLERS}

    @property
    def about_guidance(self) -> str:
        """What the page says beside the slider."""
        return {
            "freely": "1 is off; above, each step takes two evaluations",
            "told": f"How closely the prompt is followed, at no cost; {self.guidance:g} is the model's own",
            "never": "This model draws without guidance",
        }[self.guided]


USUAL = Offer()


def either(choices: Iterable[str]) -> str:
    """ "1, 2 or 4"."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
