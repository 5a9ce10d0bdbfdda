"""Networks that take turns on a device which is too small for all of them.

They rest in the machine's memory. One that is called comes to the device and stays there until its room is needed, so
that only what does not fit beside one another travels.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from yoso_core.devices import REST, bytes_of
from yoso_core.runtimes.parts import Part
from yoso_core.runtimes.reference import Torch, Weights

log = logging.getLogger("yoso_core.runtimes")


def move(network: nn.Module, device: torch.device) -> None:
    """Bring a network to a device, or away from one, and give its memory there back."""
    with torch.inference_mode(False):  # or its weights would be tensors that nobody can move again
        network.to(device)
    if torch.cuda.is_available() and device == REST:
        torch.cuda.empty_cache()


class TakingTurns(Torch):
    """Calls networks as torch does, each brought to the device before; nothing else may, while they rest elsewhere.

    Args:
        device: where they are computed.
        spare: bytes that stay free there beside them, for a picture in the making.
        free: says how many bytes are free there.

    Attributes:
        here: networks on the device, the last used at the end.
    """

    def __init__(self, device: torch.device, spare: int, free: Callable[[], float]) -> None:
        super().__init__()
        self.device, self.spare, self.free = device, spare, free
        self.here: OrderedDict[nn.Module, None] = OrderedDict()

    def run(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, prepare: bool
    ) -> tuple[tuple[Tensor, ...], str]:
        networks = list(part.children())
        try:
            self._bring(networks)
            return super().run(part, inputs, weights, prepare)
        except torch.OutOfMemoryError:  # what a picture takes is a guess
            others = [one for one in self.here if one not in networks]
            if not others:
                raise
            log.info("a picture takes more memory than was guessed; %d networks make room", len(others))
            self._send_away(others)
        self._bring(networks)
        return super().run(part, inputs, weights, prepare)

    def _bring(self, networks: Sequence[nn.Module]) -> None:
        """Have these on the device, and as much room beside them as a picture takes."""
        coming = [one for one in networks if one not in self.here]
        others = [one for one in self.here if one not in networks]
        while others and self.free() < bytes_of(coming) + self.spare:
            self._send_away([others.pop(0)])
        for one in networks:
            self.here[one] = None
            self.here.move_to_end(one)
            if one in coming:
                try:
                    move(one, self.device)
                except torch.OutOfMemoryError:  # a part of it is there
                    self._send_away([one])
                    raise

    def _send_away(self, networks: Sequence[nn.Module]) -> None:
        for one in networks:
            move(one, REST)
            del self.here[one]
