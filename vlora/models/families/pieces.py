"""Pieces of chat templates that several families share."""

ONE_QUESTION = (
    "{% for message in messages %}"
    "{% if message['role'] != ('user', 'assistant')[loop.index0] %}"
    "{{ raise_exception('the model answers one question, without a system prompt') }}{% endif %}"
    "{% if message['role'] == 'user' %}QUESTION{% else %}{{ message['content'][0]['text'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
"""One question and one answer; QUESTION stands for how the question is written."""


IMAGES_THEN_TEXT = (
    "{% for part in message['content'] if part['type'] == 'image' %}{{ image_token }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
)
