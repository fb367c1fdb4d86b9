"""ModelShape: the sizes of a model's weights, from `config.json` alone."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from palate.config import Config
from palate.errors import InputError, first_line
from palate.models.load import load_config, quiet
from palate.models.method import attach

ROUTED = ("num_experts", "num_local_experts", "n_routed_experts")
"""Config keys of a mixture of experts, whose computation depends on the tokens."""


class Linear(NamedTuple):
    """One linear layer other than the vocabulary head."""

    block: str
    """The parent module: layers of one block with equal `inputs` read the same tensor."""
    inputs: int
    outputs: int
    adapted: bool
    """Whether the layer has LoRA."""
    trained: bool
    """Whether the layer's weights are trained."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of the weights of a base model and its adapter."""

    name: str
    config: Any = field(repr=False)
    """The transformers config."""
    weights: int
    """Number of the base model's weights; tied weights count once."""
    adapter: tuple[tuple[int, ...], ...] = field(repr=False)
    """The shapes of the trained weights."""
    linears: tuple[Linear, ...] = field(repr=False)
    norms: tuple[int, ...] = field(repr=False)
    """The width of each norm's input for one token."""
    vocabulary: int
    layers: int
    hidden: int
    heads: int
    queries: int
    """Width of a layer's queries over all heads."""
    keys: int
    """Width of a layer's keys, equal to that of its values."""

    @property
    def adapter_weights(self) -> int:
        """Number of trained weights."""
        return sum(map(prod, self.adapter))

    @property
    def frozen(self) -> list[int]:
        """Number of weights of each frozen linear layer, which NF4 stores in 4 bits."""
        return [each.inputs * each.outputs for each in self.linears if not each.trained]

    @property
    def last(self) -> Linear:
        """The layer with the widest input, the last of an MLP."""
        return max(self.linears, key=lambda each: each.inputs)

    @property
    def product(self) -> int:
        """Width of a token's tensors that the MLP of a layer saves: gate, its activation and what it multiplies."""
        out = sum(each.outputs for each in self.linears if each.block == self.last.block and each is not self.last)
        return out + (self.last.inputs if out > self.last.inputs else 0)


def load_shape(config: Config) -> ModelShape:
    """The shape of the config's base model with the config's adapter, without reading weights.

    Raises `InputError` for a model that `load_config` cannot read, an architecture that Palate's formulas do not cover,
    and target modules that the model lacks; `WorkError` for a model that is not cached if the hub cannot be reached.
    """
    return shape_of(load_config(config.model), config)


def shape_of(model_config: Any, config: Config) -> ModelShape:
    """The shape of the model of a transformers config; raises as `load_shape` does."""
    text = model_config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if not heads or any(getattr(text, name, None) for name in ROUTED):
        reason = "has no attention heads" if not heads else "is a mixture of experts"
        raise InputError(
            f"{model_config.model_type} {reason}, so it cannot be planned; expected a dense decoder", config.model.base
        )
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    queries, keys = heads * width, (getattr(text, "num_key_value_heads", None) or heads) * width
    model = adapted(model_config, config)
    head = model.get_output_embeddings()
    linears, norms = [], []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if any(part in name for part in (".lora_", ".original_module", ".ln_tuning_layers")) or module is head:
            continue
        if kind in ("Linear", "Conv1D") and not hasattr(module, "base_layer"):
            inputs, outputs = module.weight.shape[:: -1 if kind == "Linear" else 1]
            block = name.removesuffix(".base_layer").removesuffix(".modules_to_save.default").rpartition(".")[0]
            linears.append(Linear(block, inputs, outputs, name.endswith(".base_layer"), module.weight.requires_grad))
        elif kind.endswith("Norm") and getattr(module, "weight", None) is not None:
            norms.append(queries if "q_norm" in name else keys if "k_norm" in name else text.hidden_size)
    return ModelShape(
        name=config.model.base,
        config=model_config,
        weights=sum(w.numel() for w in model.parameters() if not w.requires_grad),
        adapter=tuple(tuple(w.shape) for w in model.parameters() if w.requires_grad),
        linears=tuple(linears),
        norms=tuple(norms),
        vocabulary=int(head.weight.shape[0]),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        heads=int(heads),
        queries=int(queries),
        keys=int(keys),
    )


def adapted(model_config: Any, config: Config, dtype: str = "float32") -> Any:
    """The model with its adapter on the meta device, its base in `dtype`.

    Raises `InputError` for an architecture that is not a causal language model and target modules that it lacks.
    """
    import torch
    from transformers import AutoModelForCausalLM

    attention = {"attn_implementation": "eager"} if config.model.attn_implementation == "eager" else {}
    with quiet(), torch.device("meta"):
        try:
            base = AutoModelForCausalLM.from_config(model_config, dtype=getattr(torch, dtype), **attention)
        except (ValueError, KeyError, ImportError, AttributeError) as error:
            raise InputError(
                f"no model can be made of its config, expected that of a causal model: {first_line(error)}",
                config.model.base,
            ) from error
        return attach(base.train(), config.train)
