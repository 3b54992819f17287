"""Makes the encoder of a model: of conversations, or of pairs."""

from collections.abc import Mapping
from typing import Any

from ...errors import ModelError
from ...facts import TemplateUse
from ...recipe.schema import DataSection
from ..families.family import Family
from .encoder import Encoder
from .images.resizing import with_budget
from .processors import repeat_without_copies, settle_tokenizer
from .seq2seq import DECODER_START, PairEncoder
from .template.finding import find_template
from .template.stops import find_stop_ids


def make_encoder(processor: Any, config: Mapping[str, Any], family: Family, data: DataSection) -> Encoder:
    """Make the encoder of a model, of conversations or of pairs.

    Args:
        processor: As `load_processor` returns it.
        config: The model's config.json.
        family: The family's description.
        data: The recipe's section.

    Raises:
        ModelError: The model does not say which token stands for an image, its prompts cannot be learned, or the recipe
            wants a chat template where there is none.
    """
    if not family.format.is_encoder_decoder:
        return _make_conversation_encoder(processor, config, family, data)
    return _make_pair_encoder(processor, config, family, data)


def _make_pair_encoder(processor: Any, config: Mapping[str, Any], family: Family, data: DataSection) -> PairEncoder:
    if data.chat_template is not None:
        msg = (
            f"data.chat_template: found {data.chat_template!r}, and this model holds no conversations, but reads one "
            "task on one image; leave it out"
        )
        raise ModelError(msg)
    settle_tokenizer(processor.tokenizer)
    processor, max_pixels = with_budget(processor, data.max_pixels)
    starts = [section.get("decoder_start_token_id") for section in (config, config.get("text_config") or {})]
    return PairEncoder(
        processor=processor,
        tokenizer=processor.tokenizer,
        family=family,
        template="",
        template_origin=TemplateUse(origin="none"),
        image_token="",
        image_id=-1,
        data=data,
        max_pixels=max_pixels,
        decoder_start=next((int(start) for start in starts if start is not None), DECODER_START),
    )


def _make_conversation_encoder(processor: Any, config: Mapping[str, Any], family: Family, data: DataSection) -> Encoder:
    if family.format.is_prefix_lm and not data.train_on_completions:
        msg = (
            "data.train_on_completions: the model's prompts see themselves whole, so that only answers can be learned; "
            "set it to true"
        )
        raise ModelError(msg)
    tokenizer = getattr(processor, "tokenizer", processor)
    settle_tokenizer(tokenizer)
    template = find_template(processor, tokenizer, family, data)
    image_token, image_id = _find_image_token(processor, tokenizer, config, family)
    processor, max_pixels = with_budget(processor, data.max_pixels)
    repeat_without_copies(processor)
    return Encoder(
        processor=processor,
        tokenizer=tokenizer,
        family=family,
        template=template.text,
        template_origin=template.origin,
        image_token=image_token,
        image_id=image_id,
        data=data,
        stop_ids=find_stop_ids(config, processor, tokenizer),
        max_pixels=max_pixels,
    )


def _find_image_token(processor: Any, tokenizer: Any, config: Mapping[str, Any], family: Family) -> tuple[str, int]:
    """Find the token that stands for an image: its text for the processor, and its id for the model."""
    # The processor first: what it writes is what has to be found again.
    image_id = (
        family.format.image_id if family.format.image_id is not None else getattr(processor, "image_token_id", None)
    )
    for key in ("image_token_id", "image_token_index"):
        image_id = config.get(key) if image_id is None else image_id
    image_token = family.format.image_mark or getattr(processor, "image_token", None)
    if image_token is None and image_id is not None:
        image_token = tokenizer.convert_ids_to_tokens(image_id)
    if image_id is None and image_token is not None:
        image_id = tokenizer.convert_tokens_to_ids(str(image_token))
    if image_id is None or image_token is None:
        msg = "the model's configuration names no image token (image_token_id); it is not an image-to-text model"
        raise ModelError(msg)
    return str(image_token), int(image_id)
