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
    """The item table, where it is not found beside the ratings."""
    columns: dict[Literal["user", "item", "rating", "label", "timestamp", "title", "split"], str] = {}
    """Names of the columns in tables of your own, where they are not the usual ones."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating; None: what the format says (MovieLens: 0.5 to 5, or 1 to 5)."""


class PrepareConfig(Section):
    """Which ratings become samples, and in which split. Defaults: the guide's."""

    history_len: int = Field(15, ge=1)
    """Rated items that the prompt shows, and that a user must have before the first sample."""
    rating_threshold: float = 4.0
    """A rating of at least this is a Yes."""
    val_ratio: float = Field(0.05, ge=0, lt=1)
    test_ratio: float = Field(0.1, ge=0, lt=1)
    split: Literal["user-time", "global-time", "given"] = "user-time"
    """`user-time`: each user's last samples are test. `global-time`: one cutoff in time for all users. `given`: the
    tables of `ratings.source` bring their splits, and every row of them is a sample."""
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
    """Longest sequence."""
    truncation: Literal["left", "right", "middle", "history", "drop", "error"] = "left"
    """What a longer one loses: tokens on the `left` (the guide's way), on the `right`, in the `middle`; its oldest
    `history` items, the rest staying whole (recommended); itself (`drop`); or nothing, being an `error`."""
    template_date: datetime.date = DATE
    """What a chat template that writes today's date takes for today."""
    num_proc: int | None = Field(None, ge=1)
    """Accepted because the guide sets it, and ignored: one process composes tokens."""


class ModelConfig(Section):
    """The base model."""

    base: str = "Qwen/Qwen3-0.6B"
    """`smollm2-135m`, a hub id, a folder or a GGUF file."""
    revision: str | None = None
    """A hub commit, so that a run can be repeated."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the device computes in it at speed, else float32."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: QLoRA, the base in 4 bits with double quantization."""
    attn_implementation: str | None = None
    """Passed to transformers; None: its choice."""


class LoraConfig(Section):
    """The adapter."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class TrainConfig(Section):
    """How the adapter is trained (transformers' Trainer; the words are its own)."""

    method: Literal["lora", "full"] = "lora"
    """An adapter of low rank, or all weights of the layers, each of which then takes about twenty bytes of memory."""
    max_samples: int | None = Field(None, ge=1)
    """Train on this many samples, drawn with the seed and stratified by the answer; None: all."""
    draw_by: Literal["prompt", "sample", "user"] = "prompt"
    """What `max_samples` draws: prompts with all their targets, samples here and there, or all samples of a user."""
    targets_per_prompt: int = Field(1, ge=1)
    """A user's next samples that are asked for behind one history, which is then computed once for all of them."""
    tokens_per_batch: int | None = Field(None, ge=8)
    """Most tokens of a forward pass on a device; None: `batch_size` sequences, or a whole prompt."""
    attention: Literal["auto", "segments", "flex", "mask", "padded"] = "auto"
    """How the targets of a prompt are kept apart; `auto`: the first way that passes a probe before training."""
    train_on: Literal["response", "answer"] = "response"
    """Which tokens carry the loss: the whole response, or the one token that decides."""
    ranking_weight: float = Field(0.0, ge=0)
    """Weight of a second loss beside the decision's: of liked targets of a prompt that score below disliked ones."""
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(8, ge=1)
    """Samples in a forward pass, if they were as long as the longest: passes are packed without padding."""
    gradient_accumulation: int = Field(2, ge=1)
    """An optimizer step has this times `batch_size` samples, on any number of devices."""
    learning_rate: float = Field(2e-4, gt=0)
    scheduler: str = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    optimizer: str = "adamw_torch"
    logging_steps: int = Field(10, ge=1)
    eval_steps: int | None = Field(None, ge=1)
    """Steps between evaluations of loss and AUC on `eval.json`; None: at the end only."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the adapter: the last, or those of the best AUC on `eval.json`."""
    early_stopping: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better AUC on `eval.json`, and keep the best."""
    save_steps: int = Field(200, ge=1)
    save_total_limit: int = Field(2, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Of first weights, samples drawn, their order, dropout; None: the config's `seed`, which the data always has."""
    seeds: int = Field(1, ge=1)
    """Train with this many seeds, from `seed` on, and report the spread of the results."""
    report_to: list[str] = []
    """`trackio`, `mlflow`, `wandb`, `tensorboard`: as transformers knows them."""
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
    """How samples are scored and calibrated."""

    calibration: Literal["auto", "none", "temperature", "platt", "isotonic"] = "auto"
    """How P(like) is calibrated; `auto`: by the method that does best on held-out users."""
    stack: bool = False
    """Report the logit stacked with item, user and history statistics, these statistics alone, and the logit stacked
    with the best baseline."""
    server: str | None = None
    """An OpenAI-compatible server that returns log-probabilities, such as http://localhost:8000, in place of a model
    that is loaded here. Its API key, if it wants one, is taken from `$PALATE_SERVER_KEY`."""
    served_model: str | None = None
    """What the server calls the base with the adapter: a LoRA module, or a merged model."""
    served_base: str | None = None
    """What the server calls the base model."""
    in_flight: int = Field(8, ge=1)
    """Concurrent requests."""

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
    """What is scored, and how it is reported."""

    split: Literal["train", "val", "test"] = "test"
    """Which samples to measure on; calibration and stacking are fitted on `val` whatever it is."""
    max_samples: int | None = Field(None, ge=1)
    """Score this many samples, drawn with the seed; None: all."""
    calibration_samples: int = Field(1000, ge=0)
    """Validation samples to calibrate and stack on, drawn with the seed; all if there are fewer."""
    ablations: list[Literal["titles", "shuffle", "empty", "ratings"]] = []
    """Score the same samples again with less in the prompt: titles hidden, history shuffled or emptied, ratings
    hidden."""
    batch_size: int = Field(16, ge=1)
    zero_shot: bool = True
    """Score the base model too, as the row to beat."""
    baselines: Literal["all", "quick"] = "all"
    """`quick`: those that need no training; `all`: the learned ones too, 15 to 30 s of one core per 100,000 ratings."""
    bootstrap: int = Field(1000, ge=0)
    """Resamplings of users for the intervals."""
    rank_users: int = Field(0, ge=0)
    """Let the model rank whole catalogues for this many users, drawn with the seed, beside every baseline; 0: only the
    baselines that are quick to ask rank. Costs `rank_users` times as many prompts as there are items."""
    candidates: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Items to rank: all that a user had not rated, or this number of random ones beside the relevant items."""
    allow_leaks: bool = False
    """Continue after a fatal leak, and report it with the results."""


class Config(Section):
    """A recipe: everything that a run needs to know."""

    name: str = Field("palate", pattern=r"^[\w.-]+$")
    data_dir: str | None = None
    """The prepared data; None: `data` in the run's folder."""
    run_dir: str | None = None
    """Where the run's results lie; None: `runs/NAME`."""
    seed: int = Field(13, ge=0, lt=2**32)
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
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = (key.tag, key.value)
            if name in lines:
                problem = f"the key {key.value!r} stands already on line {lines[name]}, expected it once"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(None, None, f"{node.value!r}: {error}", node.start_mark) from None


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
    return f"'{key}' is {error['input']!r}: {message.replace('input should be', 'expected')}"


def parse_override(text: str) -> Override:
    """Split `section.key=value`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"{text!r}, expected key=value such as train.learning_rate=1e-4", "--set")
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
