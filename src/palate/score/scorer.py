"""P(like) at the decision token: one forward pass per prompt, no generation; a user's candidates share a prefix."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from palate.config import ModelConfig, TokensConfig
from palate.errors import InputError
from palate.models.adapter import check_same_prompt, load_adapter, read_about, recorded_base, shown_vectors
from palate.models.load import check_vocabulary, load_base_model
from palate.prompt.chat import Chat
from palate.prompt.messages import Message, to_generation_messages
from palate.prompt.spec import PromptSpec
from palate.score.backend import AnswerScores, Backend, Ids, InOrder, OnBatch, scores_of
from palate.score.conversations import Candidate, Item, conversations
from palate.score.local import LocalBackend
from palate.tokens.cut import cut_prompts

__all__ = ["AnswerScores", "Scorer"]


def _ignore(_: int) -> None:
    pass


class Scorer:
    """Scores conversations with a causal language model, with or without an adapter.

    p = exp(z_yes) / (exp(z_yes) + exp(z_no)) for the logits z at the decision token, mass = (exp(z_yes) + exp(z_no)) /
    Σ exp(z), and logit = z_yes − z_no, in float32 from the last hidden state on. With a float32 body, batches and
    shared prefixes agree with single prompts to 1e-5; a bfloat16 body moves p by 0.007 on average and by at most 0.02
    (SmolLM2-135M, 32 prompts of 430 tokens).

    `base` is a name, a path or a hub id (as `model.base` in a config), a loaded model, or a `Backend`; the latter two
    need their `chat`. `adapter` is a folder. Palate's record in that folder sets the prompt, history length, cutoff,
    truncation, number format and quantization of its training. Arguments override the record, except for the prompt,
    which must equal it. Without argument or record, the config's defaults apply and histories keep their length.

    Raises `InputError` if the base or adapter cannot be loaded, if the adapter has no effect or belongs to another
    base, prompt, template or decision token, and if the tokenizer has more ids than the model embeds.
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
        folder = None if adapter is None else Path(adapter)
        about = {} if folder is None else read_about(folder)
        self.prompt = prompt or PromptSpec.model_validate(about.get("prompt", {}))
        """The texts of the prompt and the two answers."""
        self.history_len: int | None = history_len or about.get("history_len")
        """Items shown of a history; None: all."""
        self.cutoff_len: int = cutoff_len or about.get("cutoff_len") or TokensConfig().cutoff_len
        """Maximum tokens of a sequence, answer included."""
        self.truncation: str = truncation or about.get("truncation") or TokensConfig().truncation
        """How longer prompts are cut; see `tokens.truncation` of a config."""
        if isinstance(base, str | Path):
            trained = about.get("base", {})
            config = ModelConfig(
                base=str(base),
                dtype=dtype or trained.get("dtype", "auto"),
                quantization=quantization or ("nf4" if trained.get("quantization") == "nf4" else "none"),
            )
            recorded = about.get("template_date")
            date = datetime.date.fromisoformat(recorded) if recorded else TokensConfig().template_date
            base, tokenizer = load_base_model(recorded_base(config, folder), template_date=date)
            chat = chat or Chat(tokenizer, self.prompt.yes, self.prompt.no)
        if chat is None:
            raise TypeError("a loaded model or a backend needs `chat=` with its tokenizer and answers")
        shown = shown_vectors(folder)
        self.chat = chat if shown is None else chat.with_items(shown["count"])
        """The tokenizer with its template, the two answers, and the item tokens that the adapter knows."""
        self.backend: Backend = base if hasattr(base, "answers_behind") else self._local(base, folder)
        """The model that answers the prompts."""
        self.in_order: InOrder = getattr(self.backend, "in_order", map)
        """How a caller works through parts of a long list: one by one, unless the backend takes several at once."""

    def _local(self, model: Any, adapter: Path | None) -> LocalBackend:
        """A loaded model as a backend, checked."""
        check_vocabulary(model, self.chat.tokenizer)
        if adapter is not None:
            check_same_prompt(adapter, self.chat, self.prompt)
            model = load_adapter(model, adapter)
            _check_first(self.chat, adapter)
        elif self.prompt.names_vectors and self.chat.first_item is None:  # an exported model knows its items
            from palate.models.item_embedding import blank_items

            blank_items(model, int(self.chat.with_items(1).first_item or 0))
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
        """Score Alpaca examples; their `output` has no effect."""
        return self.score([to_generation_messages(example) for example in examples], batch_size)

    def score_ids(self, prompts: Sequence[Ids], batch_size: int = 16, on_batch: OnBatch = _ignore) -> AnswerScores:
        """Score prompts of token ids, in input order; calls `on_batch` with the size of each finished batch.

        A local model computes batches of similar length, the longest first, so that a lack of memory shows at once.
        """
        return scores_of(self.backend.answers_behind((), prompts, batch_size, on_batch))

    def rank(
        self,
        history: Sequence[Item],
        candidates: Sequence[Candidate],
        batch_size: int = 16,
        on_batch: OnBatch = _ignore,
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
        """The token ids that `rank` scores, one prompt per candidate."""
        items = len(history) if self.history_len is None else min(self.history_len, len(history))

        def shorter(rows: Sequence[int], shown: int) -> list[list[int]]:
            chosen = [candidates[n] for n in rows]
            return self.chat.decision_prompts(conversations(self.prompt, history, chosen, shown))

        prompts = shorter(range(len(candidates)), items)
        return cut_prompts(prompts, self.chat, self.cutoff_len, self.truncation, (items, shorter))

    def rank_ids(self, prompts: Sequence[Ids], batch_size: int = 16, on_batch: OnBatch = _ignore) -> AnswerScores:
        """Score prompts of token ids with a common prefix, which the model computes once.

        Returns the scores of `score_ids`, in input order. Only a backend or a model that cannot share a prefix uses
        `batch_size`.
        """
        # Each prompt keeps at least one token behind the prefix: the answer follows it.
        shared = min(common_prefix(list(map(list, prompts))), min(map(len, prompts), default=0) - 1)
        if shared < 1 or len(prompts) == 1:
            return self.score_ids(prompts, batch_size, on_batch)
        rests = [prompt[shared:] for prompt in prompts]
        return scores_of(self.backend.answers_behind(prompts[0][:shared], rests, batch_size, on_batch))


def _check_first(chat: Chat, adapter: Path) -> None:
    """Raise `InputError` if the tokenizer gives item tokens other ids than in the adapter's training."""
    shown = shown_vectors(adapter)
    if shown is not None and chat.first_item != shown["first"]:
        raise InputError(
            f"has item tokens from id {shown['first']}, the tokenizer from {chat.first_item}: expected the same",
            adapter,
        )


def common_prefix(sequences: Sequence[Any]) -> int:
    """Length of the longest common prefix of sequences: texts or lists of ids."""
    if not sequences:
        return 0
    # The lexicographically first and last sequence share exactly the prefix that all share.
    first, last = min(sequences), max(sequences)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
