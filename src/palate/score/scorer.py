"""P(like) at the decision token: one forward pass a prompt, no generation; one prefix for all candidates of a user."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from palate.config import ModelConfig, TokensConfig
from palate.prompt.chat import Chat
from palate.prompt.messages import Message, to_generation_messages
from palate.prompt.spec import PromptSpec
from palate.score.backend import AnswerScores, Backend, Ids, OnBatch, scores_of
from palate.score.conversations import Candidate, Item, conversations
from palate.score.local import LocalBackend
from palate.tokens.cut import cut_prompts

__all__ = ["AnswerScores", "Scorer"]


def _nobody(_: int) -> None:
    """Nobody is told."""


class Scorer:
    """Scores conversations with a causal language model, with or without an adapter.

    p = exp(z_yes) / (exp(z_yes) + exp(z_no)) for the logits z at the decision token, mass = (exp(z_yes) + exp(z_no)) /
    Σ exp(z), and logit = z_yes − z_no. All are computed in float32 from the last hidden state on. In float32 batches
    and shared prefixes agree with single prompts to 1e-5; a body in bfloat16 moves p by 0.007 on average and 0.02 at
    most (SmolLM2-135M, 32 prompts of 430 tokens).

    `base` is a name, a path or a hub id (as `model.base` in a config), a model that is loaded, or a `Backend`; with the
    latter two comes the `chat` that belongs to them. `adapter` is a folder. What Palate wrote beside an adapter says
    the prompt, the length of histories, cutoff and truncation, the number format and the quantization that it was
    trained with; arguments take precedence where they may differ, and the prompt may not. Without either, the defaults
    of a config hold, and a history is as long as it is given.

    Raises `InputError` for what cannot be loaded, an adapter that does not take effect, of another base or with
    another prompt, template or decision token, and a tokenizer with more ids than the model embeds.
    """

    def __init__(
        self,
        base: Any,
        adapter: str | Path | None = None,
        *,
        chat: Chat | None = None,
        prompt: PromptSpec | None = None,
        history_len: int | None = None,
        cutoff_len: int | None = None,
        truncation: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] | None = None,
        quantization: Literal["none", "nf4"] | None = None,
    ) -> None:
        from palate.models.adapter import read_about, recorded_base
        from palate.models.load import load_base_model

        folder = None if adapter is None else Path(adapter)
        about = {} if folder is None else read_about(folder)
        self.prompt = prompt or PromptSpec.model_validate(about.get("prompt", {}))
        """What conversations say, and which answers are asked for."""
        self.history_len: int | None = history_len or about.get("history_len")
        """Items of a history; None: all that are given."""
        self.cutoff_len: int = cutoff_len or about.get("cutoff_len") or TokensConfig().cutoff_len
        """Tokens of a sequence with its answer."""
        self.truncation: str = truncation or about.get("truncation") or TokensConfig().truncation
        """What longer prompts lose, as `tokens.truncation` says."""
        if isinstance(base, str | Path):
            trained = about.get("base", {})
            config = ModelConfig(
                base=str(base),
                dtype=dtype or trained.get("dtype", "auto"),
                quantization=quantization or ("nf4" if trained.get("quantization") == "nf4" else "none"),
            )
            recorded = about.get("template_date")
            today = datetime.date.fromisoformat(recorded) if recorded else TokensConfig().template_date
            base, tokenizer = load_base_model(recorded_base(config, folder), template_date=today)
            chat = chat or Chat(tokenizer, self.prompt.yes, self.prompt.no)
        if chat is None:
            raise TypeError("a loaded model or a backend needs `chat=`, the tokenizer and answers that belong to it")
        self.chat = chat
        """The tokenizer with its template and the two answers."""
        self.backend: Backend = base if hasattr(base, "answers_behind") else self._local(base, folder)
        """What answers the prompts."""

    def _local(self, model: Any, adapter: Path | None) -> LocalBackend:
        """A loaded model as a backend, checked."""
        from palate.models.adapter import check_same_prompt, load_adapter
        from palate.models.load import check_vocabulary

        check_vocabulary(model, self.chat.tokenizer)
        if adapter is not None:
            check_same_prompt(adapter, self.chat, self.prompt)
            model = load_adapter(model, adapter)
        return LocalBackend(model, self.chat.decision.yes_id, self.chat.decision.no_id)

    @property
    def model(self) -> Any:
        """The model of a local backend."""
        assert isinstance(self.backend, LocalBackend)
        return self.backend.model

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """The token ids before the decision token, cut as in training.

        Raises `InputError` for one that is too long with the truncation `history`: a conversation has no items to drop.
        """
        return cut_prompts(self.chat.decision_prompts(conversations), self.chat, self.cutoff_len, self.truncation)

    def score(self, conversations: Sequence[Sequence[Message]], batch_size: int = 16) -> AnswerScores:
        """Score conversations that end with the user's turn, in their order."""
        return self.score_ids(self.prompts(conversations), batch_size)

    def score_examples(self, examples: Sequence[Mapping[str, Any]], batch_size: int = 16) -> AnswerScores:
        """Score Alpaca examples; their `output` is not looked at."""
        return self.score([to_generation_messages(example) for example in examples], batch_size)

    def score_ids(self, prompts: Sequence[Ids], batch_size: int = 16, on_batch: OnBatch = _nobody) -> AnswerScores:
        """Score prompts given as token ids; `on_batch` is told how many, each time that some are done.

        A model that is loaded here takes them in batches of like length, the longest first: if memory runs out, it
        does so at once.
        """
        return scores_of(self.backend.answers_behind((), prompts, batch_size, on_batch))

    def rank(
        self,
        history: Sequence[Item],
        candidates: Sequence[Candidate],
        batch_size: int = 16,
        on_batch: OnBatch = _nobody,
    ) -> AnswerScores:
        """Score what a user with this history thinks of each candidate, in the order of the candidates.

        `history` is oldest first, of mappings with `title`, `rating` and whatever else the prompt names; of a history
        longer than in training the last items are shown. `candidates` are titles, or mappings with what the prompt
        names. They are put into words as in training.

        Each prompt longer than the cutoff is cut by itself, as a sample of its own is in training and scoring. Raises
        `InputError` for one that may not be cut, and for an item that lacks what the prompt names.
        """
        return self.rank_ids(self.rank_prompts(history, candidates), batch_size, on_batch)

    def rank_prompts(self, history: Sequence[Item], candidates: Sequence[Candidate]) -> list[list[int]]:
        """The token ids that `rank` scores, a prompt a candidate."""
        items = len(history) if self.history_len is None else min(self.history_len, len(history))

        def shorter(rows: Sequence[int], shown: int) -> list[list[int]]:
            some = [candidates[n] for n in rows]
            return self.chat.decision_prompts(conversations(self.prompt, history, some, shown))

        prompts = shorter(range(len(candidates)), items)
        return cut_prompts(prompts, self.chat, self.cutoff_len, self.truncation, (items, shorter))

    def rank_ids(self, prompts: Sequence[Ids], batch_size: int = 16, on_batch: OnBatch = _nobody) -> AnswerScores:
        """Score prompts that begin alike, given as token ids: what they share is computed once.

        The scores are those of `score_ids`, in the order of the prompts; `batch_size` is for a backend or a model that
        cannot share a prefix.
        """
        # Each is left a token of its own, behind which it is answered.
        shared = min(_common_prefix(list(map(list, prompts))), min(map(len, prompts), default=0) - 1)
        if shared < 1 or len(prompts) == 1:
            return self.score_ids(prompts, batch_size, on_batch)
        rests = [prompt[shared:] for prompt in prompts]
        return scores_of(self.backend.answers_behind(prompts[0][:shared], rests, batch_size, on_batch))


def _common_prefix(sequences: Sequence[Any]) -> int:
    """How long the beginning is that all sequences, texts or lists of ids, have in common."""
    if not sequences:
        return 0
    # In the order of the alphabet the first and the last have in common what all have.
    first, last = min(sequences), max(sequences)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
