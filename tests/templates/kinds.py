"""Small chat templates of the kinds that models have, and a tokenizer for each."""

from typing import Any

from tests.small import CHATML, THINKING, TRIMMING, byte_level_bpe
from tests.tiny import EMPTY_THINK

GENERATE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
# As Llama 3.x, SmolLM3 and gpt-oss.
DATED = "{{ '<|im_start|>today\n' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}" + CHATML
# As Llama 3.1, which asks whether there is a clock.
DATED_IF_ABLE = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{{ '<|im_start|>today\n' + date_string + '<|im_end|>\n' }}" + CHATML
)
# As Gemma 2 and Mistral 0.1: turns must alternate, beginning with the user's.
NO_SYSTEM = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHATML
)
# As Mistral Nemo: the system text stands in the last turn, if that is the user's.
SYSTEM_LOST = (
    "{% if messages[0]['role'] == 'system' %}{% set system, turns = messages[0]['content'], messages[1:] %}"
    "{% else %}{% set system, turns = '', messages %}{% endif %}"
    "{% for message in turns %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'user' and loop.last and system %}{{ system + '\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}" + GENERATE
)
# As SmolVLM and Qwen2-VL: nothing is written for content that is a string.
PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + GENERATE
)
PARTS_NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}" + PARTS
# For inference only.
LAST_TURN_USER = (
    "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('The last turn must be of the user') }}{% endif %}"
    + CHATML
)
NO_GENERATION_PROMPT = CHATML.removesuffix(GENERATE)

KINDS: dict[str, Any] = {
    "plain": CHATML,
    "trimming": TRIMMING,
    "dated": DATED,
    "dated if able": DATED_IF_ABLE,
    "no system turn": NO_SYSTEM,
    "system lost": SYSTEM_LOST,
    "parts": PARTS,
    "parts, no system turn": PARTS_NO_SYSTEM,
    "named": {"default": CHATML, "tool_use": "{{ raise_exception('no tools') }}"},
    "think block": EMPTY_THINK,
    "think block when asked": THINKING,
    "no generation prompt": NO_GENERATION_PROMPT,
    "last turn user's": LAST_TURN_USER,
}


def tokenizer_of(kind: str) -> Any:
    """A tokenizer of its own with a kind of template."""
    tokenizer = byte_level_bpe.__wrapped__()
    tokenizer.chat_template = KINDS[kind]
    return tokenizer
