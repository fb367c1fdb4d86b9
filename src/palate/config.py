"""The config: one YAML file for a recipe, validated before a stage runs.

Each section has the options of one stage. A wrong key or value raises an `InputError` with file and line; the error
suggests the most similar key. `--set section.key=value` overrides the file.
"""

import codecs
import datetime
import difflib
import json
import os
import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from palate.ablations import ABLATIONS
from palate.errors import InputError
from palate.prompt.spec import PromptSpec
from palate.prompt.template import DATE
from palate.ratings.archives import ARCHIVES
from palate.ratings.database import is_url
from palate.store.artifacts import atomic_file
from palate.store.places import has_scheme
from palate.validation import expected_of, nearest, place_of

SHARING = ("left", "history", "error")
"""The truncations with which several targets of a prompt can share its history."""
INPUTS = (
    *(("ratings", "source"), ("ratings", "items"), ("ratings", "users")),
    *(("model", "base"), ("tokens", "tokenizer"), ("text", "encoder")),
)
"""The keys whose value may be the path of an input."""
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxlong = 3, 20, 20, 200, 200
_DEPTH = 4

if TYPE_CHECKING:
    AblationName = str
else:
    AblationName = Literal[tuple(ABLATIONS)]


class Section(BaseModel):
    """A section of the config; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RatingsConfig(Section):
    """Where the ratings come from."""

    source: str | None = None
    """A named dataset (`ml-100k`, `ml-32m`, …), a file, a pattern such as `logs/*.csv`, a folder, a zip or a tar, the
    URL of an object store or a database, or that of a service's store (then with `items`). [Formats](formats.md) lists
    them."""
    also: str | None = None
    """The URL of a service's store, `sqlite:///PATH` or `postgresql://USER@HOST/NAME`, whose ratings follow those of
    `source`; a later rating of the same user and item replaces the earlier one."""
    items: str | None = None
    """The item table; None: found beside the ratings."""
    users: str | None = None
    """A table of users, one row each, whose columns the candidate's line may name: `{user.age}`."""
    columns: dict[Literal["user", "item", "rating", "label", "timestamp", "title", "split"], str] = {}
    """Names of these columns in your tables, if Palate does not recognize them; `item` and `title` also apply to the
    item table, `user` to the table of users."""
    header: list[str] = []
    """Names of the columns of text files without a header; in an option, with commas between them."""
    encoding: str | None = None
    """The encoding of text files, such as `cp1252`; None: UTF-8, or another as the bytes show."""
    order: Literal["time", "file"] = "time"
    """`file`: the files have no times, or none that count, and each user's rows are in order."""
    not_rated: float | None = None
    """A rating that means there is none, such as -1 or 0; such rows are left out and counted."""
    sample_users: int | None = Field(None, ge=1)
    """Keep the ratings of this many users of `source`, drawn with the seed; None: all. For a log that is too large for
    the models and measurements that need it in memory."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating; None: the format's (MovieLens: 0.5 to 5, or 1 to 5; ratings in words: 0 to 1; `8/10`:
    up to 10)."""
    likes: Literal["uniform", "popularity"] | None = None
    """For a log of clicks, purchases or play counts: how the items that a user never took are sampled as dislikes,
    `uniform` among the items that someone had taken by then, or by their `popularity`. With a column of ratings (or
    labels), values above zero are likes. None: the log has ratings."""
    negatives_per_like: int = Field(4, ge=1)
    """Sampled items for each like. Training gains little above 3 to 6 (He et al. 2017, "Neural Collaborative
    Filtering"), and each is one more prompt to train on and to score."""
    bad_rows: Literal["refuse", "skip", "report"] = "refuse"
    """Rows with a missing or unreadable value, a rating outside of the scale, a wrong number of fields, or the user,
    item and time of an earlier row. `refuse`: the first stops the command. `skip`: they are left out and counted by
    reason. `report`: also, `palate prepare` writes them with line and reason to `skipped.csv`."""
    untitled: Literal["refuse", "drop", "id"] = "refuse"
    """Rated items without a title. `refuse`: the first stops the command. `drop`: their ratings are left out and
    counted. `id`: their id is their title."""

    @model_serializer(mode="wrap")
    def _without_usual_rules(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The section; rules that refuse go without, so that reports and configs of other runs stay as they are."""
        usual: dict[str, Any] = {"bad_rows": "refuse", "untitled": "refuse", "header": [], "order": "time"}
        usual |= dict.fromkeys(("also", "users", "encoding", "not_rated", "sample_users", "likes"))
        found = {key: value for key, value in dump(self).items() if key not in usual or value != usual[key]}
        return {key: value for key, value in found.items() if key != "negatives_per_like" or self.likes}

    @field_validator("header", mode="before")
    @classmethod
    def _names(cls, header: object) -> object:
        return [name.strip() for name in header.split(",")] if isinstance(header, str) else header

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, encoding: str | None) -> str | None:
        try:
            if encoding is not None:
                codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"{encoding!r} is no encoding, expected one such as cp1252") from None
        return encoding

    @field_validator("also")
    @classmethod
    def _is_store(cls, also: str | None) -> str | None:
        if also is not None and not is_url(also):
            raise ValueError(f"{also!r} is no store, expected sqlite:///PATH or postgresql://USER@HOST/NAME")
        return also

    @model_validator(mode="after")
    def _likes_are_a_table(self) -> "RatingsConfig":
        if self.likes is not None and self.also is not None:
            raise ValueError("a service's store holds ratings, expected ratings.likes to be null beside it")
        return self


class PrepareConfig(Section):
    """Which ratings become samples, and in which split. The defaults are the guide's."""

    history_len: int = Field(15, ge=1)
    """Rated items that a prompt shows. A user's first sample comes after this many ratings."""
    rating_threshold: float = 4.0
    """A rating of at least this is a Yes."""
    val_ratio: float = Field(0.05, ge=0, lt=1)
    """Share of validation samples: of each user's samples, or of all samples by time."""
    test_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of test samples: of each user's samples, or of all samples by time."""
    split: Literal["user-time", "global-time", "cold-items", "given"] = "user-time"
    """`user-time`: each user's last samples are test. `global-time`: one cutoff in time for all users. `cold-items`: of
    each user's last samples those of items that nothing is learned from. `given`: the tables of `ratings.source` have
    splits, and each of their rows is a sample."""
    cold_share: float = Field(0.2, gt=0, lt=0.5)
    """Under `cold-items`, the share of the rated items that appear in test alone, drawn with the seed; as many others
    appear in validation alone."""
    max_eval: int = Field(150, ge=0)
    """Validation examples in `eval.json`, drawn with the seed."""
    memory: int | None = Field(None, ge=1, exclude=True)
    """Memory for a log of ratings on its way to samples and tokens, such as `8GB` or a number of bytes; null: half of
    the machine's. A larger log is worked on from the disk, with the same result; see docs/formats.md. It belongs to the
    machine, so that no folder records it."""

    @field_validator("memory", mode="before")
    @classmethod
    def _in_bytes(cls, memory: object) -> object:
        if not isinstance(memory, str):
            return memory
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?)B?", memory.strip())
        if found is None:
            raise ValueError(f"{memory!r} is no size, expected one such as 8GB")
        return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))

    @model_serializer(mode="wrap")
    def _without_unused_share(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The section; other splits go without `cold_share`, so that data prepared before stay valid."""
        return {key: value for key, value in dump(self).items() if key != "cold_share" or self.split == "cold-items"}

    @model_validator(mode="after")
    def _leaves_training(self) -> "PrepareConfig":
        if self.val_ratio + self.test_ratio >= 1:
            shares = self.val_ratio + self.test_ratio
            raise ValueError(f"val_ratio + test_ratio is {shares:g}, expected less than 1, to leave some to train on")
        return self


class TokensConfig(Section):
    """How text becomes tokens."""

    tokenizer: str | None = None
    """`qwen3`, `smollm2`, a hub id or a folder; None: the model's tokenizer."""
    cutoff_len: int = Field(1024, ge=8)
    """Longest sequence in tokens."""
    truncation: Literal["left", "right", "middle", "history", "drop", "error"] = "left"
    """What happens to a longer sample. `left`, `right`, `middle`: it loses tokens there (the guide: `left`). `history`:
    it loses its oldest history items and keeps the rest whole (recommended). `drop`: the sample is left out. `error`:
    the command stops."""
    template_date: datetime.date = DATE
    """The date for a chat template that writes today's date; an exported template keeps its own date."""
    num_proc: int | None = Field(None, ge=1)
    """No effect: one process composes the tokens. The guide's commands set it."""


class ModelConfig(Section):
    """The base model."""

    base: str = "Qwen/Qwen3-0.6B"
    """`smollm2-135m`, a hub id, a folder or a GGUF file."""
    revision: str | None = None
    """A hub commit, also for a tokenizer of the same repository; None: the commit that the adapter records, else the
    newest."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 if the device computes fast in it, else float32."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: QLoRA, the base model in 4 bits with double quantization."""
    attn_implementation: str | None = None
    """Passed to transformers (`sdpa`, `eager`, `flash_attention_2`); None: transformers chooses."""


Teacher = Literal[
    "online", "online-then", "item-knn", "item-knn-then", "logistic", "logistic-knn", "logistic-then",
    "logistic-knn-then", "lightgbm-prompt", "lightgbm-item",
    "lightgbm-then", "lightgbm", "strongest-then", "strongest", "corrected", "text", "logistic-text", "strongest-text",
    "corrected-text",
]  # fmt: skip
"""Keys of baselines that can teach, or be corrected; see `palate.baselines.registry`."""
LEARN_LIKES = ("logistic-knn", "lightgbm-then", "lightgbm", "text", "logistic-text")
"""Those that have something to learn from a log of likes."""
READS_TEXT = ("text", "logistic-text", "strongest-text", "corrected-text")
"""Those that read the items' text."""


class TextConfig(Section):
    """Vectors of the items' text, as features of the classical models."""

    encoder: str | None = None
    """What turns text into vectors: `minilm`, `base` (the hidden states of `model.base`), a hub id or a folder of a
    sentence-transformers model, a plain encoder or a causal language model; None: no vectors."""
    columns: list[str] | None = Field(None, min_length=1)
    """Columns of the item table in an item's text: the first, then the others in parentheses. None: the title, then
    genres, category or categories, whichever comes first."""
    layer: int | None = Field(None, ge=0)
    """The hidden state of a causal language model, from 0, the embeddings; None: four fifths of its layers."""


class LoraConfig(Section):
    """The LoRA adapter."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale: the adapter's output is multiplied by `alpha` / `r`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input. Above 0, each layer keeps a copy of its input and a mask; without it, layers that
    read the same tensor share it, and several devices train what one does."""
    target_modules: str | list[str] = "all-linear"
    """The layers with an adapter, as PEFT names them."""


class TrainConfig(Section):
    """How the model is trained; the names are those of transformers' Trainer."""

    method: Literal["lora", "full"] = "lora"
    """`lora`: a low-rank adapter. `full`: all weights of the layers, at about twenty bytes of memory for each."""
    max_samples: int | None = Field(None, ge=1)
    """Train on this many samples, drawn with the seed and stratified by the answer; None: all."""
    draw_by: Literal["prompt", "sample", "user"] = "prompt"
    """The unit that `max_samples` draws: prompts with all their targets, single samples, or all samples of a user."""
    targets_per_prompt: int = Field(1, ge=1)
    """Consecutive samples of a user that share one prompt, likes with their negatives; the model computes their history
    once."""
    tokens_per_batch: int | None = Field(None, ge=8)
    """Maximum number of tokens in a forward pass on a device; a longer prompt is split. None: `batch_size` times the
    longest sequence, or a whole prompt if that is more."""
    attention: Literal["auto", "varlen", "flex", "segments", "mask", "padded"] = "auto"
    """How attention separates the targets of a prompt; `auto`: the first implementation that passes a test before
    training."""
    kernels: Literal["auto", "none", "compile"] = "auto"
    """`compile`: PyTorch compiles what each layer computes beside matrix products and attention into few kernels, in a
    minute or two. `auto`: so on CUDA for runs of 200 steps or more. Kernels that fail a test before training are not
    used."""
    train_on: Literal["response", "answer"] = "response"
    """The tokens with a loss: the whole response, or the answer token alone."""
    teacher: Teacher | None = None
    """A baseline whose probabilities the model learns instead of the answers. Each comes from a fit on other users."""
    unrated: int = Field(0, ge=0)
    """Items that the user never rated, for each training sample: with its history, and the teacher's probability as
    target. They are drawn by popularity with the config's `seed`, on top of `max_samples`. Needs `teacher`."""
    offset: Teacher | None = None
    """A baseline whose logit the model corrects: P(like) is of the sum of both. Each sample's logit comes from a fit on
    other users. Needs `train_on: answer`."""
    ranking_weight: float = Field(0.0, ge=0)
    """Weight of a pairwise ranking loss over the liked and disliked targets of a prompt; needs `targets_per_prompt`
    above 1."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the samples."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps; None: after `epochs`."""
    batch_size: int = Field(8, ge=1)
    """Samples in a forward pass if all had the longest length; passes are packed without padding."""
    gradient_accumulation: int = Field(2, ge=1)
    """An optimizer step has `batch_size` × `gradient_accumulation` samples, on any number of devices."""
    tokens_per_step: int | None = Field(None, ge=8)
    """Tokens through the model in an optimizer step on all devices together, in place of a number of samples: with
    many targets a prompt, that number would be few tokens. `learning_rate` stays that of `batch_size` ×
    `gradient_accumulation` samples; it is multiplied by the square root of how many times as many a step has."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    scheduler: str = "cosine"
    """Learning-rate schedule, as transformers names it."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the optimizer."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The trainer clips gradients to this norm."""
    gradient_checkpointing: bool | Literal["selective", "auto"] = "auto"
    """`true` needs the least memory and a third more compute. `selective` keeps matrix products and attention and
    computes the rest again. `auto`: on CUDA the first of `false`, `selective` and `true` that fits by the estimate of
    `palate plan`, elsewhere `false`."""
    optimizer: str = "adamw_torch"
    """Optimizer, as transformers names it."""
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    """Decay of AdamW's mean of squared gradients; in a run of few steps, 0.95 sooner forgets the first, large ones."""
    logging_steps: int = Field(10, ge=1)
    """Steps between two lines of `training_log.jsonl`; the result does not depend on it."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations of loss and AUC on `eval.json`; None: one evaluation at the end."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the adapter: the `last`, or those of the `best` AUC on `eval.json`."""
    early_stopping: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better AUC on `eval.json`, and keep the best."""
    save_steps: int = Field(200, ge=1)
    """Steps between two checkpoints; the result does not depend on it."""
    save_total_limit: int = Field(2, ge=1)
    """Checkpoints to keep."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of initial weights, drawn samples, their order and dropout; None: the config's `seed`. The data always use
    the config's `seed`."""
    seeds: int = Field(1, ge=1)
    """Train with this many consecutive seeds from `seed`, in `seeds/SEED`, and report their spread in `seeds.json`. The
    run scores the adapter of the first seed only."""
    report_to: list[str] = []
    """Trackers, as transformers names them: `trackio`, `mlflow`, `wandb`, `tensorboard`."""
    lora: LoraConfig = LoraConfig()

    def decisive(self) -> dict[str, Any]:
        """The options, except the seed, that decide the trained weights.

        Options for logging and saving do not, nor do those that trade memory for time: the number of passes changes a
        step's loss only by rounding and by the positions of dropout. So a run that ran out of memory can resume with
        smaller passes. One exception: with `ranking_weight`, a prompt that `tokens_per_batch` splits loses the pairs
        between its parts.
        """
        logs = {"logging_steps", "save_steps", "save_total_limit", "report_to"}
        evaluations = set() if self.looks_for_best else {"eval_steps", "keep", "early_stopping"}
        memory = {"tokens_per_batch", "attention", "kernels", "gradient_checkpointing"}
        memory |= {"batch_size", "gradient_accumulation"}
        unused = {"seed", "seeds"} if self.unrated else {"seed", "seeds", "unrated"}  # so older runs stay valid
        options = self.model_dump(mode="json", exclude=unused | logs | evaluations | memory)
        return options | {"samples_per_step": self.samples_per_step}

    @property
    def recomputes(self) -> Literal["nothing", "selected", "layers"]:
        """What gradient checkpointing computes again; `auto` counts as nothing."""
        if self.gradient_checkpointing == "selective":
            return "selected"
        return "layers" if self.gradient_checkpointing is True else "nothing"

    @property
    def samples_per_step(self) -> int:
        """Samples in an optimizer step over all devices."""
        return self.batch_size * self.gradient_accumulation

    @property
    def looks_for_best(self) -> bool:
        """Whether the evaluations during training decide which weights are kept."""
        return self.keep == "best" or self.early_stopping is not None

    @model_validator(mode="after")
    def _is_evaluated(self) -> "TrainConfig":
        if self.looks_for_best and self.eval_steps is None:
            raise ValueError("keep=best and early_stopping need the AUC during training, expected eval_steps to be set")
        return self

    @model_validator(mode="after")
    def _corrects_answers(self) -> "TrainConfig":
        if self.offset is None:
            return self
        if self.teacher is not None:
            raise ValueError("offset corrects a baseline, teacher imitates one, expected one of them")
        if self.train_on != "answer":
            raise ValueError(f"offset trains the answer's two logits, expected train_on=answer, not {self.train_on}")
        return self

    @model_validator(mode="after")
    def _labels_unrated_pairs(self) -> "TrainConfig":
        if self.unrated and self.teacher is None:
            raise ValueError(
                f"unrated={self.unrated} adds items that only a teacher labels, expected a baseline as teacher, or 0"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_rank(self) -> "TrainConfig":
        if self.ranking_weight and self.targets_per_prompt == 1:
            raise ValueError("ranking_weight compares the targets of a prompt, expected targets_per_prompt above 1")
        return self


class ScoreConfig(Section):
    """The source of the scores, and their calibration."""

    calibration: Literal["auto", "none", "temperature", "platt", "isotonic"] = "auto"
    """How P(like) is calibrated; `auto`: the best method on users left out of the fit."""
    stack: bool = False
    """Add rows that combine the logit with item, user and history statistics, these statistics alone, and the logit
    with the best baseline."""
    server: str | None = None
    """An OpenAI-compatible server that returns log-probabilities, such as http://localhost:8000, instead of a local
    model. `$PALATE_SERVER_KEY` holds its API key."""
    served_model: str | None = None
    """The server's name of the base with the adapter: a LoRA module, or a merged model."""
    served_base: str | None = None
    """The server's name of the base model."""
    in_flight: int = Field(8, ge=1)
    """Concurrent requests to the server."""

    @field_validator("server")
    @classmethod
    def _is_address(cls, server: str | None) -> str | None:
        if server is None:
            return None
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{server!r} is not a server's address, expected one such as http://localhost:8000")
        return server.rstrip("/").removesuffix("/v1")


class EngineConfig(Section):
    """Where samples, tokens, training and scores are computed; no result depends on it, and no run keeps it."""

    name: Literal["local", "ray"] = "local"
    """`ray`: on the GPUs of a Ray cluster, or on its nodes' CPUs where it has no GPU."""
    address: str | None = None
    """HOST:PORT of the cluster; None: this machine's, or a new one on it."""
    workers: int | None = Field(None, ge=1)
    """Processes, each with a copy of the model; None: as many as the cluster has room for, one to train or serve."""
    cpus: int | None = Field(None, ge=1)
    """CPUs of a process on a cluster without GPUs; None: those of its smallest node. Tokens and samples take one."""


class EvaluateConfig(Section):
    """The samples to score, and the contents of the report."""

    split: Literal["train", "val", "test"] = "test"
    """The samples to measure; calibration and stacking always fit on `val`."""
    max_samples: int | None = Field(None, ge=1)
    """Score this many samples, drawn with the seed; None: all."""
    calibration_samples: int = Field(1000, ge=0)
    """Validation samples for calibration and stacking, drawn with the seed; all if there are fewer, none if fewer than
    20."""
    ablations: list[AblationName] = []
    """Also score with less in the prompt: titles hidden, the history shuffled or emptied, ratings hidden."""
    batch_size: int = Field(16, ge=1)
    """Prompts in a forward pass."""
    zero_shot: bool = True
    """Also score the base model, as the row to beat."""
    baselines: Literal["all", "quick"] = "all"
    """`quick`: the means, which cost nothing. `all`: the learned models, too: 15 to 30 s of one core for 100,000
    ratings."""
    bootstrap: int = Field(1000, ge=0)
    """Resamples of users for the intervals."""
    rank_users: int = Field(0, ge=0)
    """Users, drawn with the seed, for whom the model and every baseline rank the whole catalogue: as many prompts as
    there are items for each. 0: only the quick baselines rank."""
    candidates: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Ranked items: all that a user had not rated, or this many random ones beside the relevant ones."""
    allow_leaks: bool = False
    """Continue although the leak audit found a fatal leak; metrics and report show it."""


class Config(Section):
    """A recipe: everything that a run needs to know."""

    name: str = "palate"
    """Name of the run, and of its folder `runs/NAME`."""
    data_dir: str | None = None
    """Folder of the prepared data; None: `data` in the run's folder."""
    run_dir: str | None = None
    """Folder of the results; None: `runs/NAME`."""
    seed: int = Field(13, ge=0, lt=2**32)
    """Seed of every random draw; `train.seed` overrides it for training."""
    ratings: RatingsConfig = RatingsConfig()
    prepare: PrepareConfig = PrepareConfig()
    prompt: PromptSpec = PromptSpec()
    tokens: TokensConfig = TokensConfig()
    model: ModelConfig = ModelConfig()
    text: TextConfig = TextConfig()
    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = Field(EngineConfig(), exclude=True)

    @field_validator("data_dir", "run_dir")
    @classmethod
    def _is_local(cls, path: str | None) -> str | None:
        if path is not None and has_scheme(path):
            raise ValueError(f"{path!r} is a URL, expected a path, or the URL after --out or as the command's argument")
        return path

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if re.fullmatch(r"[\w-][\w.-]*", name) is None:
            raise ValueError(f"{name!r}, expected letters, digits, '_', '-' and '.', without '.' at the start")
        return name

    @model_validator(mode="after")
    def _fits_likes(self) -> "Config":
        """Set the threshold and the history line of a log of likes, unless they are given."""
        if self.ratings.likes is None:
            return self
        if self.prepare.split in ("given", "cold-items"):
            raise ValueError(
                f"ratings.likes samples negatives in a log that is split by time, expected prepare.split user-time or "
                f"global-time, not {self.prepare.split}"
            )
        estimate = self.prompt.estimate if "estimate" in self.prompt.signals else None
        named = {"train.teacher": self.train.teacher, "train.offset": self.train.offset, "prompt.estimate": estimate}
        for option, baseline in named.items():
            if baseline is not None and baseline not in LEARN_LIKES:
                raise ValueError(
                    f"{option}={baseline} learns from differences of ratings, which likes do not have, expected one of "
                    f"{', '.join(LEARN_LIKES)}"
                )
        if self.train.unrated:
            raise ValueError(
                f"train.unrated={self.train.unrated} adds items that the user never took, as the negatives of likes "
                "are, expected 0, and more of these by ratings.negatives_per_like"
            )
        for name, values in (("prepare", {"rating_threshold": 0.5}), ("prompt", {"history_line": "{n}. {title}"})):
            section = getattr(self, name)
            unset = {key: value for key, value in values.items() if key not in section.model_fields_set}
            object.__setattr__(self, name, section.model_copy(update=unset))
        return self

    @model_validator(mode="after")
    def _leaves_a_history_to_share(self) -> "Config":
        if self.train.targets_per_prompt > 1 and self.tokens.truncation not in SHARING:
            raise ValueError(
                f"with tokens.truncation={self.tokens.truncation} the targets of a prompt (train.targets_per_prompt) "
                f"share nothing, expected one of {', '.join(SHARING)}"
            )
        return self

    @model_validator(mode="after")
    def _reads_text(self) -> "Config":
        estimate = self.prompt.estimate if "estimate" in self.prompt.signals else None
        named = {"train.teacher": self.train.teacher, "train.offset": self.train.offset, "prompt.estimate": estimate}
        for option, key in named.items():
            if key in READS_TEXT and self.text.encoder is None:
                raise ValueError(f"{option}={key} reads the items' text, expected text.encoder, such as minilm")
        return self

    @model_validator(mode="after")
    def _estimates_by_a_baseline(self) -> "Config":
        if self.prompt.estimate not in get_args(Teacher):
            raise ValueError(f"prompt.estimate={self.prompt.estimate}, expected one of {', '.join(get_args(Teacher))}")
        return self

    @model_validator(mode="after")
    def _trains_what_can_be_trained(self) -> "Config":
        if self.train.method == "full" and self.model.quantization != "none":
            raise ValueError(
                f"train.method=full trains the base's own weights, which model.quantization={self.model.quantization} "
                "rounds to 4 bits, expected train.method=lora, or model.quantization=none"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused_text(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The config; without vectors of text it goes without that section, as reports of earlier versions do."""
        return {key: value for key, value in dump(self).items() if key != "text" or value["encoder"] is not None}

    @property
    def data_path(self) -> Path:
        """The folder with the prepared data."""
        return Path(self.data_dir) if self.data_dir else self.run_path / "data"

    @property
    def run_path(self) -> Path:
        """The folder with the results."""
        return Path(self.run_dir or f"runs/{self.name}")

    @property
    def train_seed(self) -> int:
        """The seed of training; the data, the splits and the scored rows use `seed`."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer to load: `tokens.tokenizer`, else the model's."""
        return self.tokens.tokenizer or self.model.base


def decisive_options(prepare: PrepareConfig, prompt: PromptSpec, seed: int) -> dict[str, Any]:
    """The options that decide the prepared files, beside the ratings; the manifest holds them."""
    return {"prepare": prepare.model_dump(mode="json"), "prompt": prompt.model_dump(mode="json"), "seed": seed}


class Override(NamedTuple):
    """A value from the command line: its dotted key, the value, and the option that set it (the place of an error)."""

    key: str
    value: Any
    option: str

    @property
    def text(self) -> str:
        """`section.key=value`, which `parse_override` reads as this value."""
        plain = f"{self.key}={self.value}"
        if isinstance(self.value, str) and parse_override(plain).value == self.value:
            return plain
        return f"{self.key}={json.dumps(self.value, ensure_ascii=False)}"


def load_config(path: Path | None = None, overrides: Sequence[Override] = ()) -> Config:
    """Read a YAML config and apply `overrides`.

    A relative path of an input in the file is relative to the file's folder, or to the working folder if nothing is
    there.

    Raises `InputError` for a file that is missing or is not YAML, an unknown key, and a value of the wrong kind. The
    error names file and line, or the option if an override is wrong.
    """
    lines: dict[tuple[str, ...], int] = {}
    values: dict[str, Any] = {}
    if path is not None:
        values, text = read_mapping(path)
        lines = _lines_of(yaml.compose(text, Loader=yaml.SafeLoader))
        _find_inputs(values, path.parent)
    options: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys = tuple(override.key.split("."))
        target = values
        for key in keys[:-1]:
            inner = target.get(key)
            target[key] = inner if isinstance(inner, dict) else {}
            target = target[key]
        target[keys[-1]] = override.value
        options[keys] = override.option
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = _first_of(error.errors())
        loc = tuple(str(part) for part in first["loc"])
        if loc:
            option = next((o for k, o in options.items() if k[: len(loc)] == loc or loc[: len(k)] == k), None)
        else:  # of several sections: the message names the keys
            option = next((o for k, o in options.items() if ".".join(k) in first["msg"]), None)
        if option is not None:
            raise InputError(_explain(first, loc), option) from None
        line = next((lines[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in lines), None)
        raise InputError(_explain(first, loc), path, line) from None


def _find_inputs(values: dict[str, Any], folder: Path) -> None:
    """Replace the relative paths of inputs that exist in the config's folder."""
    if folder == Path():
        return
    for section, key in INPUTS:
        part = values.get(section)
        value = part.get(key) if isinstance(part, dict) else None
        if (
            isinstance(part, dict)
            and isinstance(value, str)
            and value not in ARCHIVES
            and os.path.exists(folder / value)
        ):
            part[key] = str(folder / value)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; errors name the line of a duplicate key, and of a value that Python rejects (2001-99-99).

    PyYAML keeps the last of several equal keys, which YAML forbids.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in ("yes", "no"):  # keys of prompt: YAML 1.1 reads them, and the answer Yes, as booleans
                for word in (key, value):
                    word.tag = "tag:yaml.org,2002:str" if word.tag.endswith(":bool") else word.tag
            name = (key.tag, key.value)
            if name in lines:
                problem = f"line {lines[name]} has the same key {key.value!r}, expected it once"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and (problem := _invalid_character(node.value)):
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{_short(node.value)}: {error}", node.start_mark
            ) from None


def _invalid_character(value: str) -> str | None:
    """The problem with a value that has a NUL or a surrogate, which neither UTF-8 text nor a file's name can have."""
    found = next((character for character in value if character == "\0" or "\ud800" <= character <= "\udfff"), None)
    return None if found is None else f"has the character {found!r}, which text cannot have"


def read_yaml(text: str, path: Path | str) -> Any:
    """The value of a YAML document; raises `InputError` with the line of the problem."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"is not YAML: {problem}", path, mark.line + 1 if mark else None) from None
    except RecursionError:
        raise InputError("is nested too deeply, expected sections and their keys", path) from None


def read_mapping(path: Path) -> tuple[dict[str, Any], str]:
    """The keys and values of a YAML file, and its text; raises `InputError` for a file that is something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}, expected a YAML file", path) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text, expected YAML", path) from None
    values = read_yaml(text, path) or {}
    if not isinstance(values, dict):
        raise InputError(f"is {_short(values)}, expected keys and their values", path, 1)
    return values, text


def _lines_of(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """The line (from 1) of every key of a YAML document, down to `_DEPTH`, since an alias may refer to its parent."""
    lines: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode) and len(prefix) < _DEPTH:
        for key, value in node.value:
            path = (*prefix, str(key.value))
            lines[path] = key.start_mark.line + 1
            lines |= _lines_of(value, path)
    return lines


def _keys(section: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all keys below a section."""
    for name, field in section.model_fields.items():
        yield (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, (*prefix, name))


def _first_of(errors: Sequence[Any]) -> Any:
    """The first validation error; for a value that may be of several types, one error with all of them."""
    first = errors[0]
    at = len(first["loc"]) - 1
    same = [error for error in errors if len(error["loc"]) > at >= 0 and error["loc"][:at] == first["loc"][:at]]
    if not any(str(error["loc"][at]).startswith(("literal[", "list[")) for error in same):
        return first
    expected = " or ".join(dict.fromkeys(expected_of(error) or error["msg"] for error in same))
    return first | {"loc": first["loc"][:at], "type": "literal_error", "ctx": {"expected": expected}}


def _explain(error: Any, loc: tuple[str, ...]) -> str:
    """One validation error in one line."""
    key = ".".join(loc)
    if error["type"] == "extra_forbidden":
        section: Any = Config
        for part in loc[:-1]:
            section = section.model_fields[part].annotation
        elsewhere = [path for path in _keys(Config) if path[-1] == loc[-1]]
        similar = difflib.get_close_matches(loc[-1], section.model_fields, n=1, cutoff=0.5)
        near = elsewhere or [(*loc[:-1], name) for name in similar]
        hint = f"did you mean '{'.'.join(near[0])}'?" if near else f"expected one of: {', '.join(section.model_fields)}"
        return f"unknown key '{key}', {hint}"
    if error["type"] == "value_error":
        return f"'{key}': {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    if loc[-1:] == ("[key]",):  # of a mapping whose keys have names
        return f"unknown key '{'.'.join(loc[:-1])}', expected one of: {expected_of(error)}"
    if error["type"] == "missing":
        return f"'{place_of(error['loc'])}' is missing"
    expected = "keys and their values" if error["type"] in ("model_type", "dict_type") else expected_of(error)
    return (
        f"'{place_of(error['loc'])}' is {_short(error['input'])}, expected {expected or error['msg']}{nearest(error)}"
    )


def _short(value: object) -> str:
    """The first 80 characters of a value's `repr`; aliases of aliases may make that of a whole value endless."""
    shown = json.dumps(value) if value is None or isinstance(value, bool) else _REPR.repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def parse_override(text: str) -> Override:
    """Split `section.key=value`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"{text!r}, expected key=value such as train.learning_rate=1e-4", "--set")
    if problem := _invalid_character(value):
        raise InputError(problem, f"--set {key}")
    try:
        parsed = _number_or(read_yaml(value, "--set"))
    except InputError:
        parsed = value
    # YAML reads `{title}`, a text of a prompt, as a mapping without values.
    if isinstance(parsed, dict) and all(inner is None for inner in parsed.values()):
        parsed = value
    return Override(key, parsed, f"--set {key}")


def _number_or(value: Any) -> Any:
    """The value, or the number that a text such as `1e-4` means, which YAML 1.1 reads as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every key present."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(config: Config, path: Path) -> None:
    """Write the resolved config, atomically."""
    with atomic_file(path) as file:
        file.write(dump_config(config).encode())
