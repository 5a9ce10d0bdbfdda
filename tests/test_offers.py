"""What models can be asked for: what is left open is theirs, what they can't do is refused with what they can."""

from dataclasses import replace

import pytest
from PIL import Image

from yoso_core.offers import USUAL, Offer
from yoso_core.requests import (
    FEW_STEP_SAMPLERS,
    SAMPLERS,
    EditRequest,
    GenerateRequest,
    RequestError,
    TranslateRequest,
)
from yoso_core.sampling import KNOWN

PICTURE = Image.new("RGB", (64, 64))
ONE_STEP = Offer(("tcd",), (1,), guided="never", edits=False)
EXACT = Offer(("ddim",), (4,), exact=True)
TOLD = Offer(("scm",), guidance=4.5, guided="told")


def test_what_is_left_open_is_the_model_s():
    settled = TOLD.settle("Sprint", GenerateRequest("a", steps=2))
    assert (settled.sampler, settled.guidance, settled.steps) == ("scm", 4.5, 2)
    settled = USUAL.settle("Usual", GenerateRequest("a"))
    assert (settled.sampler, settled.guidance) == ("lcm", 1)
    asked = GenerateRequest("a", sampler="dpm++", steps=8, guidance=2)
    assert USUAL.settle("Usual", asked) == asked
    alone = GenerateRequest("a", guidance=2, one_step=0)  # the network without its one-step LoRA
    assert replace(USUAL, guided="never").settle("One", alone).guidance == 2
    translation = TranslateRequest("", picture=PICTURE, translator="t")
    assert ONE_STEP.settle("One", translation).sampler == "lcm"  # it has one evaluation of its own


@pytest.mark.parametrize(
    ("offer", "request_", "told"),
    [
        (TOLD, GenerateRequest("a", sampler="lcm"), "M is drawn with SCM, not with LCM."),
        (USUAL, GenerateRequest("a", sampler="tcd"), "M is drawn with LCM, DDIM or DPM++ 2M, not with TCD."),
        (ONE_STEP, GenerateRequest("a", steps=2), "M takes 1 step with TCD, not 2."),
        (Offer(steps=(1, 2)), GenerateRequest("a", steps=4), "1 or 2 steps with LCM, not 4; other samplers take more."),
        (EXACT, GenerateRequest("a", steps=8, sampler="ddim"), "M takes 4 steps with DDIM, not 8."),
        (Offer(("ddim",), (20,)), GenerateRequest("a"), "M takes 2 to 50 steps with DDIM, not 1."),
        (ONE_STEP, GenerateRequest("a", guidance=1.5), "M draws without guidance; leave it at 1."),
        (ONE_STEP, EditRequest("a", picture=PICTURE), "can't edit; choose another model"),
    ],
)
def test_what_a_model_can_t_do_is_refused_with_what_it_can(offer, request_, told):
    with pytest.raises(RequestError) as refused:
        offer.settle("M", request_)
    assert told in str(refused.value)


def test_all_that_is_offered_is_known():
    assert [*KNOWN] == [*SAMPLERS]
    assert {name for name, sampler in KNOWN.items() if sampler.fresh} == {*FEW_STEP_SAMPLERS}
