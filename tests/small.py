"""Small real tokenizers of every kind that chat models have, built in the test."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Trims what the user wrote, as Llama 3's template does.
TRIMMING = CHATML.replace("message['content']", "(message['content'] | trim)")
# Opens a think block when asked to generate, as reasoning models' templates do, but not in training text.
THINKING = CHATML.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n' }}")
BERT = (
    "[CLS]{% for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] + ' [SEP]\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
GEMMA = "<bos>" + TRIMMING.replace("<|im_start|>", "<start_of_turn>").replace("<|im_end|>", "<end_of_turn>")
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# Whole phrases often enough that merges lie across every place where a prompt could be cut.
TEXTS = [
    "Will the user like the movie? Answer Yes or No.",
    'The user liked: "Toy Story (1995)" (5.0), "The Matrix (1999)" (4.5)',
    "History:\n1. The Godfather (1972)\n2. Heat (1995)\n\nCandidate: Se7en (1995)\n",
    "- Schindler's List (1993)\n- They'll Love Me When I'm Dead (2018)\r\n",
    "Léon: The Professional (1994) | 七人の侍 (1954) | Амели (2001)\n\n\n",
    "system\nuser\nassistant\n<table><tr><td>  the\t film's </td></tr></table>",
    "Yes",
    "No",
    "<table>",
]


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


def all_small() -> dict[str, Any]:
    """The tokenizers below by name; shared, so not to be changed."""
    kinds = (byte_level_bpe, gpt2_like, wordpiece, unigram, sentencepiece_bpe, phi3_like)
    return {kind.__name__: kind() for kind in kinds}


@lru_cache
def byte_level_bpe() -> Any:
    """As Llama 3: a regular expression of its own before the bytes, merges ignored for known words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    bare = Tokenizer(models.BPE(ignore_merges=True))
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bare.post_processor = processors.ByteLevel(trim_offsets=True)
    return _byte_level(bare)


@lru_cache
def gpt2_like() -> Any:
    """As SmolLM2: single digits, GPT-2's words; here text is made NFC first, as Qwen's is."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    bare = Tokenizer(models.BPE())
    bare.normalizer = normalizers.NFC()
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return _byte_level(bare)


@lru_cache
def wordpiece() -> Any:
    """As BERT: lower case, no accents, no private-use characters, words and their pieces, `[UNK]`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bare = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bare.normalizer = normalizers.BertNormalizer(
        lowercase=True, clean_text=True, handle_chinese_chars=True, strip_accents=True
    )
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bare.decoder = decoders.WordPiece()
    control = ["[UNK]", "[CLS]", "[SEP]", "[system]", "[user]", "[assistant]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=control)
    bare.train_from_iterator(TEXTS, trainer)
    bare.add_tokens(["<think>"])  # looked for in the lower-cased text
    return _fast(bare, BERT, eos_token="[SEP]", unk_token="[UNK]")


@lru_cache
def unigram() -> Any:
    """As T5 and ALBERT: NFKC, a mark for each space and for the text's beginning, likeliest pieces.

    The control tokens are pieces of the model too, as in every converted SentencePiece file.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bare = Tokenizer(models.Unigram())
    bare.normalizer = normalizers.NFKC()
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bare.decoder = decoders.Metaspace(prepend_scheme="first")
    control = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, special_tokens=control, unk_token="<unk>", max_piece_length=8
    )
    bare.train_from_iterator([*TEXTS * 3, *["\nYes\nNo", "(Yes/No)"] * 20], trainer)
    bare.add_tokens(["<think>"])  # looked for in the NFKC text
    return _fast(bare, CHATML, eos_token="</s>", unk_token="<unk>")


@lru_cache
def sentencepiece_bpe() -> Any:
    """As Gemma: spaces are `▁`, unknown characters bytes; runs of white space are added tokens too."""
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    bare = _sentencepiece(["<unk>", "<bos>", "<start_of_turn>", "<end_of_turn>"])
    bare.normalizer = normalizers.Replace(" ", "▁")
    bare.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    white = ["\n\n", "\n\n\n", "▁▁", "▁▁▁"]
    bare.add_tokens([AddedToken(text, normalized=False) for text in (*white, "<table>", "<think>")])
    bare.add_special_tokens(["<unk>", "<bos>", "<start_of_turn>", "<end_of_turn>"])
    return _fast(bare, GEMMA, bos_token="<bos>", eos_token="<end_of_turn>", unk_token="<unk>")


@lru_cache
def phi3_like() -> Any:
    """As Llama 2 with Phi 3's turns: `▁` before every run of text, and control tokens that swallow white space."""
    from tokenizers import AddedToken, normalizers

    control = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    bare = _sentencepiece(["<unk>", "<s>", "</s>"])
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bare.add_special_tokens(["<unk>", "<s>"])
    bare.add_special_tokens([AddedToken("</s>", rstrip=True, normalized=False)])
    bare.add_special_tokens([AddedToken(text, rstrip=True, normalized=False) for text in control])
    bare.add_tokens([AddedToken("<think>", lstrip=True, single_word=True, normalized=False)])
    return _fast(bare, PHI3, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _byte_level(bare: Any) -> Any:
    from tokenizers import decoders, pre_tokenizers, trainers

    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=alphabet)
    )
    bare.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    bare.add_tokens(["<think>", "</think>"])
    return _fast(bare, CHATML, eos_token="<|im_end|>")


def _sentencepiece(first: Sequence[str]) -> Any:
    """BPE over characters, of which those not met in training are bytes; `first` have the first ids."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    learner.train_from_iterator([f" {text}" for text in TEXTS * 3] + TEXTS, trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(model["vocab"], key=model["vocab"].get)]
    bare = Tokenizer(
        models.BPE(
            {piece: n for n, piece in enumerate(pieces)},
            [tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    bare.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return bare


def _fast(bare: Any, template: str, **names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, **names)
    tokenizer.chat_template = template
    return tokenizer
