"""Chat templates in the manner of published ones, for what those of the tiny checkpoints are too short to express."""

QWEN2_VL = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHOW = (
    "{%- macro show(content) -%}"
    "{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif 'text' in part -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
_TOOLS = (
    "{%- if tools -%}{{ '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' -%}{{ show(messages[0].content) + '\n\n' }}{%- endif -%}"
    "{{ '# Tools\n<tools>' }}{%- for tool in tools -%}{{ '\n' + tool | tojson }}{%- endfor -%}"
    "{{ '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' -%}"
    "{{ '<|im_start|>system\n' + show(messages[0].content) + '<|im_end|>\n' }}{%- endif -%}"
)
_CALLS = (
    "{%- for call in message.tool_calls or [] -%}"
    "{{ '\n' if said or not loop.first }}{%- set call = call.function or call -%}"
    '{{ \'<tool_call>\n{"name": "\' + call.name + \'", "arguments": \' }}'
    "{{ call.arguments if call.arguments is string else call.arguments | tojson }}"
    "{{ '}\n</tool_call>' }}{%- endfor -%}"
)
_RESULT = (
    "{%- elif message.role == 'tool' -%}"
    "{{ '<|im_start|>user' if messages[loop.index0 - 1].role != 'tool' }}"
    "{{ '\n<tool_response>\n' + show(message.content) + '\n</tool_response>' }}"
    "{{ '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}"
)
_QUESTION = (
    "{%- for message in messages -%}{%- if message.role == 'user' -%}"
    "{{ '<|im_start|>user\n' + show(message.content) + '<|im_end|>\n' }}"
)
_END = "{{ '<|im_end|>\n' }}"
_PROMPT = "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"

QWEN3_VL = (
    f"{_SHOW}{_TOOLS}{_QUESTION}"
    "{%- elif message.role == 'assistant' -%}{%- set said = show(message.content) -%}"
    f"{{{{ '<|im_start|>assistant\n' + said }}}}{_CALLS}{_END}{_RESULT}{_PROMPT}{{%- endif -%}}"
)
"""Tools, calls and their results, but no thoughts."""

_THOUGHT = (
    "{%- elif message.role == 'assistant' -%}{%- set said = show(message.content) -%}{%- set thought = '' -%}"
    "{%- if message.reasoning_content is string -%}{%- set thought = message.reasoning_content -%}"
    "{%- elif '</think>' in said -%}"
    "{%- set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{{ '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.asked and (loop.last or thought) -%}"
    "{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}"
    "{%- else -%}{{ said }}{%- endif -%}"
)
_LAST_QUESTION = (
    "{%- set ns = namespace(asked=-1) -%}{%- for message in messages -%}"
    "{%- if message.role == 'user' and not show(message.content).startswith('<tool_response>') -%}"
    "{%- set ns.asked = loop.index0 -%}{%- endif -%}{%- endfor -%}"
)

QWEN3_THINKING = (
    f"{_SHOW}{_LAST_QUESTION}{_TOOLS}{_QUESTION}{_THOUGHT}{_CALLS}{_END}{_RESULT}{_PROMPT}"
    "{{ '<think>\n' }}{%- endif -%}"
)
"""Asks for a thought always, writes an empty one where there is none, and leaves thoughts out of earlier answers."""

QWEN3_HYBRID = (
    f"{_SHOW}{_LAST_QUESTION}{_TOOLS}{_QUESTION}{_THOUGHT}{_CALLS}{_END}{_RESULT}{_PROMPT}"
    "{{ '<think>\n' if enable_thinking is defined and enable_thinking else '<think>\n\n</think>\n\n' }}{%- endif -%}"
)
"""Asks for an answer without a thought unless it is told otherwise."""

FORGETFUL = QWEN3_THINKING.replace("{%- if loop.index0 > ns.asked and (loop.last or thought) -%}", "{%- if false -%}")
"""Asks for thoughts and never writes one."""

GEMMA3 = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- if messages[0]['content'] is string -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- else -%}{%- set first = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}"
    "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{%- for message in rest -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ first if loop.first else '' }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] | trim }}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)

IDEFICS3 = (
    "<|begin_of_text|>{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

GLM = (
    f"{_SHOW.replace('<|vision_start|><|image_pad|><|vision_end|>', '<|begin_of_image|><|image|><|end_of_image|>')}"
    "[gMASK]<sop>{%- if tools -%}{{ '<|system|>\n# Tools' }}{%- for tool in tools -%}{{ '\n' + tool | tojson }}"
    "{%- endfor -%}{%- endif -%}{%- set ns = namespace(asked=-1) -%}"
    "{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set ns.asked = loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}{%- if message.role == 'user' -%}{{ '<|user|>\n' + show(message.content) }}"
    "{%- elif message.role == 'assistant' -%}{%- set said = show(message.content).strip() -%}{{ '<|assistant|>\n' }}"
    "{%- if loop.index0 > ns.asked and message.reasoning_content -%}"
    "{{ '<think>' + message.reasoning_content.strip() + '</think>' }}{%- else -%}<think></think>{%- endif -%}"
    "{{ '\n' + said if said }}"
    "{%- for call in message.tool_calls or [] -%}{{ '\n<tool_call>' + call.function.name }}"
    "{%- for key, value in call.function.arguments.items() -%}"
    "{{ '\n<arg_key>' + key + '</arg_key>\n<arg_value>' + (value if value is string else value | tojson) }}"
    "{{ '</arg_value>' }}{%- endfor -%}{{ '\n</tool_call>' }}{%- endfor -%}"
    "{%- elif message.role == 'tool' -%}{{ '<|observation|>' if messages[loop.index0 - 1].role != 'tool' }}"
    "{{ '\n<tool_response>\n' + show(message.content) + '\n</tool_response>' }}"
    "{%- else -%}{{ '<|system|>\n' + show(message.content) }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}"
    "{{ '<think></think>' if enable_thinking is defined and not enable_thinking }}{%- endif -%}"
)
"""Ends an answer with the role that comes next, a tool's call with the one that observes, and the last with neither."""

MAGISTRAL = (
    "{{ bos_token }}{%- for message in messages -%}{%- if message.role == 'user' -%}[INST]"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}{%- for part in message.content -%}"
    "{{ '[IMG]' if part.type == 'image' else part.text }}{%- endfor -%}{%- endif -%}[/INST]"
    "{%- elif message.role == 'system' -%}[SYSTEM_PROMPT]{{ message.content }}[/SYSTEM_PROMPT]"
    "{%- elif message.role == 'assistant' -%}{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{{ '[THINK]' + part.thinking + '[/THINK]' if part.type == 'thinking' else part.text }}"
    "{%- endfor -%}{%- endif -%}{{ eos_token }}"
    "{%- else -%}{{ raise_exception('Only user, assistant and system roles are supported') }}{%- endif -%}"
    "{%- endfor -%}"
)
"""Takes thoughts as parts of the content, and asks for answers with the end of the question alone."""

GEMMA4 = (
    "{{ bos_token }}{%- set ns = namespace(open=false) -%}"
    "{%- if tools -%}{{ '<|turn>system\n' }}{%- for tool in tools -%}{{ tool.function | tojson }}{%- endfor -%}"
    "{{ '<turn|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}{%- if message.role == 'tool' -%}"
    "{{ '<|tool_response>' + message.name + ': ' + (message.content | trim) + '<tool_response|>' }}"
    "{%- set ns.open = true -%}"
    "{%- else -%}"
    "{{ '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' if not ns.open }}"
    "{%- set ns.open = false -%}"
    "{%- if message.content is string -%}{{ message.content | trim }}{%- else -%}{%- for part in message.content -%}"
    "{{ '<|image|>' if part.type == 'image' else part.text | trim }}{%- endfor -%}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}{{ '<|tool_call>call:' + call.function.name }}"
    "{{ call.function.arguments | tojson + '<tool_call|>' }}{%- set ns.open = true -%}{%- endfor -%}"
    "{{ '<turn|>\n' if not ns.open }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and not ns.open -%}{{ '<|turn>model\n' }}{%- endif -%}"
)
"""A turn goes on behind what its tool answers; thoughts are not written."""
