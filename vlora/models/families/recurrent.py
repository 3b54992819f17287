"""Families without corrections that answer only prompts of one length together."""

from collections.abc import Mapping

from .family import STATES, Family, Forward

FAMILIES: Mapping[str, Family] = {
    "indic_ocr": Family(forward=Forward(equal_prompts=STATES)),
    "nemotron_h_nano_omni": Family(forward=Forward(equal_prompts=STATES)),
    "prism_hadamard_qwen35": Family(forward=Forward(equal_prompts=STATES)),
    "zaya1_vl": Family(forward=Forward(equal_prompts=STATES)),
}
