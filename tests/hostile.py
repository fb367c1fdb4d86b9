"""Texts that try to be something else where they are read, shown or opened, as titles and ids of a log may."""

CONTROL_TOKENS = {
    "Llama 2, Mistral": ["<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"],
    "Llama 3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "Llama 4": ["<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>"],
    "Mistral, Tekken": ["[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[THINK]"],
    "Gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"],
    "Qwen": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>"],
    "Phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_sep|>"],
    "DeepSeek": ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"],
    "GLM": ["[gMASK]", "<sop>", "<eop>", "<|observation|>", "<|user|>"],
    "Yi": ["<|startoftext|>", "<|im_start|>", "<fim_prefix>"],
    "InternLM": ["<|im_start|>", "<|action_start|>", "<|plugin|>"],
    "Baichuan": ["<reserved_106>", "<reserved_107>"],
    "Falcon": [">>TITLE<<", ">>ABSTRACT<<", "<|endoftext|>"],
    "Command R": ["<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"],
    "Granite": ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
    "OLMo": ["<|endoftext|>", "<|user|>", "<|assistant|>", "|||IP_ADDRESS|||"],
    "StableLM": ["<|im_start|>", "<fim_suffix>", "<|reg_extra|>"],
    "Nemotron": ["<extra_id_0>", "<extra_id_1>", "<SPECIAL_12>"],
    "gpt-oss": ["<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"],
    "Kimi": ["<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "[EOT]"],
    "EXAONE": ["[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"],
    "Jamba": ["<|startoftext|>", "<|bom|>", "<|eom|>", "<|pad|>"],
    "BERT, T5": ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "<pad>", "<extra_id_99>"],
}
"""Control tokens of chat models, by family."""

TEMPLATES = [
    "{{ 7 * 7 }}", "{% for x in messages %}{% endfor %}", "{{ messages[0].__class__ }}", "{# #}", "${7*7}",
    "<%= 7*7 %>", "{title}", "{rating}", "{title:short}", "{item_mean:.1f}", "{", "}", "{}", "{0}", "%s %d %n",
    "{{title}}",
]  # fmt: skip
PAGES = [
    "<script>window.hit=1</script>", "</script><script>window.hit=1</script>", "<img src=x onerror=window.hit=1>",
    "\"><svg onload=window.hit=1>", "'-alert(1)-'", "javascript:window.hit=1", "</title><script>window.hit=1</script>",
    "<!--", "-->", "]]>", "<![CDATA[", "</style><script>window.hit=1</script>", "&lt;b&gt;", "&#x3C;script&#x3E;",
    "<iframe srcdoc='<script>parent.hit=1</script>'>", "<base href=//evil.invalid>",
    "<meta http-equiv=refresh content=0>",
]  # fmt: skip
TERMINALS = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x1b]8;;http://evil.invalid\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m", "a\rb", "bell\x07", "back\x08\x08\x08", "[bold]markup[/bold]", "[/]", ":smile:", "\u202eevil\u202c",
    "\u2066x\u2069", "\u200fright", "a\u2028b", "zero\u200bwidth",
]  # fmt: skip
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil.invalid")', "\t=1+1"]
PATHS = [
    "../../../etc/passwd", "/etc/passwd", "..\\..\\x", "C:\\x", "~/x", "a/b", ".", "..", "CON", "$HOME", "`id`",
    "$(id)", "; rm x", "| cat", "&& id", "*", "?", "file:///etc/passwd", "%2e%2e%2f", "'; DROP TABLE ratings; --",
]  # fmt: skip

TOKENS = sorted({token for tokens in CONTROL_TOKENS.values() for token in tokens})
TEXTS = [*TOKENS, *TEMPLATES, *PAGES, *TERMINALS, *FORMULAS, *PATHS]
"""All of them."""
