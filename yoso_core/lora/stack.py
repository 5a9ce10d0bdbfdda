"""The weights of LoRAs added onto a copy of what they change.

A LoRA changes a weight matrix by ``W = W_0 + w (alpha / r) B A`` (arXiv 2106.09685). The networks hold W; W_0 is kept
aside the first time that a tensor is touched, and every change starts from it again. So the weights are a function of
the set of LoRAs asked for alone, removal is exact, and inference costs no more than without.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yoso_core.lora.changes import Lora, LowRank, Place, as_rows, rows_last, side_by_side

State = tuple[tuple[int, float], ...]  # identity of each LoRA and its weight, in order


class LoraStack:
    """The networks of one model, and the one place where their weights are changed.

    The sum of a place is that of its first use, in float32, plus those of all others, low ranks side by side in one
    product.
    Of float32 networks the first part is kept: in nearly all requests it is the one-step LoRA's, so that another style
    costs its own few ranks alone. That is one dense copy more, of what is touched. Of networks in bfloat16, the large
    ones, it would take twice their memory, and next to their pictures the time saved is small. Kept or computed again,
    it is the same numbers.

    Args:
        parts: "unet" and perhaps "text_encoder" and "vae"; their present weights are the base.
        aside: where copies are kept and sums computed; None for where the weights are.
    """

    def __init__(self, parts: Mapping[str, nn.Module], aside: torch.device | None = None) -> None:
        self.parts, self.aside = dict(parts), aside
        self.modules: dict[Place, nn.Module] = {}
        self.base: dict[Place, Tensor] = {}  # W_0 of every tensor that was ever touched
        self.active: State | None = ()  # as applied now
        self.held: list[Lora] = []  # the LoRAs of `active` and `written`, so that no other one can get their identity
        self.written: dict[Place, State | None] = {}  # the uses in each place that is not W_0; None: a write failed
        self.started: dict[Place, tuple[Lora, float, Tensor]] = {}  # sums of one use, with that use

    @property
    def for_requests(self) -> dict[str, nn.Module]:
        """What a LoRA file may change. The autoencoder is left to translators: encoded pictures are remembered."""
        return {name: network for name, network in self.parts.items() if name != "vae"}

    def weight(self, place: Place) -> Tensor:
        part, name = place
        module, _, parameter = name.rpartition(".")
        if place not in self.modules:
            self.modules[place] = self.parts[part].get_submodule(module)  # a tenth of a swap, if looked up each time
        return getattr(self.modules[place], parameter).data

    @torch.no_grad()
    def apply(self, uses: list[tuple[Lora, float]]) -> None:
        """Make the networks W_0 plus the changes of `uses`, each times its weight, whatever was applied before."""
        uses = [(lora, weight) for lora, weight in uses if weight != 0]
        if _state(uses) == self.active:
            return
        self.active = None  # so that a failure below is mended by the next call
        self.held += [lora for lora, _ in uses]
        wanted: dict[Place, list[tuple[Lora, float]]] = {place: [] for place in self.written}
        for lora, weight in uses:
            for place in lora:
                wanted.setdefault(place, []).append((lora, weight))
        for place, here in wanted.items():
            if self.written.get(place, ()) != _state(here):
                self.written[place] = None
                self._write(place, here)
                self.written[place] = _state(here)
        self.written = {place: state for place, state in self.written.items() if state}
        self.active, self.held = _state(uses), [lora for lora, _ in uses]

    def _write(self, place: Place, uses: list[tuple[Lora, float]]) -> None:
        """Give one weight W_0 plus the changes of `uses`, all of which change it."""
        weight = self.weight(place)
        if place not in self.base:
            self.base[place] = weight.to(self.aside or weight.device, copy=True)
        if not uses:
            weight.copy_(self.base[place])
            return
        base, rows, total = self.base[place], rows_last(weight), self._start(place, *uses[0])
        if others := [(lora[place], factor) for lora, factor in uses[1:]]:
            fitting = rows.is_contiguous() and (rows.dtype, rows.device) == (total.dtype, total.device)
            in_place = rows.view(total.shape) if fitting else None
            if low := [use for use in others if isinstance(use[0], LowRank)]:
                total = torch.addmm(total, *side_by_side(low, base.device), out=in_place)
            for change, factor in others:
                if not isinstance(change, LowRank):
                    total = torch.add(total, change.rows(base), alpha=factor, out=in_place)
            if in_place is not None:
                return
        rows.copy_(total.view_as(rows))

    def _start(self, place: Place, lora: Lora, factor: float) -> Tensor:
        """The matrix of W_0 and the change of one use, in float32."""
        kept = self.started.get(place)
        if kept and kept[0] is lora and kept[1] == factor:
            return kept[2]
        base, change = self.base[place], lora[place]
        if isinstance(change, LowRank):
            total = torch.addmm(as_rows(base).float(), *side_by_side([(change, factor)], base.device))
        else:
            total = torch.add(as_rows(base).float(), change.rows(base), alpha=factor)
        if base.dtype == torch.float32:
            self.started[place] = lora, factor, total
        return total


def _state(uses: list[tuple[Lora, float]]) -> State:
    return tuple((id(lora), weight) for lora, weight in uses)
