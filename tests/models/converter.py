"""Stands in for llama.cpp's converter, which is not to be had from a package index: tiny Qwen3 models only.

    converter.py MODEL --outfile FILE --outtype f32|f16

With $SPOIL set it leaves out what it names: `layer` halves a weight, `file` writes nothing and fails.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--outfile")
parser.add_argument("--outtype")
args = parser.parse_args()
spoil = os.environ.get("SPOIL")
if spoil == "file":
    print("loading", file=sys.stderr)
    sys.exit("ValueError: BPE pre-tokenizer was not recognized\n")

config = json.loads((args.model / "config.json").read_text())
writer = gguf.GGUFWriter(args.outfile, "qwen3")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(config["num_attention_heads"])
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_key_length(config["head_dim"])
writer.add_value_length(config["head_dim"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
writer.add_vocab_size(config["vocab_size"])
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
for name, tensor in load_file(args.model / "model.safetensors").items():
    if spoil == "layer" and name == "model.layers.1.mlp.down_proj.weight":
        tensor = tensor / 2
    wide = args.outtype == "f32" or tensor.ndim == 1
    place = names.get_name(name, try_suffixes=(".weight", ".bias"))
    writer.add_tensor(place, tensor.astype(np.float32 if wide else np.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
