"""P(like) at the decision token: one forward pass a prompt, no generation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from palate.errors import WorkError
from palate.prompt.chat import Chat
from palate.prompt.messages import Message, to_generation_messages
from palate.score.backend import Scores


@dataclass(frozen=True)
class Scorer:
    """Scores conversations with a causal language model, with or without an adapter.

    p = exp(z_yes) / (exp(z_yes) + exp(z_no)) for the logits z at the decision token, and
    mass = (exp(z_yes) + exp(z_no)) / Σ exp(z). Both are computed in float32 from the last hidden state on.
    In float32 batches agree with single prompts to 1e-5; a body in bfloat16 moves p by 0.007 on average and
    0.02 at most (SmolLM2-135M, 32 prompts of 430 tokens). A prompt that training would have cut is cut in
    the same place: the sequence with its answer keeps its last `cutoff_len` tokens.
    """

    model: Any
    chat: Chat
    cutoff_len: int

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """The token ids before the decision token, cut on the left as in training."""
        keep = self.cutoff_len - 1 - len(self.chat.decision.tail)
        return [ids[-keep:] for ids in self.chat.decision_prompts(conversations)]

    def score(self, conversations: Sequence[Sequence[Message]], batch_size: int = 16) -> Scores:
        """Score conversations that end with the user's turn, in their order."""
        return self.score_ids(self.prompts(conversations), batch_size)

    def score_examples(self, examples: Sequence[Mapping[str, Any]], batch_size: int = 16) -> Scores:
        """Score Alpaca examples; their `output` is not looked at."""
        return self.score([to_generation_messages(example) for example in examples], batch_size)

    def score_ids(
        self,
        prompts: Sequence[Sequence[int]],
        batch_size: int = 16,
        on_batch: Callable[[int], None] = lambda n: None,
    ) -> Scores:
        """Score prompts given as token ids, in batches of like length; `on_batch` is told each batch's size.

        The longest come first: if memory runs out, it does so at once.
        """
        scores = Scores(*np.empty((3, len(prompts)), np.float32))
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for column, found in zip(scores, self._forward([prompts[i] for i in rows]), strict=True):
                column[rows] = found
            on_batch(len(rows))
        return scores

    def _forward(self, prompts: Sequence[Sequence[int]]) -> Scores:
        """One batch. Padding is on the right, where a causal model cannot see it: no mask, no shifted positions."""
        import torch

        last = torch.tensor([len(ids) - 1 for ids in prompts])
        ids = torch.zeros(len(prompts), int(last.max()) + 1, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        at, place = last.unique(return_inverse=True)
        where = self.model.device
        self.model.eval()
        try:
            with torch.inference_mode(), _head_in_float32(self.model):
                every = self.model(input_ids=ids.to(where), logits_to_keep=at.to(where), use_cache=False).logits
                logits = every[torch.arange(len(prompts)), place].float()
                answers = logits[:, [self.chat.decision.yes_id, self.chat.decision.no_id]]
                mass = (answers.logsumexp(-1) - logits.logsumexp(-1)).exp()
                p, logit = answers.softmax(-1)[:, 0], answers[:, 0] - answers[:, 1]
        except torch.OutOfMemoryError as error:
            raise WorkError(
                f"out of memory with {len(prompts)} prompts of {ids.shape[1]} tokens, try a smaller evaluate.batch_size"
            ) from error
        if not (logit.isfinite() & mass.isfinite()).all():
            raise WorkError("the model's logits are not finite, try model.dtype=float32")
        return Scores(*torch.stack([p, mass, logit]).cpu().numpy())


@contextmanager
def _head_in_float32(model: Any) -> Iterator[None]:
    """Project onto the vocabulary in float32 while the body stays as it is.

    A logit of 20 has steps of 0.125 in bfloat16: SmolLM2-135M gave 6 distinct probabilities to 32 prompts,
    and 32 with this. The model's own scaling of its logits still applies.
    """
    import torch
    from torch.nn.functional import linear

    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return

    def project(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        hidden = inputs[0].float()
        rows = module.weight.split(16_384)  # the whole vocabulary in float32 would be 2.5 GB for Qwen3-8B
        with torch.autocast(hidden.device.type, enabled=False):
            logits = torch.cat([linear(hidden, part.float()) for part in rows], dim=-1)
        return logits if module.bias is None else logits + module.bias.float()

    handle = head.register_forward_hook(project)
    try:
        yield
    finally:
        handle.remove()
