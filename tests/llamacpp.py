"""A real server on loopback: llama.cpp's own, serving a tiny model in float32 that is written here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def write_gguf(model: Any, tokenizer: Any, file: Path) -> Path:
    """Write a tiny Qwen3 with its byte-level BPE tokenizer as llama.cpp reads them, in float32."""
    import json

    import gguf

    config, vocab = model.config, model.config.vocab_size
    writer = gguf.GGUFWriter(str(file), "qwen3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(vocab)

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [f"[unused{n}]" for n in range(vocab)]
    kinds = [int(gguf.TokenType.UNUSED)] * vocab
    for piece, n in state["model"]["vocab"].items():
        tokens[n], kinds[n] = piece, int(gguf.TokenType.NORMAL)
    for added in state["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert place is not None
        writer.add_tensor(place, np.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@contextmanager
def serving(file: Path, name: str, context: int = 2048, exact: bool = True) -> Iterator[str]:
    """Serve a GGUF file under a name with two slots; gives the address.

    Attention and its cache are in half precision, as they are by default, if not `exact`.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.model_alias = {name}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel = 2 * context, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup, params.verbosity = False, -1
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server
