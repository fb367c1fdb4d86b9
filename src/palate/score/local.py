"""Score prompts with a transformers model in this process: one forward pass, no generation."""

import copy
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.errors import InputError, WorkError
from palate.models.logits import exact_logits
from palate.score.backend import Floats, Ids, OnBatch

if TYPE_CHECKING:
    from palate.score.prefix import Behind, Prefix, Prefixes

log = logging.getLogger(__name__)

CHUNK = 1024
"""Tokens of blocks per forward pass behind a prefix; the pass's memory grows with it."""
ON_GPU = 8
"""Times as many tokens in a pass on a GPU: its products need some thousand rows (an estimate, no GPU was measured)."""


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

    others: Sequence["LocalBackend"] = field(default=(), repr=False)
    """The same model on further devices; they share the passes of `answers_behind`."""

    def on(self, devices: Sequence[Any]) -> "LocalBackend":
        """The backend with copies of its model on further torch devices."""
        if devices:
            log.info("computing on %d devices", 1 + len(devices))
        copies = [copy.deepcopy(self.model).to(device) for device in devices]
        return replace(self, others=[replace(self, model=each, head=None) for each in copies])

    def answers(self, prompts: Sequence[Ids]) -> Floats:
        """Answer one batch, padded on the right: causal attention needs no mask for that, and positions stay."""
        return self.answers_behind((), prompts, max(1, len(prompts)), lambda n: None)

    def answers_behind(self, prefix: Ids, rests: Sequence[Ids], batch_size: int, on_batch: OnBatch) -> Floats:
        """See `Backend`: computes the prefix once on each device, then the rests in passes of about CHUNK tokens.

        Without a prefix, and if the model cannot share one exactly, which it logs, it computes whole prompts in
        batches. The longest come first, so that a lack of memory shows at once: such a pass is computed in two halves.
        The number of devices changes no pass, and so no score.
        """
        reason = self.reason(len(prefix) + max(map(len, rests), default=0)) if prefix else None
        if reason is not None:
            log.warning("computing each prompt whole: %s", reason)
            prefix, rests = (), [[*prefix, *rest] for rest in rests]
        lengths = [len(rest) for rest in rests]
        if 0 in lengths:
            raise InputError(
                "has no tokens, expected at least one that the answer follows", f"prompt {lengths.index(0) + 1}"
            )
        waiting = deque(chunks(lengths, CHUNK * self.times) if prefix else in_batches(lengths, batch_size))
        found, lock = np.empty((len(rests), 2), np.float32), Lock()

        def work(backend: LocalBackend) -> None:
            for rows, log_p in backend._passes(prefix, rests, waiting):
                found[rows] = log_p
                with lock:
                    on_batch(len(rows))

        backends = [self, *self.others][: max(1, len(waiting))]
        if len(backends) == 1:
            work(self)
            return found
        with ThreadPoolExecutor(len(backends)) as pool:
            try:
                list(pool.map(work, backends))
            finally:
                waiting.clear()  # the others end after an error of one
        return found

    @property
    def times(self) -> int:
        """Times as many tokens in a pass as on a processor."""
        return ON_GPU if self.model.device.type == "cuda" else 1

    def _passes(
        self, prefix: Ids, rests: Sequence[Ids], waiting: deque[list[int]]
    ) -> Iterator[tuple[list[int], Floats]]:
        """Take passes from `waiting` and compute them: their rows, and the answers, (rows, 2)."""
        import torch

        from palate.score.prefix import shared_prefix

        with shared_prefix(self.model) if prefix else nullcontext():
            shared = None
            while waiting:
                try:
                    rows = waiting.popleft()
                except IndexError:  # another device was faster
                    return
                try:
                    if prefix and shared is None:
                        (shared,) = self._prefixes([prefix])
                    before = None if shared is None else [(shared, len(rows))]
                    log_p = self._log_p(self._logits([rests[row] for row in rows], before))
                except torch.OutOfMemoryError as error:
                    size = f"{len(rows)} prompts of {len(prefix) + max(len(rests[row]) for row in rows)} tokens"
                    if len(rows) == 1 or (prefix and shared is None):
                        raise WorkError(f"out of memory with {size.removeprefix('1 ')}") from error
                    log.warning("out of memory with %s: computing them in two halves", size)
                    waiting.extendleft([rows[len(rows) // 2 :], rows[: len(rows) // 2]])
                    continue
                yield rows, log_p

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
        if self.model.training:  # to walk through all modules takes as long as some layers
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

        from palate.score.prefix import shared_prefix
        from palate.train.probe import TOLERANCE

        weight = self.model.get_input_embeddings().weight
        draw = np.random.default_rng(5)
        prefix, *rests = (draw.integers(0, weight.shape[0], n).tolist() for n in (9, 7, 4, 4, 1))
        whole = self._logits([[*prefix, *rest] for rest in rests])
        try:
            with shared_prefix(self.model):
                before = [(self._prefixes([prefix])[0], len(rests))]
                shared = self._logits(rests, before)
        except (WorkError, RuntimeError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
            return (str(error).strip() or type(error).__name__).splitlines()[0]
        difference = float((shared - whole).abs().mean() / whole.std())
        tolerance, _ = TOLERANCE["float32" if weight.dtype == torch.float32 else "other"]
        if difference <= tolerance:
            return None
        return f"with a shared prefix its logits differ by {difference:.2g} standard deviations from whole prompts'"


def other_gpus() -> list[Any]:
    """The GPUs beside the current one; none in a process that is one of several."""
    import torch

    if not torch.cuda.is_available() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return []
    own = torch.cuda.current_device()
    return [torch.device("cuda", n) for n in range(torch.cuda.device_count()) if n != own]


def in_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Rows in batches of similar length, the longest rows first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def chunks(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows in chunks of at most `tokens` with padding, or of one row; the longest rows first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, tokens // lengths[order[start]])
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

    def pick(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        rows = torch.arange(len(last), device=inputs[0].device)
        return (inputs[0][rows, last.to(rows.device)][:, None], *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        with exact_logits(model, head):
            yield
    finally:
        hook.remove()
