"""ModelShape: what a model is without its weights, from `config.json` alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from palate.config import Config
from palate.errors import InputError, WorkError
from palate.models.load import quiet
from palate.plan.simulate import EXTRAPOLATED, adapted
from palate.store.hub import UNREACHABLE, hub_is_out_of_reach, locate


@dataclass(frozen=True)
class ModelShape:
    """The weights of a base model and its adapter, counted."""

    name: str
    config: Any = field(repr=False)
    """The transformers config."""
    weights: int
    """Of the base model, tied ones once."""
    linear: Mapping[str, int] = field(repr=False)
    """Weights of each linear layer that quantization stores in 4 bits, by name: all but the vocabulary head."""
    adapter: tuple[tuple[int, ...], ...] = field(repr=False)
    """The shapes of the LoRA weights."""
    vocabulary: int
    layers: int
    alike: bool
    """Whether all layers are alike, so that two and three of them tell what all take."""

    @property
    def adapter_weights(self) -> int:
        """Weights that are trained."""
        return sum(map(prod, self.adapter))


def load_shape(config: Config) -> ModelShape:
    """The shape of the config's base model with the config's adapter; no weights are read.

    Raises `InputError` for a name that resolves to nothing, a folder without a readable `config.json`, and target
    modules that the model lacks; `WorkError` for a model of the hub that is neither cached nor to be reached.
    """
    model_config = _model_config(config)
    model = adapted(model_config, config, "float32")
    base, trained, linear = 0, [], {}
    head = model.get_output_embeddings()
    for weight in model.parameters():
        if weight.requires_grad:
            trained.append(tuple(weight.shape))
        else:
            base += weight.numel()
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear" and module is not head and not module.weight.requires_grad:
            inner = name.endswith(".base_layer")
            if inner or not hasattr(module, "base_layer"):
                linear[name] = module.weight.numel()
    layers = int(model_config.get_text_config().num_hidden_layers)
    alike = layers > max(EXTRAPOLATED) and _count(model_config, config, layers) == (base, sum(map(prod, trained)))
    return ModelShape(
        config.model.base, model_config, base, linear, tuple(trained), int(head.weight.shape[0]), layers, alike
    )


def _count(model_config: Any, config: Config, layers: int) -> tuple[int, int] | None:
    """Base and adapter weights as they would be if all layers were alike; None if their kinds differ."""
    if len(set(getattr(model_config.get_text_config(), "layer_types", None) or [0])) > 1:
        return None
    few, more = (adapted(model_config, config, "float32", n) for n in EXTRAPOLATED)
    counts = []
    for trained in (False, True):
        a, b = (sum(w.numel() for w in model.parameters() if w.requires_grad is trained) for model in (few, more))
        counts.append(a + (layers - EXTRAPOLATED[0]) * (b - a))
    return counts[0], counts[1]


def _model_config(config: Config) -> Any:
    """The transformers config of the base model: of a folder, a GGUF file, or a repository of the hub."""
    from transformers import AutoConfig

    location = locate(config.model.base)
    place = location.path or str(location.hub_id)
    options: dict[str, Any] = {}
    if location.path is None:
        options = {"revision": config.model.revision, "local_files_only": hub_is_out_of_reach()}
    elif location.path.suffix == ".gguf":
        options = {"gguf_file": location.path.name}
    elif not (location.path / "config.json").is_file():
        raise InputError("holds no config.json, expected a model folder", location.path)
    source = place if not options or location.path is None else location.path.parent
    try:
        with quiet(stderr=True):
            return AutoConfig.from_pretrained(str(source), **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if options.get("local_files_only"):
            raise WorkError(f"{place}: {UNREACHABLE}; a folder with its config.json serves as well") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"no model config can be read: {reason}", place) from error
