"""GOT-OCR. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from .family import Family, Format, Forward

GOT_IMAGE = f"<img>{'<imgpad>' * 256}</img>"
"""The text of an image: GOT's processor does not insert it into text that is a conversation already."""


GOT_TEMPLATE = (
    "{% if not messages or messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n        You should follow the instructions carefully and "
    "explain your answers in detail.<|im_end|>' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ image_token + '\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The conversation that GOT was trained with, for which it has no template (got/processing_got.py:28)."""


FAMILIES: Mapping[str, Family] = {
    "got": Family(
        format=Format(template=GOT_TEMPLATE, image_mark=GOT_IMAGE, image_id=-200), forward=Forward(packs=True)
    ),
}
