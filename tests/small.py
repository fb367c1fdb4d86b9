"""Small real tokenizers, built in the test."""

from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Trims what the user wrote, as Llama 3's template does.
TRIMMING = CHATML.replace("message['content']", "(message['content'] | trim)")
# Opens a think block when asked to generate, as reasoning models' templates do, but not in training text.
THINKING = CHATML.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n' }}")


def small_tokenizer(template: str | None = CHATML) -> Any:
    """A byte-level BPE tokenizer that knows bytes and the words of the answers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bare.train_from_iterator(["Yes\nNo\nNope"] * 9, trainer)
    bare.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    bare.add_tokens(["<think>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer
