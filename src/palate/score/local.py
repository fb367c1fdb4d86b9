"""Score prompts with a transformers model in this process: one forward pass, no generation."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.errors import WorkError
from palate.score.backend import Floats, Ids, OnBatch, in_batches

if TYPE_CHECKING:
    from palate.score.prefix import Behind, Prefix, Prefixes

log = logging.getLogger(__name__)

CHUNK = 1024
"""Tokens of blocks per forward pass behind a prefix; the pass's memory grows with it."""


@dataclass(frozen=True)
class LocalBackend:
    """A causal language model, with or without an adapter, as a `Backend`; `yes` and `no` are the answers' ids.

    It computes logits in float32 from the last hidden state on, whatever the model's number format.
    """

    model: Any
    yes: int
    no: int
    head: dict[int, Any] | None = None
    """Weights of the last layer in float32, which all passes share (see `exact_logits`); None: each converts them."""

    def answers(self, prompts: Sequence[Ids]) -> Floats:
        """Answer one batch, padded on the right: causal attention needs no mask for that, and positions stay."""
        hint = f"{len(prompts)} prompts of {max(map(len, prompts))} tokens, try a smaller evaluate.batch_size"
        with _memory(hint):
            return self._log_p(self._logits(prompts))

    def answers_behind(self, prefix: Ids, rests: Sequence[Ids], batch_size: int, on_batch: OnBatch) -> Floats:
        """See `Backend`: computes the prefix once, then the rests in chunks of about CHUNK tokens.

        If the model cannot share a prefix exactly, computes whole prompts in batches and logs the reason.
        """
        if not prefix:
            return in_batches(self.answers, rests, batch_size, on_batch)
        longest = len(prefix) + max(map(len, rests))
        reason = self.reason(longest)
        if reason is not None:
            log.warning("computing each prompt whole: %s", reason)
            return in_batches(self.answers, [[*prefix, *rest] for rest in rests], batch_size, on_batch)
        found = np.empty((len(rests), 2), np.float32)
        hint = f"{CHUNK} tokens behind a prefix of {len(prefix)}"
        with _memory(hint):
            for rows, logits in self._behind(prefix, rests):
                found[rows] = self._log_p(logits)
                on_batch(len(rows))
        return found

    def _behind(self, prefix: Ids, rests: Sequence[Ids]) -> Iterator[tuple[list[int], Any]]:
        """The logits after each rest, in chunks: the rows of the chunk, and their logits (rows, vocabulary)."""
        from palate.score.prefix import shared_prefix

        with shared_prefix(self.model):
            (shared,) = self._prefixes([prefix])
            for rows in chunks([len(rest) for rest in rests]):
                yield rows, self._logits([rests[row] for row in rows], [(shared, len(rows))])

    def prefixes(self, prompts: Sequence[Ids]) -> "list[Prefix]":
        """The keys and values of prompts, in one pass."""
        from palate.score.prefix import shared_prefix

        tokens = sum(map(len, prompts))
        with _memory(f"prefixes of {tokens} tokens"), shared_prefix(self.model):
            return self._prefixes(prompts)

    def answers_after(self, before: "Behind", rests: Sequence[Ids]) -> Floats:
        """As `answers`, for rests of which each follows a prefix of `before`, in one pass."""
        from palate.score.prefix import shared_prefix

        with _memory(f"{sum(map(len, rests))} tokens behind prefixes"), shared_prefix(self.model):
            return self._log_p(self._logits(rests, before))

    def _prefixes(self, prompts: Sequence[Ids]) -> "list[Prefix]":
        from palate.score.prefix import Prefixes

        found = Prefixes()
        self._logits(prompts, found)
        return found.each([len(prompt) for prompt in prompts])

    def _logits(self, prompts: Sequence[Ids], before: "Prefixes | Behind | None" = None) -> Any:
        """The logits after each prompt, (n, vocabulary) float32; a row's first token follows its prefix if any."""
        import torch

        last = torch.tensor([len(ids) - 1 for ids in prompts])
        ids = torch.zeros(len(prompts), int(last.max()) + 1, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        where, options = self.model.device, dict[str, Any]()
        if before is not None:
            begin = torch.zeros(len(prompts), 1, dtype=torch.long)
            if isinstance(before, Sequence):
                begin[:, 0] = torch.tensor([prefix.length for prefix, rows in before for _ in range(rows)])
            positions = begin + torch.arange(ids.shape[1])
            options = {"palate_prefix": before, "position_ids": positions.to(where)}
        self.model.eval()
        with torch.inference_mode(), _one_row_each(self.model, last.to(where), self.head):
            return self.model(input_ids=ids.to(where), use_cache=False, **options).logits[:, 0].float()

    def _log_p(self, logits: Any) -> Floats:
        """log P of the two answers, (n, 2); raises `WorkError` for logits that are not finite."""
        found = (logits[:, [self.yes, self.no]] - logits.logsumexp(-1, keepdim=True)).cpu().numpy()
        if not np.isfinite(found).all():
            raise WorkError("the model's logits are not finite, try model.dtype=float32")
        return np.asarray(found, np.float32)

    def reason(self, longest: int) -> str | None:
        """Why prompts of this length cannot share their prefix; None if they can."""
        from palate.score.prefix import check_shareable

        try:
            check_shareable(self.model.config, longest)
        except WorkError as error:
            return str(error)
        return self._probe_failure

    @cached_property
    def _probe_failure(self) -> str | None:
        """Why a probe failed, None if it passed: a shared prefix must give the logits of whole prompts."""
        import torch

        from palate.train.probe import TOLERANCE

        weight = self.model.get_input_embeddings().weight
        draw = np.random.default_rng(5)
        prefix, *rests = (draw.integers(0, weight.shape[0], n).tolist() for n in (9, 7, 4, 4, 1))
        whole = self._logits([[*prefix, *rest] for rest in rests])
        shared = torch.empty_like(whole)
        try:
            for rows, logits in self._behind(prefix, rests):
                shared[rows] = logits
        except (WorkError, RuntimeError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
            return (str(error).strip() or type(error).__name__).splitlines()[0]
        difference = float((shared - whole).abs().mean() / whole.std())
        tolerance, _ = TOLERANCE["float32" if weight.dtype == torch.float32 else "other"]
        if difference <= tolerance:
            return None
        return f"with a shared prefix its logits differ by {difference:.2g} standard deviations from whole prompts'"


def chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows in chunks of at most CHUNK tokens with padding, or of one row; the longest rows first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, CHUNK // lengths[order[start]])
        yield order[start : start + size]
        start += size


@contextmanager
def _memory(hint: str) -> Iterator[None]:
    """Turn a lack of memory into a `WorkError` with a hint."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise WorkError(f"out of memory with {hint}") from error


@contextmanager
def _one_row_each(model: Any, last: Any, head: dict[int, Any] | None) -> Iterator[None]:
    """Compute only the logits at position `last` (n,) of each row: (n, 1, vocabulary), float32."""
    import torch

    from palate.models.logits import exact_logits

    def pick(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        rows = torch.arange(len(last), device=inputs[0].device)
        return (inputs[0][rows, last.to(rows.device)][:, None], *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        with exact_logits(model, head):
            yield
    finally:
        hook.remove()
