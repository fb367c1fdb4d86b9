"""Item embedding: input embeddings of a model in which those of item tokens are computed from the items' vectors.

    e(first + n) = s · (W₂ gelu(W₁ vₙ + b₁) + b₂)

v is the item's vector; s is a constant that gives the untrained projector the mean size of the base's embeddings. The
projector's weights are trained with the adapter's, v and the base's embeddings are not. Other ids are looked up in the
base. The vocabulary head has no rows for item tokens: no answer is one.

Source: CoLLM (Zhang et al. 2023, arXiv 2310.19488) projects vectors of a collaborative model with a small network into
the embeddings of a language model.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from palate.errors import InputError, WorkError, first_line
from palate.models.item_vectors import FILE, ItemVectors
from palate.models.method import transformer
from palate.prompt.item_tokens import item_tokens
from palate.store.artifacts import reading, sha256_file

HIDDEN = 256
"""Width of the projector's hidden layer."""
KEY = "item_vectors"
"""The entry of `palate.json`: the first token's id, the number of items, a hash of the data, and the file's SHA-256."""


class ItemEmbedding(torch.nn.Module):  # type: ignore[misc]
    """Embeds ids (…,) int64 to (…, width), in the dtype of `base`.

    `first` is the id of the first item's token. `vectors` (versions, items, d) float32; version k of item n has the id
    `first` + k · items + n. Version 0 serves, training uses the others.
    """

    def __init__(self, base: torch.nn.Module, first: int, vectors: torch.Tensor) -> None:
        super().__init__()
        self.base, self.first, self.items = base, first, vectors.shape[1]
        width = base.weight.shape[1]
        self.projector = torch.nn.Sequential(
            torch.nn.Linear(vectors.shape[2], HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, width)
        )
        self.register_buffer("vectors", vectors.flatten(0, 1), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.to(base.weight.device)
        with torch.no_grad():
            self.scale *= _size(_looked_up(base)) / _size(self.projector(self.vectors[: self.items]))

    @property
    def weight(self) -> torch.Tensor:
        """The base's embeddings, (rows, width)."""
        weight: torch.Tensor = self.base.weight
        return weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of ids."""
        at = ids - self.first
        is_item = (at >= 0) & (at < len(self.vectors))
        found = self.base(ids.masked_fill(is_item, 0))
        # The projector computes every position: devices exchange its gradients in every pass.
        items = self.projected(self.vectors[at.clamp(0, len(self.vectors) - 1)])
        return torch.where(is_item[..., None], items.to(found.dtype), found)

    def projected(self, vectors: torch.Tensor) -> torch.Tensor:
        """The embeddings of vectors (…, d), (…, width) float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            found: torch.Tensor = self.scale * self.projector(vectors)
        return found

    def rows(self) -> torch.Tensor:
        """The embeddings of all items by the vectors of all training ratings, (items, width) float32, as weights."""
        with torch.no_grad():
            # Gemma's embeddings multiply their rows.
            return self.projected(self.vectors[: self.items]) / float(getattr(self.base, "embed_scale", 1.0))

    def save(self, folder: Path) -> None:
        """Write the vectors of all training ratings and the projector; raises `WorkError` if that fails."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {name: value.detach().cpu().contiguous() for name, value in self.projector.state_dict().items()}
        vectors = self.vectors[: self.items].cpu().contiguous()
        try:
            save_file({**tensors, "scale": self.scale.cpu(), "vectors": vectors}, folder / FILE)
        except SafetensorError as error:  # a full disk
            raise WorkError(f"{folder / FILE}: cannot be written: {first_line(error)}") from error

    def fill(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the projector's weights from a file's tensors."""
        with torch.no_grad():
            self.scale.copy_(tensors["scale"])
            self.projector.load_state_dict({name: tensors[name] for name in self.projector.state_dict()})


class BlankItems(torch.nn.Module):  # type: ignore[misc]
    """Embeddings of a base model alone: every item token is the mean embedding, which says nothing of the item."""

    def __init__(self, base: torch.nn.Module, first: int) -> None:
        super().__init__()
        self.base, self.first = base, first
        with torch.no_grad():
            self.register_buffer("blank", _looked_up(base).mean(0).to(base.weight.dtype), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The base's embeddings, (rows, width)."""
        weight: torch.Tensor = self.base.weight
        return weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of ids."""
        is_item = ids >= self.first
        return torch.where(is_item[..., None], self.blank, self.base(ids.masked_fill(is_item, 0)))


def _looked_up(base: torch.nn.Module) -> torch.Tensor:
    """Some thousand embeddings of the base, float32."""
    rows = base.weight.shape[0]
    found: torch.Tensor = base(torch.arange(0, rows, max(1, rows // 4096), device=base.weight.device))
    return found.float()


def _size(rows: torch.Tensor) -> torch.Tensor:
    """The root mean square."""
    return rows.square().mean().sqrt()


def install(model: Any, embedding: torch.nn.Module) -> None:
    """Replace a model's input embeddings; the vocabulary head keeps weights that it shares with them."""
    transformer(model).set_input_embeddings(embedding)


def items_of(model: Any) -> ItemEmbedding | None:
    """The item embedding of a model, wrapped or not; None if it has none."""
    found = transformer(model).get_input_embeddings()
    return found if isinstance(found, ItemEmbedding) else None


def add_items(model: Any, vectors: ItemVectors, first: int) -> ItemEmbedding:
    """Give a model an untrained projector of vectors, in all versions; it is trained with the model's other weights."""
    embedding = ItemEmbedding(transformer(model).get_input_embeddings(), first, torch.from_numpy(vectors.versions))
    install(model, embedding)
    return embedding


def blank_items(model: Any, first: int) -> None:
    """Let a base model read prompts with item tokens, of which it learns nothing."""
    install(model, BlankItems(transformer(model).get_input_embeddings(), first))


def load_items(model: Any, adapter: Path, about: dict[str, Any]) -> None:
    """Give a model the projector and the vectors in an adapter's folder; `about` is their entry of `palate.json`.

    Raises `InputError` if the file is missing, damaged, of another width, or has numbers that are not finite.
    """
    tensors = read_items(adapter, about)
    base = transformer(model).get_input_embeddings()
    embedding = ItemEmbedding(base, int(about["first"]), tensors["vectors"][None])
    expected = {**embedding.projector.state_dict(), "scale": embedding.scale, "vectors": tensors["vectors"]}
    for name, value in expected.items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise InputError(f"has no {name} of shape {tuple(value.shape)}, which this base needs", adapter / FILE)
    embedding.fill(tensors)
    embedding.requires_grad_(False)
    install(model, embedding)


def read_items(adapter: Path, about: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The checked tensors of an adapter's file of vectors; raises `InputError` as `load_items`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter / FILE
    if not file.is_file():
        raise InputError("is missing, expected the vectors of the adapter's item tokens", file)
    try:
        with reading(file):
            tensors = dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise InputError(f"is broken or cut off, copy the adapter again: {first_line(error)}", file) from error
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise InputError(f"{name} holds NaN or infinite numbers, expected finite ones", file)
    if about.get("sha256") != sha256_file(file):
        raise InputError("was changed, expected the file that the training wrote", file)
    if tensors.get("vectors", torch.empty(0)).ndim != 2 or len(tensors["vectors"]) != about.get("count"):
        raise InputError(
            f"has no vectors of {about.get('count')} items, expected the file that the training wrote", file
        )
    return tensors


FAR = 50.0
"""How far below 0 the logits of item tokens lie in an exported model, at the decision token."""


def hidden_mean(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean of the last hidden states after some prompts, (width,) float32: what the vocabulary head reads."""
    states = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        states.append(inputs[0][0, -1].float().cpu())

    hook = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            for prompt in prompts:
                model(input_ids=torch.tensor([list(prompt)], device=model.device), logits_to_keep=1, use_cache=False)
    finally:
        hook.remove()
    return torch.stack(states).mean(0)


def write_rows(model: Any, hidden: torch.Tensor) -> None:
    """Turn the item embedding of a merged model into rows of an ordinary one, in place.

    The input embeddings get a row for each item's token, and the head, tied or not, gets weights of its own with as
    many rows. Programs build both from one `vocab_size`, and have no bias by which a token could have no probability.
    So a new row of the head is −FAR · h / |h|² for the mean h of the last hidden states (`hidden`): where an answer is
    expected, the token's logit is about −FAR.
    """
    items = items_of(model)
    assert items is not None
    base, head = items.base, model.get_output_embeddings()
    with torch.no_grad():
        total = max(base.weight.shape[0], items.first + items.items)
        rows = torch.zeros(total, base.weight.shape[1])
        rows[: base.weight.shape[0]] = base.weight
        rows[items.first : items.first + items.items] = items.rows()
        old = head.weight.shape[0]
        wide = torch.nn.Linear(head.weight.shape[1], max(total, old), bias=head.bias is not None)
        wide.weight[:old] = head.weight
        wide.weight[old:] = -FAR * hidden / hidden.square().sum()
        if head.bias is not None:
            wide.bias[:old], wide.bias[old:] = head.bias, 0.0
    base.weight, base.num_embeddings = torch.nn.Parameter(rows), total
    install(model, base)
    model.set_output_embeddings(wide)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
        config.vocab_size = total
    model.all_tied_weights_keys = {}


def tokenizer_with_items(tokenizer: Any, count: int) -> Any:
    """A copy of a transformers tokenizer with the tokens of `count` items, for an exported model."""
    found = copy.deepcopy(tokenizer)
    found.add_tokens(item_tokens(count))
    return found
