"""The `palate` command: parse, call a stage, turn errors into one line and an exit code.

Exit codes: 0 done, 1 failed while working, 2 wrong input or usage, 130 interrupted.
"""

import argparse
import difflib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palate import __version__
from palate.ablations import ABLATIONS
from palate.copies import COPIES, Copies
from palate.errors import InputError, InterruptedWorkError, PalateError, is_out_of_memory, unwritable, visible
from palate.models.gguf import TYPES as GGUF_TYPES
from palate.parser import SHELLS, Parser, completion, local, number
from palate.ratings.formats import is_table
from palate.ratings.source import archive_stem
from palate.train import processes

if TYPE_CHECKING:  # pydantic takes longer to import than `palate --help` may take
    from palate.config import Config

log = logging.getLogger("palate")

TRAIN_EXTRA = ("torch", "peft", "accelerate", "bitsandbytes", "safetensors", "gguf", "sklearn", "implicit")
SERVE_EXTRA = ("fastapi", "starlette", "uvicorn", "prometheus_client")
PREPARING = ("polars", "numba", "llvmlite", "datasets", "pyarrow", "matplotlib")
"""Packages that training from a portable token folder does not import."""

OUT_OF_MEMORY = "out of memory: lower --memory, train.batch_size or evaluate.batch_size, or stop other programs"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if sys.stdout is None:  # closed by the shell, as with `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        return _command(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 0


def _command(words: Sequence[str]) -> int:
    """Parse, run, and turn errors into a line and an exit code; raises `BrokenPipeError` where nobody reads it."""
    _quiet_libraries()
    _let_segments_grow()
    _end_on_sigterm()
    try:
        if log.handlers or "--json-logs" in words:  # of an earlier command; a wrong option is reported as JSON, too
            from palate import console

            console.begin_log(as_json="--json-logs" in words)
        parser = _parser()
        COPIES.paths.clear()
        args = parser.parse_args(words)
        if args.command == "completion":  # a shell runs it at each start: without the imports of a config
            print(completion(parser, args.shell), end="")
            return 0
        if args.verbose and args.quiet:
            raise InputError("contradicts --verbose, expected one of both", "--quiet")
        from palate import console

        style = {"verbose": args.verbose, "quiet": args.quiet, "as_json": args.json_logs}
        console.begin_log(**style, command=args.command)
        copies = COPIES if processes.LAUNCHER not in os.environ else Copies()  # a launched process has its launcher's
        if copies.paths and processes.place().world > 1:
            raise InputError("another program launched several processes, expected a path", next(iter(copies.paths)))
        copies.fetch()
        config = _config(args)
        from palate.commands.outputs import check_outputs

        check_outputs(config, args)
        if _is_to_launch(args):
            from palate.train.launch import launch

            if code := launch(words, args.launch, args.accelerate_config):
                return code
        else:
            args.run(config, args)
        copies.send()
        sys.stdout.flush()
    except SystemExit:  # --help and --version are written by now
        sys.stdout.flush()
        raise
    except InterruptedWorkError as stop:
        return _end(str(stop), stop.exit_code, stop)
    except PalateError as error:
        return _end(f"error: {error}", error.exit_code, error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in (*TRAIN_EXTRA, *SERVE_EXTRA, *PREPARING):
            raise
        extra = "serve" if package in SERVE_EXTRA else "train"
        what = "palate" if package in PREPARING else f"'palate[{extra}]'"
        return _end(f"error: {error.name} is not installed, this command needs it: pip install {what}", 2, error)
    except KeyboardInterrupt:
        return _end("interrupted; nothing half-written was kept", 130)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = error.filename or "input/output"
        return _end(f"error: {place}: {error.strerror or error}", unwritable(place, error).exit_code, error)
    except Exception as error:
        if processes.lost_another(error):
            # Our own launcher reports which process ended, and how.
            return _end("" if processes.LAUNCHER in os.environ else "error: another process of this run has ended", 1)
        if is_out_of_memory(error):
            return _end(f"error: {OUT_OF_MEMORY}", 1, error)
        tells, code = processes.ends(1)
        if tells:
            raise
        return code
    return 0


def _end(line: str, code: int, error: BaseException | None = None) -> int:
    """Print why this process ends, unless another process of the run does; returns the exit code."""
    tells, code = processes.ends(code)
    if tells and line and log.handlers:
        if error is not None:
            from palate.console import origin

            log.debug("%s", origin(error))
        log.error("%s", visible(line), extra={"fields": {"exit_code": code}})
    elif tells and line:  # before the log began: without the import of Rich
        print(visible(line), file=sys.stderr)
    return code


def _is_to_launch(args: argparse.Namespace) -> bool:
    """Whether this process starts others instead of working; raises `InputError` for options that contradict."""
    if processes.LAUNCHER in os.environ:
        return False
    if processes.place().world > 1 and args.command != "train":
        raise InputError("several processes were launched, only `palate train` works in more than one", "WORLD_SIZE")
    if getattr(args, "launch", None) is None:
        if getattr(args, "accelerate_config", None) is not None:
            raise InputError("configures --launch, expected --launch N beside it", "--accelerate-config")
        return False
    if getattr(args, "engine.name", None) == "ray":
        raise InputError("starts processes of a Ray cluster, expected no --launch beside it", "--engine ray")
    if processes.launched():
        raise InputError("another program launched this process, expected one launcher", "--launch")
    return True


def guide(command: str) -> int:
    """Run one of the guide's scripts: a command, with the guide's config unless another is named."""
    words = sys.argv[1:]
    named = any(word.split("=")[0] == "--config" for word in words)
    config = Path(sys.argv[0]).resolve().parents[1] / "configs" / "qwen3_7b_movielens_qlora.yaml"
    return main([command, *([] if named else ["--config", str(config)]), *words])


Run = Callable[["Config", argparse.Namespace], Any]


def _call(place: str) -> Run:
    """Call `MODULE:FUNCTION` of `palate.commands` with the config, and with the command's own options by name."""

    def run(config: "Config", args: argparse.Namespace) -> Any:
        module, _, name = place.partition(":")
        function = getattr(import_module(f"palate.commands.{module}"), name)
        return function(config, **{name: getattr(args, name) for name in args.own})

    return run


def _advise(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.advise import advise

    recipe, ratings = getattr(args, "config_file", None) or args.config, getattr(args, "ratings.source")
    again = [str(recipe)] if recipe else []
    again += ["--ratings", ratings] if ratings else []
    for override in args.overrides:
        if override.key != "ratings.source" and override.option != "--ratings":
            again += ["--set", override.text]
    advise(config, again=again, **{name: getattr(args, name) for name in args.own})


def _prepare(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.prepare import prepare

    if args.tables is not None:
        from palate.commands.data_option import to_prepare

        if args.from_ratings:
            raise InputError("replaces the ratings, expected no --ratings beside it", "--data")
        config = to_prepare(config, args.tables)
    prepare(config)


def _tokenize(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.tokenize import tokenize, tokenize_portable

    if not args.portable:
        tokenize(config, args.out, splits=args.splits or None, from_ratings=args.from_ratings, as_json=args.as_json)
        return
    if args.splits:
        raise InputError("writes the splits that training and scoring need, expected no --split", "--portable")
    if config.engine.name == "ray":
        raise InputError("is written by this process, expected no --engine ray beside it", "--portable")
    tokenize_portable(config, args.out, as_json=args.as_json)


def _train(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.data_option import adopted
    from palate.commands.train import train

    train(adopted(config, args.data_dir))


def _score(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.data_option import adopted, alpaca_of
    from palate.commands.score import score_test

    config = adopted(config, args.data_dir)
    if alpaca_of(config) is not None:
        raise InputError("holds Alpaca files, which `palate evaluate` scores", config.data_path)
    score_test(config, adapter=args.adapter, base_only=args.base_only, out=args.out)


def _evaluate(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.data_option import adopted, alpaca_of
    from palate.commands.evaluate import evaluate
    from palate.commands.evaluate_alpaca import evaluate_examples

    if args.scores and args.base_only:
        raise InputError("names the model of its scores, expected no --base-only beside it", "--scores")
    config = adopted(config, args.data_dir)
    alpaca = alpaca_of(config)
    options = {"base_only": args.base_only, "out": args.out, "as_json": args.as_json}
    if alpaca is None:
        evaluate(config, adapters=args.adapters, scores=args.scores, **options)
        return
    if args.scores:
        raise InputError("measures prepared data, expected none beside Alpaca files", "--scores")
    if len(args.adapters) > 1:
        raise InputError("is given more than once, expected one beside Alpaca files", "--adapter")
    evaluate_examples(config, alpaca, adapter=args.adapters[0] if args.adapters else None, **options)


def _compare(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.compare import compare

    compare(args.runs, seed=config.seed, as_json=args.as_json, out=args.out)


def _recommend(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands.recommend import Request, recommend

    options = {name: getattr(args, name) for name in args.own}
    apart = {name: options.pop(name) for name in ("adapter", "base_only", "as_json")}
    recommend(config, Request(**options), baseline=args.baseline, **apart)


def _cache(config: "Config", args: argparse.Namespace) -> None:
    from palate.commands import cache

    if args.prune:
        choice = cache.CacheChoice(args.kind, args.older_than, args.damaged, args.everything)
        cache.prune(choice, verify=args.verify, dry_run=args.dry_run, as_json=args.as_json)
        return
    for option in ("older_than", "damaged", "everything", "dry_run"):
        value = getattr(args, option)
        if value is not None and value is not False:  # --older-than 0 counts as given
            name = "--all" if option == "everything" else "--" + option.replace("_", "-")
            raise InputError("selects what to remove, expected --prune beside it", name)
    cache.show_caches(kind=args.kind, verify=args.verify, as_json=args.as_json)


class Option(NamedTuple):
    """An option of one or several commands: its names, and the settings of `add_argument`."""

    names: list[str]
    settings: dict[str, Any]
    key: str | None = None
    """The key of the config that the option overrides; None: the command reads the option."""


WHOLE = number(int, "a whole number")
TYPES: dict[str, Callable[[str], Any]] = {
    **{
        "N": WHOLE,
        "K": WHOLE,
        "R": number(float, "a number"),
        "M": number(float, "a number of minutes"),
        "SECONDS": number(float, "a number of seconds"),
        "F": number(float, "a number from 0 to 1"),
    },
    **{"DAYS": number(float, "a number of days, such as 7"), "FILE": local, "DIR": local},
}
"""The type of an option's value by its metavar; text for all others."""


def _option(usage: str, text: str, *, key: str | None = None, repeat: bool = False, **settings: Any) -> Option:
    """An option as its usage shows it, such as `--top-k K`, with its help; one that may be repeated gives a list."""
    names = [word for word in usage.split() if word.startswith("-")]
    metavar = next((word for word in usage.split() if not word.startswith("-")), None)
    if metavar is None and "choices" not in settings:
        settings["action"] = "store_true"
    elif metavar is not None:
        settings |= {"metavar": metavar, "type": TYPES.get(metavar, str)}
    if repeat:
        settings |= {"action": "append", "default": []}
    if key is not None:
        settings |= {"dest": key, "default": None}
    return Option(names, {"help": text, **settings}, key)


RECIPE = "config: a YAML file, or the folder of a run"
VERBOSE = _option("-v --verbose", "show the cache's use and long work's progress too", default=argparse.SUPPRESS)
QUIET = _option("--quiet", "show no more than warnings and errors beside the results", default=argparse.SUPPRESS)
JSON_LOGS = _option("--json-logs", "log, progress and errors as JSON, one object a line", default=argparse.SUPPRESS)
GLOBAL = (VERBOSE, QUIET, JSON_LOGS)
"""Options of every command, before its name or after it."""
SEED = _option("--seed N", "random seed (13)", key="seed")
COMMON = (
    _option("--config FILE", RECIPE),
    _option("--set KEY=VALUE", "override a config key, such as train.epochs=2", repeat=True),
    _option("--ratings PATH|NAME", "file, folder, zip, URL, or ml-100k, ml-32m, …", key="ratings.source"),
    _option("--items PATH", "item table, if it is not beside the ratings", key="ratings.items"),
    _option("--users PATH", "table of users, whose columns the prompt may name", key="ratings.users"),
    _option("--user NAME", "column of the users, if Palate does not know its name", key="ratings.columns.user"),
    _option("--item NAME", "column of the items", key="ratings.columns.item"),
    _option("--rating NAME", "column of the ratings", key="ratings.columns.rating"),
    _option("--time NAME", "column of the times", key="ratings.columns.timestamp"),
    _option("--title NAME", "column of the titles", key="ratings.columns.title"),
    _option(
        "--header NAMES", "names of the columns of a file without a header: user,item,rating,…", key="ratings.header"
    ),
    _option("--sample-users N", "keep the ratings of N users, drawn with the seed (all)", key="ratings.sample_users"),
    _option("--memory SIZE", "memory for preparing a log, such as 8GB (half of the machine's)", key="prepare.memory"),
    _option("--order HOW", "time, or file: without times, the rows are in order (time)", key="ratings.order"),
    _option(
        "--bad-rows",
        "wrong rows: refuse, skip with counts, or report to skipped.csv (refuse)",
        key="ratings.bad_rows",
        choices=("refuse", "skip", "report"),
    ),
    _option(
        "--untitled",
        "ratings of items without a title: refuse, drop, or show the id (refuse)",
        key="ratings.untitled",
        choices=("refuse", "drop", "id"),
    ),
    _option("--tokenizer NAME|PATH", "qwen3, smollm2, a hub id or a folder", key="tokens.tokenizer"),
    _option(
        "--model NAME|PATH",
        "smollm2-135m, hub id, folder, GGUF file; recommend: or a baseline",
        key="model.base",
    ),
    SEED,
    *GLOBAL,
)
"""Options of every command that reads a config; a command's own option of the same name replaces one."""
SPLITS = ("train", "val", "test")
RUN_DIR = _option("--out DIR", "run folder (runs/NAME)", key="run_dir")
READ_DIR = _option("--out DIR", "run folder whose prepared data is read (runs/NAME)", key="run_dir")
OUT = _option("--out DIR", "output (in the run folder)")
DATA = _option("--data PATH", "prepared or portable folder, Alpaca files, or tables with splits", key="data_dir")
SCORED_DATA = _option("--data PATH", "prepared or portable folder, or tables with splits", key="data_dir")
MEASURED_DATA = _option("--data PATH", "prepared folder, Alpaca files, or tables with splits", key="data_dir")
SCORES = _option("--out FILE", "file of scores, .npz (scores.npz in the run folder)")
ADAPTER = _option("--adapter DIR", "adapter folder (the run's own)")
BASE_ONLY = _option("--base-only", "use the base model without an adapter")
ENGINE = (
    _option("--engine", "compute on this machine, or on a Ray cluster (local)", key="engine.name",
            choices=("local", "ray")),
    _option("--address HOST:PORT", "the Ray cluster (this machine's, or a new one)", key="engine.address"),
)  # fmt: skip
TRAIN_SAMPLES = _option("--max-samples N", "train on N samples, drawn with the seed (all)", key="train.max_samples")
TEST_SAMPLES = _option("--max-samples N", "score N samples, drawn with the seed (all)", key="evaluate.max_samples")
SCORED = _option("--split", "split to score (test); calibration uses val", key="evaluate.split", choices=SPLITS)
SEEDS = _option("--seeds N", "train with N seeds and report their spread (1)", key="train.seeds")
ALLOW_LEAKS = _option("--allow-leaks", "continue after a fatal leak, and report it", key="evaluate.allow_leaks")
JSON = _option("--json", "print JSON", dest="as_json")

PREPARE = (
    _option("--history-len N", "rated items in a prompt (15)", key="prepare.history_len"),
    _option("--rating-threshold R", "lowest rating that means Yes (4.0)", key="prepare.rating_threshold"),
    _option("--val-ratio F", "fraction of validation samples (0.05)", key="prepare.val_ratio"),
    _option("--test-ratio F", "fraction of test samples (0.1)", key="prepare.test_ratio"),
    _option("--max-eval N", "validation examples in eval.json (150)", key="prepare.max_eval"),
    _option(
        "--split HOW",
        "user-time: the last samples of each user are test; global-time: one cutoff for all users; cold-items: of each "
        "user's last samples those of items that nothing is learned from (user-time)",
        key="prepare.split",
    ),
    _option(
        "--data DIR",
        "tables with splits: a folder with train, valid and test, or a file with a column split",
        dest="tables",
    ),
    *ENGINE,
    _option("--out DIR", "prepared folder (data in the run folder)", key="data_dir"),
)
LENGTHS = (
    _option("--show-examples N", "show N samples token by token (0)", dest="examples", default=0),
    _option("--cutoff-len N", "cutoff to analyse (the config's); repeat to compare", dest="cutoffs", repeat=True),
    _option(
        "--split --on",
        "split to measure; eval: the part of val in eval.json (train)",
        choices=("train", "eval", "val", "test"),
        default="train",
    ),
    _option("--plot FILE", "write a histogram (PNG, SVG or PDF)"),
    JSON,
    RUN_DIR,
)
TOKENIZE = (
    _option("--cutoff-len N", "longest sequence in tokens (1024)", key="tokens.cutoff_len"),
    _option(
        "--truncation HOW",
        "left, right, middle: drop tokens; history: drop the oldest items; drop: skip the sample; error (left)",
        key="tokens.truncation",
    ),
    _option("--train-on WHAT", "tokens with labels: response or answer (response)", key="train.train_on"),
    _option("--split", "split to write; repeat for several (all)", dest="splits", choices=SPLITS, repeat=True),
    _option("--portable", "write a folder that train and score --data read without ratings and Polars"),
    *ENGINE,
    JSON,
    OUT,
)
PLAN = (
    TRAIN_SAMPLES,
    _option(
        "--price NAME=PRICE", "hourly price of a device: H100=2.50; repeat for several", dest="prices", repeat=True
    ),
    JSON,
    READ_DIR,
)
TRAIN = (
    TRAIN_SAMPLES,
    SEEDS,
    _option("--launch N", "start N processes on this machine, one per GPU (1)"),
    _option("--accelerate-config FILE", "config of --launch, such as configs/accelerate/fsdp2.yaml (DDP)"),
    *ENGINE,
    DATA,
    RUN_DIR,
)
EVALUATE = (
    MEASURED_DATA,
    _option("--adapter DIR", "adapter folder (the run's own); repeat to compare", dest="adapters", repeat=True),
    BASE_ONLY,
    TEST_SAMPLES,
    SCORED,
    _option(
        "--ablations PART",
        f"score again after {', '.join(f'{each.title} ({name})' for name, each in ABLATIONS.items())}",
        key="evaluate.ablations",
        nargs="+",
        choices=tuple(ABLATIONS),
    ),
    _option("--scores FILE", "measure the output of palate score instead of a model; repeat for several", repeat=True),
    ALLOW_LEAKS,
    *ENGINE,
    JSON,
    OUT,
)
AUDIT = (
    _option("--data PATH", "prepared folder", key="data_dir"),
    _option("--split HOW", "split of --ratings: user-time, global-time or cold-items (user-time)", key="prepare.split"),
    ALLOW_LEAKS,
    JSON,
    READ_DIR,
)
RECOMMEND = (
    _option("--user ID", "recommend to this user, given all of their ratings"),
    _option(
        "--history FILE",
        "recommend to whoever wrote these ratings, oldest first: CSV or JSON lines with rating, and title or item_id",
    ),
    _option("--all-users", "recommend to every user, into --out FILE.parquet; resumes after an interruption"),
    _option("--top-k K", "recommendations per user (10)", default=10),
    _option("--retrieve N", "score N candidates of a first stage (all items)"),
    _option("--retriever", "first stage (item-knn)", choices=("item-knn", "popularity")),
    _option("--candidates FILE", "score these items: one item_id or title per line"),
    _option("--include-seen", "recommend rated items too"),
    ADAPTER,
    BASE_ONLY,
    *ENGINE,
    JSON,
    _option("--out FILE", "output of --all-users"),
)
STORE = _option("--ratings URL", "the service's store (sqlite:///RUN/feedback.sqlite)", dest="store")
SERVE = (
    _option(
        "--host HOST", "address to listen at; any but this machine's needs an API key (127.0.0.1)", default="127.0.0.1"
    ),
    _option("--port N", "port; 0: a free one (8000)", default=8000),
    _option("--model KEY", "model that answers a request without one (the one that the run recommends)"),
    _option("--server URL", "vLLM, SGLang or llama.cpp with the language model (in this process)", key="score.server"),
    _option("--served-model NAME", "the server's name of the base with the adapter", key="score.served_model"),
    *ENGINE,
    STORE,
    _option("--api-key-file FILE", "file with the API key that clients send ($PALATE_API_KEY)"),
    _option("--in-flight N", "requests that the language model works on at once (16)", default=16),
    _option("--queue N", "requests that wait; further ones are answered 429 (64)", default=64),
    _option("--timeout SECONDS", "longest work on a request, and longest wait before it (60)", default=60.0),
    _option("--max-body N", "largest body of a request in MiB (4)", default=4),
    _option("--retrieve N", "candidates of the first stage, if a request names no number (50)", default=50),
    _option("--log-requests", "log path, query and client of each request (with -v: the route alone)"),
)
EXPORT = (
    _option("--merge", "write a Hugging Face folder: safetensors and tokenizer"),
    _option("--gguf", "write a GGUF file (f16) by llama.cpp's converter", nargs="?", const="f16", choices=GGUF_TYPES),
    ADAPTER,
    _option("--dtype", "dtype of the merged weights (the base model's)", choices=("bfloat16", "float32")),
    _option("--converter FILE", "convert_hf_to_gguf.py (from $LLAMA_CPP or the PATH)"),
    OUT,
)
DOCTOR = (
    _option("--gpu", "check training and scoring on the GPU, with random weights"),
    _option("--device", "… on this device; cpu is a short form (cuda)", choices=("cuda", "cpu")),
    _option(
        "--json FILE",
        "print JSON; with --gpu, write the checks to FILE, to attach to a report of a problem",
        nargs="?",
        const=True,
        dest="as_json",
    ),
    _option(
        "--report FILE",
        "print or write what a report of a problem needs, with a run that is named before: no paths, names or texts",
        nargs="?",
        const=True,
    ),
)
CACHE = (
    _option("--prune", "remove damaged and unfinished entries, or the entries selected by:"),
    _option("--older-than DAYS", "… last use DAYS ago or earlier"),
    _option("--kind KIND", "… kind, such as tables; without --prune: list this kind only"),
    _option("--damaged", "… damaged or unfinished"),
    _option("--all", "… all entries, converted models included", dest="everything"),
    _option("--dry-run", "print what --prune would remove, and remove nothing"),
    _option("--verify", "compare hashes as well as sizes; reads every byte"),
    JSON,
)
COMPARE = (
    Option(
        ["runs"], {"metavar": "RUN", "type": local, "nargs": "+", "help": "run folder, metrics.json or scores file"}
    ),
    JSON,
    _option("--out FILE", "write an HTML page"),
    SEED,
)
LOG = "file, folder, zip, URL, or ml-100k, ml-32m, …"
PATH = Option(["ratings.source"], {"metavar": "PATH|NAME", "help": LOG}, "ratings.source")
INSPECT = (
    PATH,
    _option("--history-len N", "rated items in a prompt (15)", key="prepare.history_len"),
    _option("--rating-threshold R", "lowest rating that means Yes (4.0)", key="prepare.rating_threshold"),
    _option("--html FILE", "write the figures as a page with pictures"),
    JSON,
)
INIT = (
    *INSPECT[:3],
    _option("--noun NOUN", "what the items are, such as film or product (from the names of files and columns)"),
    _option("--force", "replace an existing file"),
    _option("--out FILE", "the config (palate.yaml)"),
)
BASELINES = (
    Option(
        ["ratings.source"],
        {
            "metavar": "RATINGS",
            "nargs": "?",
            "help": "as --ratings of other commands, a config, or the folder of a run",
        },
        "ratings.source",
    ),
    SCORED,
    _option(
        "--text NAME|PATH", "also read the items' text with minilm, base, a hub id or a folder", key="text.encoder"
    ),
    JSON,
    _option("--out DIR", "folder for baselines.json (not written)", dest="out"),
)
ADVISE = (
    *BASELINES[:3],
    _option("--minutes M", "begin no fit after M minutes (10)", default=10.0),
    _option("--train", "train and score the language model in the run's folder, as far as the minutes allow"),
    JSON,
    _option("--out DIR", "folder for advice.json, and advice.yaml, the config to use (not written)", dest="out"),
)
REFRESH = (
    STORE,
    _option("--no-train", "leave out the language model"),
    _option("--dry-run", "print what is new and what is due, and write nothing"),
    _option("--force", "switch although too few rows decide; never to a worse run"),
)
LOGS = ("inspect", "init", "baselines", "advise")
"""The commands whose argument is a log."""
FROM_RATINGS = ("baselines", "advise", "lengths", "tokenize", "plan", "audit")
"""The commands that prefer `--ratings` to prepared data."""

COMMANDS: dict[str, tuple[Run, tuple[Option, ...], str]] = {
    "run": (
        _call("run:run"),
        (SEEDS, ALLOW_LEAKS, RUN_DIR),
        "prepare, measure lengths, train, evaluate and report; skip finished stages",
    ),
    "inspect": (_call("inspect:inspect"), INSPECT, "show what a log of ratings holds, and what would become of it"),
    "init": (_call("init:init"), INIT, "write a config for a log of ratings, from its figures"),
    "baselines": (
        _call("baselines:baselines"),
        BASELINES,
        "measure the classical models: the bar for a language model",
    ),
    "advise": (_advise, ADVISE, "try models in order of cost, and say which one to use"),
    "prepare": (_prepare, PREPARE, "turn ratings into train.json, eval.json, test_raw.jsonl and manifest.json"),
    "lengths": (_call("lengths:show_lengths"), LENGTHS, "measure token lengths and truncation; show samples by token"),
    "tokenize": (_tokenize, TOKENIZE, "write the samples as token ids in Arrow files, for any trainer"),
    "plan": (_call("plan:show_plan"), PLAN, "predict tokens, FLOPs, memory, time and cost of a training"),
    "train": (_train, TRAIN, "fine-tune the base model: LoRA, QLoRA or all weights"),
    "score": (
        _score,
        (SCORED_DATA, ADAPTER, BASE_ONLY, TEST_SAMPLES, SCORED, *ENGINE, SCORES),
        "write P(like) of every test sample to a file, for palate evaluate --scores",
    ),
    "evaluate": (_evaluate, EVALUATE, "score a split; report metrics with intervals, and baselines on the same rows"),
    "compare": (_compare, COMPARE, "compare runs: config differences, and paired score differences on shared rows"),
    "audit": (_call("audit:show_leaks"), AUDIT, "check the split for leaks: order, pairs, labels, ties, the prompt"),
    "recommend": (_recommend, RECOMMEND, "rank items for a user by P(like), with mean ratings beside it"),
    "serve": (_call("serve:serve"), SERVE, "answer requests over HTTP, with a page in the browser"),
    "refresh": (
        _call("refresh:refresh"),
        REFRESH,
        "build a run anew on its log and the service's ratings, and switch to it if it is not worse",
    ),
    "monitor": (
        _call("monitor:monitor"),
        (STORE, JSON),
        "show drift, cold users and items, and calibration on answered recommendations",
    ),
    "export": (_call("export:export"), EXPORT, "merge adapter and base into one model: vLLM, transformers, llama.cpp"),
    "doctor": (_call("doctor:doctor"), DOCTOR, "show this machine's features; --gpu: prove that training works there"),
    "cache": (_cache, CACHE, "inspect and prune the cache"),
}


def _parser() -> Parser:
    parser = Parser(prog="palate", description="Choose, train and evaluate a recommender from ratings.")
    parser.add_argument("--version", action="version", version=f"palate {__version__}")
    for option in GLOBAL:
        parser.add_argument(*option.names, **option.settings | {"default": False})
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", required=True)
    for name, (run, own, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        taken = {word for option in own for word in option.names} | ({"--ratings"} if name in LOGS else set())
        bare = name in ("compare", "cache")
        common = [*GLOBAL] if bare else [o for o in COMMON if not taken & set(o.names)]
        read = ["from_ratings"] if name in FROM_RATINGS else []
        for option in own:
            action = sub.add_argument(*option.names, **option.settings)
            if option.key is None:
                read.append(action.dest)
        group: argparse._ActionsContainer = sub
        if not bare:
            if name not in LOGS:
                sub.add_argument("config_file", metavar="CONFIG", type=local, nargs="?", help=RECIPE)
            group = sub.add_argument_group("options of every command that reads a config")
        for option in common:
            group.add_argument(*option.names, **option.settings)
        keys = {option.key: option.names[0] for option in (*own, *common) if option.key is not None}
        sub.set_defaults(run=run, keys=keys, own=read)
    text = "print a script for a shell that completes commands and options"
    shell = commands.add_parser("completion", help=text, description=text[0].upper() + text[1:] + ".")
    shell.add_argument("shell", choices=SHELLS, help='put `eval "$(palate completion bash)"` into ~/.bashrc')
    return parser


def _config(args: argparse.Namespace) -> "Config":
    """The config from the file and the options; options win."""
    from palate.config import Override, load_config, parse_override

    ratings, model = (getattr(args, key, None) for key in ("ratings.source", "model.base"))
    if args.command in ("baselines", "advise") and ratings is not None and _is_recipe(Path(ratings)):
        args.config_file, ratings = Path(ratings), None
        setattr(args, "ratings.source", None)
    args.baseline = model if args.command == "recommend" and _is_baseline(model) else None
    if args.baseline is not None:
        model = None
        setattr(args, "model.base", None)
    args.from_ratings = ratings is not None
    path = _recipe(args)
    overrides = []
    if ratings is not None and (path is None or args.command == "init"):  # each data set gets a run of its own
        stem = Path(ratings).stem or Path(ratings).resolve().name
        name = re.sub(r"[^\w.-]", "-", stem).lstrip(".") or "palate"
        overrides.append(Override("name", name, "--ratings"))
    if model is not None and _has_tokenizer(model):  # replaces the tokenizer of the config's model
        overrides.append(Override("tokens.tokenizer", None, "--model"))
    overrides += [parse_override(text) for text in getattr(args, "set", ())]
    for key, option in args.keys.items():
        if (value := getattr(args, key)) is not None:
            overrides.append(Override(key, str(value) if isinstance(value, Path) else value, option))
    if cutoffs := getattr(args, "cutoffs", ()):  # the first replaces the config's, the others are analysed beside it
        overrides.append(Override("tokens.cutoff_len", cutoffs[0], "--cutoff-len"))
    args.overrides = overrides
    if path is None and args.command == "run":
        raise InputError("no config, expected `palate run CONFIG`, such as configs/demo.yaml", "palate run")
    config = load_config(path, overrides)
    moved = _moved_run(args, config)
    if moved is not None and not {"name", "run_dir"} & {override.key for override in overrides}:
        config = load_config(path, [*overrides, Override("run_dir", str(moved), str(moved))])
    return config


def _moved_run(args: argparse.Namespace, config: "Config") -> Path | None:
    """The folder of a run that was named and lies elsewhere than its config says."""
    folder: Path | None = getattr(args, "config_file", None) or getattr(args, "config", None)
    if folder is None or folder.resolve() == config.run_path.resolve():
        return None
    return folder if any((folder / name).is_file() for name in ("run.log", "data/manifest.json")) else None


def _is_recipe(path: Path) -> bool:
    """Whether a path is that of a config or of a run."""
    return path.suffix.lower() in (".yaml", ".yml") or (path / "config.yaml").is_file()


def _is_baseline(model: str | None) -> bool:
    """Whether --model names a baseline; raises `InputError` for a name that is neither one nor a model's.

    A model's is that of a path, of a data package, or a hub id, which has a slash.
    """
    from palate.baselines.registry import RANKERS
    from palate.store.hub import MODELS

    if model is None or model in RANKERS:
        return model is not None
    near = difflib.get_close_matches(model, RANKERS, n=1, cutoff=0.85)
    if near and not Path(model).exists():
        raise InputError(f"is {model!r}, did you mean {near[0]!r}?", "--model")
    if model not in MODELS and "/" not in model and not Path(model).exists():
        expected = f"a path, a hub id, {', '.join(MODELS)}, or a baseline: {', '.join(RANKERS)}"
        raise InputError(f"is {model!r}, expected {expected}", "--model")
    return False


def _has_tokenizer(model: str) -> bool:
    """Whether a model has its own tokenizer; a folder with only config.json, as for `palate plan`, has none."""
    folder = Path(model)
    return not folder.is_dir() or any(folder.glob("tokenizer*")) or (folder / "vocab.json").is_file()


def _recipe(args: argparse.Namespace) -> Path | None:
    """The config file: named, in the named folder of a run, or in the run that the exported adapter belongs to."""
    named, option = getattr(args, "config_file", None), getattr(args, "config", None)
    if named is not None and option is not None:
        raise InputError(f"is named beside {named}, expected one of both", "--config")
    path: Path | None = named or option
    if path is None:
        adapter = args.adapter if args.command in ("export", "recommend") else None
        beside = None if adapter is None else adapter.parent / "config.yaml"
        return beside if beside is not None and beside.is_file() else None
    inside = path / "config.yaml"
    if path.is_dir() and inside.is_file():
        return inside
    if path.is_dir() or is_table(path.name) or archive_stem(path.name) is not None:
        raise InputError("is no recipe, expected a YAML file or the folder of a run; ratings go with --ratings", path)
    return path


def _end_on_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does: temporary files are removed, and one line reports it."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _let_segments_grow() -> None:
    """Let CUDA's allocator extend its blocks, unless the user chose otherwise; PyTorch reads this before CUDA starts.

    Passes have ever new lengths, for which blocks of fixed sizes leave gaps.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    if sys.platform == "linux" and not any(name in os.environ for name in names):
        os.environ[names[-1]] = "expandable_segments:True"


def _quiet_libraries() -> None:
    """Silence the libraries' own messages and bars, errors excepted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
