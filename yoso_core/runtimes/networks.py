"""A loaded model's networks, executed by the runtime of choice, in the shapes that the mathematics calls them in."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from yoso_core.condition import Condition
from yoso_core.loading import LoadedModel
from yoso_core.lora.changes import Lora
from yoso_core.lora.stack import State
from yoso_core.runtimes.parts import Decode, Encode, Follow, Part, Predict, Read, Translate
from yoso_core.runtimes.reference import Runtime, Weights
from yoso_core.translate import Translator


class Networks:
    """The networks of one model. Used under the engine's lock alone.

    Args:
        model: whose they are.
        runtime: who executes them.

    Attributes:
        prepare: whether there is time now for what makes later calls fast; see `Runtime.run`.
        executed: who executed what since `begin`, such as "openvino bf16", in order.
        uses: the LoRAs that it computes with.
    """

    def __init__(self, model: LoadedModel, runtime: Runtime) -> None:
        self.model, self.runtime = model, runtime
        self.prepare = False
        self.executed: dict[str, None] = {}
        self.uses: list[tuple[Lora, float]] = []
        self._predict: dict[tuple[str, ...], Predict] = {}  # by the tensors of the condition
        self._read: dict[str, Read] = {}  # by the part of the pipeline
        self._encode, self._decode = Encode(model.autoencoder), Decode(model.decoder)

    def begin(self, uses: Sequence[tuple[Lora, float]]) -> None:
        """Compute with these LoRAs from now on, and forget who executed what."""
        self.executed = {}
        self.uses = [(lora, weight) for lora, weight in uses if weight != 0]
        if self.runtime.in_place:
            self.model.loras.apply(self.uses)

    def state(self, *parts: str) -> tuple[State, ...]:
        """The LoRAs in use that change each of these parts of the pipeline, by identity and weight."""
        return tuple(
            tuple((id(lora), weight) for lora, weight in self.uses if any(place[0] == part for place in lora))
            for part in parts
        )

    def _run(self, part: Part, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs, who = self.runtime.run(part, inputs, self._weights(part), self.prepare)
        self.executed[who] = None
        return outputs

    def _weights(self, part: Part) -> Weights:
        stack, uses = self.model.loras, self.uses
        whole = tuple((id(lora), weight) for lora, weight in uses)
        return Weights(
            self.state(*part.reads),
            tuple(lora for lora, _ in uses),
            put=lambda: stack.apply(uses),
            in_force=lambda: stack.active == whole,
        )

    def read(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What a text encoder of the pipeline makes of its inputs, see `Family.read`."""
        if part not in self._read:
            self._read[part] = Read(self.model.family, part, self.model.parts[part])
        return self._run(self._read[part], *(value.to(self.model.device) for value in inputs))

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""
        return self._run(self._encode, pictures)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> (B, 3, H, W), about [-1, 1].

        Some autoencoders compute in float32 beside a network of half precision, because halves overflow in them.
        """
        return self._run(self._decode, latents.to(self._decode.dtype))[0]

    def predict(self, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()) -> Tensor:
        """What the network predicts, see `Family.predict`."""
        names = tuple(condition.tensors)
        if names not in self._predict:
            self._predict[names] = Predict(self.model.family, self.model.network, names)
        return self._run(self._predict[names], noisy, t, *condition.tensors.values(), *residuals)[0]

    def control(self, network: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
        """What `Family.follow` is with this ControlNet."""
        parts: dict[tuple[str, ...], Follow] = {}

        def follow(noisy: Tensor, t: Tensor, condition: Condition, given: Tensor) -> tuple[Tensor, ...]:
            names = tuple(condition.tensors)
            if names not in parts:
                parts[names] = Follow(self.model.family, network, names)
            return self._run(parts[names], noisy, t, *condition.tensors.values(), given)

        return follow

    def translator(self, translator: Translator) -> Callable[..., Tensor]:
        """What is called as this `Translator` is."""
        parts: dict[tuple[str, ...], Translate] = {}

        def translate(pictures: Tensor, condition: Condition, strength: float, noise: Tensor) -> Tensor:
            names, tensors = tuple(condition.tensors), condition.tensors.values()
            if strength == 1:
                if names not in parts:
                    parts[names] = Translate(translator, 1.0, names)
                return self._run(parts[names], pictures, *tensors)[0]
            # A number that a person moves, and that the computation holds all over.
            between, given = Translate(translator, strength, names), (pictures, *tensors, noise)
            outputs, who = self.runtime.reference.run(between, given, self._weights(between), False)
            self.executed[who] = None
            return outputs[0]

        return translate


def in_words(executed: dict[str, Any]) -> str:
    """Who executed the networks of a picture, in words."""
    return " and ".join(executed)
