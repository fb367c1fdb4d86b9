"""The config: one YAML file for a recipe, every key checked before anything runs.

Each section is one stage's options. A wrong key or value is an `InputError` with file and line, and the
nearest known key is suggested. `--set section.key=value` overrides what the file says.
"""

import datetime
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from palate.errors import InputError
from palate.prompt.spec import PromptSpec
from palate.prompt.template import DATE
from palate.store.artifacts import atomic_file

SHARING = ("left", "history", "error")
"""The truncations that leave several targets of a prompt a history to share."""


_DEPTH = 4


class Section(BaseModel):
    """A part of the config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RatingsConfig(Section):
    """Where the ratings come from."""

    source: str | None = None
    """A named dataset (`ml-100k`, `ml-32m`, …), a folder, a zip, a CSV or a Parquet file."""
    items: str | None = None
    """The item table; None: found beside the ratings."""
    columns: dict[Literal["user", "item", "rating", "label", "timestamp", "title", "split"], str] = {}
    """Your names of these columns, where they are not the usual ones; `item` and `title` apply to the item table,
    too."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating; None: the format's own (MovieLens: 0.5 to 5, or 1 to 5)."""


class PrepareConfig(Section):
    """Which ratings become samples, and in which split. The defaults are the guide's."""

    history_len: int = Field(15, ge=1)
    """Rated items that a prompt shows, and that a user must have before the first sample."""
    rating_threshold: float = 4.0
    """A rating of at least this is a Yes."""
    val_ratio: float = Field(0.05, ge=0, lt=1)
    """Share of validation samples: of each user's, or of all by time."""
    test_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of test samples, likewise."""
    split: Literal["user-time", "global-time", "given"] = "user-time"
    """`user-time`: each user's last samples are test. `global-time`: one cutoff in time for all users. `given`: the
    tables of `ratings.source` bring their splits, and each of their rows is a sample."""
    max_eval: int = Field(150, ge=0)
    """Validation examples in `eval.json`, drawn with the seed."""

    @model_validator(mode="after")
    def _leaves_training(self) -> "PrepareConfig":
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError("val_ratio + test_ratio must stay below 1, or nothing is left to train on")
        return self


class TokensConfig(Section):
    """How text becomes tokens."""

    tokenizer: str | None = None
    """`qwen3`, `smollm2`, a hub id or a folder; None: the model's own."""
    cutoff_len: int = Field(1024, ge=8)
    """Longest sequence in tokens."""
    truncation: Literal["left", "right", "middle", "history", "drop", "error"] = "left"
    """What a longer sample loses: tokens on the `left` (the guide's way), on the `right` or in the `middle`; its oldest
    `history` items, the rest staying whole (recommended); itself (`drop`). `error` stops the command."""
    template_date: datetime.date = DATE
    """Today's date for a chat template that writes it; a template from an export keeps its own."""
    num_proc: int | None = Field(None, ge=1)
    """Accepted for the guide's commands, without effect: one process composes the tokens."""


class ModelConfig(Section):
    """The base model."""

    base: str = "Qwen/Qwen3-0.6B"
    """`smollm2-135m`, a hub id, a folder or a GGUF file."""
    revision: str | None = None
    """A hub commit, also for a tokenizer of the same repository; None: the one that the adapter records, or the
    newest."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the device computes in it at speed, else float32."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: QLoRA, the base in 4 bits with double quantization."""
    attn_implementation: str | None = None
    """Passed to transformers (`sdpa`, `eager`, `flash_attention_2`); None: its choice."""


class LoraConfig(Section):
    """The adapter."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale of the adapter: its output is multiplied by `alpha` / `r`."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout in front of the adapter."""
    target_modules: str | list[str] = "all-linear"
    """The layers with an adapter."""


class TrainConfig(Section):
    """How the model is trained; the names are those of transformers' Trainer."""

    method: Literal["lora", "full"] = "lora"
    """`lora`: an adapter of low rank. `full`: all weights of the layers, at about twenty bytes of memory each."""
    max_samples: int | None = Field(None, ge=1)
    """Train on this many samples, drawn with the seed and stratified by the answer; None: all."""
    draw_by: Literal["prompt", "sample", "user"] = "prompt"
    """The unit that `max_samples` draws: prompts with all their targets, single samples, or all samples of a user."""
    targets_per_prompt: int = Field(1, ge=1)
    """Consecutive samples of a user behind one history, which is computed once for all of them."""
    tokens_per_batch: int | None = Field(None, ge=8)
    """Most tokens of a forward pass on a device; a longer prompt is split. None: `batch_size` sequences of the longest
    length, or a whole prompt."""
    attention: Literal["auto", "segments", "flex", "mask", "padded"] = "auto"
    """How the targets of a prompt are kept apart; `auto`: the first implementation that passes a probe before
    training."""
    train_on: Literal["response", "answer"] = "response"
    """Which tokens carry the loss: the whole response, or the one token that decides."""
    ranking_weight: float = Field(0.0, ge=0)
    """Weight of a second loss for liked targets that score below disliked ones of the same prompt; needs
    `targets_per_prompt` above 1."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the samples."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps; None: after `epochs`."""
    batch_size: int = Field(8, ge=1)
    """Samples in a forward pass, if all were as long as the longest; passes are packed without padding."""
    gradient_accumulation: int = Field(2, ge=1)
    """An optimizer step has `batch_size` times this many samples, on any number of devices."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    scheduler: str = "cosine"
    """Learning-rate schedule, as transformers names it."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps with a rising learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the optimizer."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    gradient_checkpointing: bool = False
    """Save memory for a third more compute."""
    optimizer: str = "adamw_torch"
    """Optimizer, as transformers names it."""
    logging_steps: int = Field(10, ge=1)
    """Steps between two lines of `training_log.jsonl`; without influence on the result."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations of loss and AUC on `eval.json`; None: at the end only."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the adapter: the `last`, or those of the `best` AUC on `eval.json`."""
    early_stopping: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better AUC on `eval.json`, and keep the best."""
    save_steps: int = Field(200, ge=1)
    """Steps between two checkpoints; without influence on the result."""
    save_total_limit: int = Field(2, ge=1)
    """Checkpoints to keep."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of first weights, drawn samples, their order and dropout; None: the config's `seed`, which the data always
    use."""
    seeds: int = Field(1, ge=1)
    """Train with this many seeds, from `seed` on, in `seeds/SEED`, and report their spread in `seeds.json`. The first
    seed's adapter is the run's, and alone is scored."""
    report_to: list[str] = []
    """Trackers, as transformers names them: `trackio`, `mlflow`, `wandb`, `tensorboard`."""
    lora: LoraConfig = LoraConfig()

    def decisive(self) -> dict[str, Any]:
        """The options that decide what comes out, but for the seed.

        Not those that say how often it is told or saved, nor those that trade memory for time: a step's loss is the
        same, up to rounding and the places of dropout, in however many passes it is computed. A run that ran out of
        memory can go on with less. With `ranking_weight` that is not quite so: a prompt that `tokens_per_batch` splits
        has no pairs between its parts.
        """
        telling = {"logging_steps", "save_steps", "save_total_limit", "report_to"}
        looking = set() if self.looks_for_best else {"eval_steps", "keep", "early_stopping"}
        fitting = {"tokens_per_batch", "attention", "gradient_checkpointing", "batch_size", "gradient_accumulation"}
        options = self.model_dump(mode="json", exclude={"seed", "seeds"} | telling | looking | fitting)
        return options | {"samples_per_step": self.samples_per_step}

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimizer step, on all devices."""
        return self.batch_size * self.gradient_accumulation

    @property
    def looks_for_best(self) -> bool:
        """Whether the evaluations on the way decide what comes out."""
        return self.keep == "best" or self.early_stopping is not None

    @model_validator(mode="after")
    def _is_evaluated(self) -> "TrainConfig":
        if self.looks_for_best and self.eval_steps is None:
            raise ValueError("keep=best and early_stopping look at the AUC on the way, expected eval_steps to be set")
        return self

    @model_validator(mode="after")
    def _has_something_to_rank(self) -> "TrainConfig":
        if self.ranking_weight and self.targets_per_prompt == 1:
            raise ValueError("ranking_weight compares the targets of a prompt, expected targets_per_prompt above 1")
        return self


class ScoreConfig(Section):
    """What computes scores, and how they are calibrated."""

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
            raise ValueError(f"{server!r} is no address of a server, expected one such as http://localhost:8000")
        return server.rstrip("/").removesuffix("/v1")


class EvaluateConfig(Section):
    """Which samples are scored, and what is reported."""

    split: Literal["train", "val", "test"] = "test"
    """The samples to measure; calibration and stacking always fit on `val`."""
    max_samples: int | None = Field(None, ge=1)
    """Score this many samples, drawn with the seed; None: all."""
    calibration_samples: int = Field(1000, ge=0)
    """Validation samples for calibration and stacking, drawn with the seed; all if there are fewer, none if fewer than
    20."""
    ablations: list[Literal["titles", "shuffle", "empty", "ratings"]] = []
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

    name: str = Field("palate", pattern=r"^[\w-][\w.-]*$")
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
    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _leaves_a_history_to_share(self) -> "Config":
        if self.train.targets_per_prompt > 1 and self.tokens.truncation not in SHARING:
            raise ValueError(
                f"with tokens.truncation={self.tokens.truncation} the targets of a prompt (train.targets_per_prompt) "
                f"share nothing, expected one of {', '.join(SHARING)}"
            )
        return self

    @model_validator(mode="after")
    def _trains_what_can_be_trained(self) -> "Config":
        if self.train.method == "full" and self.model.quantization != "none":
            raise ValueError(
                f"train.method=full trains the base's own weights, which model.quantization={self.model.quantization} "
                "rounds to 4 bits, expected lora, or none"
            )
        return self

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
        """The seed of training; that of the data, its splits and the rows to score is `seed`."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer to load: the one that is named, else the model's."""
        return self.tokens.tokenizer or self.model.base


class Override(NamedTuple):
    """A value from the command line: dotted key, value, and the option that set it (the place in an error)."""

    key: str
    value: Any
    option: str


def load_config(path: Path | None = None, overrides: Sequence[Override] = ()) -> Config:
    """Read a YAML config and apply `overrides`.

    Raises `InputError` with file and line for a file that is missing or is not YAML, an unknown key, and
    a value of the wrong kind; with the option as the place where an override is at fault.
    """
    lines: dict[tuple[str, ...], int] = {}
    values: dict[str, Any] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path) from None
        except UnicodeDecodeError:
            raise InputError("is not UTF-8 text, expected YAML", path) from None
        values = read_yaml(text, path) or {}
        if not isinstance(values, dict):
            raise InputError(f"is {type(values).__name__}, expected a mapping of sections", path, 1)
        lines = _lines_of(yaml.compose(text, Loader=yaml.SafeLoader))
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
        first = error.errors()[0]
        loc = tuple(str(part) for part in first["loc"])
        option = next((o for k, o in options.items() if k[: len(loc)] == loc or loc[: len(k)] == k), None)
        if option is not None:
            raise InputError(_explain(first, loc), option) from None
        line = next((lines[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in lines), None)
        raise InputError(_explain(first, loc), path, line) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's, naming the line of a value that Python cannot hold, such as the date 2001-99-99, and of a second key.

    PyYAML itself keeps the last of several equal keys, which YAML forbids.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in ("yes", "no"):  # of prompt: YAML takes them, and the answer Yes, for true and false
                for word in (key, value):
                    word.tag = "tag:yaml.org,2002:str" if word.tag.endswith(":bool") else word.tag
            name = (key.tag, key.value)
            if name in lines:
                problem = f"the key {key.value!r} stands already on line {lines[name]}, expected it once"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and (problem := _no_text(node.value)):
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{_short(node.value)}: {error}", node.start_mark
            ) from None


def _no_text(value: str) -> str | None:
    """Why a value can stand in no file and in no file's name."""
    found = next((character for character in value if character == "\0" or "\ud800" <= character <= "\udfff"), None)
    return None if found is None else f"holds {found!r}, which is no text"


def read_yaml(text: str, path: Path | str) -> Any:
    """The value of a YAML document; raises `InputError` with the line of what cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"is not YAML: {problem}", path, mark.line + 1 if mark else None) from None
    except RecursionError:
        raise InputError("is nested too deeply, expected sections and their keys", path) from None


def _lines_of(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """The line (from 1) of every key of a YAML document, as deep as sections go: an alias may lead in a circle."""
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
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"'{key}' is {_short(error['input'])}: {message.replace('input should be', 'expected')}"


def _short(value: object) -> str:
    """A value as Python writes it, cut where it would fill the screen."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def parse_override(text: str) -> Override:
    """Split `section.key=value`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"{text!r}, expected key=value such as train.learning_rate=1e-4", "--set")
    if problem := _no_text(value):
        raise InputError(problem, f"--set {key}")
    try:
        parsed = _number_or(read_yaml(value, "--set"))
    except InputError:
        parsed = value
    # `{title}` means the text of a prompt, not a mapping without values.
    if isinstance(parsed, dict) and all(inner is None for inner in parsed.values()):
        parsed = value
    return Override(key, parsed, f"--set {key}")


def _number_or(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text; a number is what was meant."""
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
