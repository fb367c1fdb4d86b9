"""The `palate` command: parse, call a stage, turn errors into one line and an exit code.

Exit codes: 0 done, 1 failed while working, 2 wrong input or usage, 130 interrupted.
"""

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from palate import __version__
from palate.config import Config, Override, load_config, parse_override
from palate.errors import InputError, InterruptedWorkError, PalateError, visible
from palate.models.gguf import TYPES
from palate.train import processes

TRAIN_EXTRA = ("torch", "peft", "accelerate", "bitsandbytes", "safetensors", "gguf", "sklearn", "implicit")
PREPARING = ("polars", "numba", "llvmlite", "datasets", "pyarrow", "matplotlib")
"""What a machine that trains from a portable token folder can do without."""

Command = Callable[[Config, argparse.Namespace], None]


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
    try:
        args = _parser().parse_args(words)
    except SystemExit:  # --help and --version are written by now
        sys.stdout.flush()
        raise
    _quiet_libraries()
    _end_on_sigterm()
    try:
        config = _config(args)
        if _is_to_launch(args):
            from palate.train.launch import launch

            return launch(words, args.launch, args.accelerate_config)
        args.command(config, args)
        sys.stdout.flush()
    except InterruptedWorkError as stop:
        return _end(str(stop), stop.exit_code)
    except PalateError as error:
        return _end(f"error: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in (*TRAIN_EXTRA, *PREPARING):
            raise
        what = "palate" if package in PREPARING else "'palate[train]'"
        return _end(f"error: {error.name} is not installed, this command needs it: pip install {what}", 2)
    except KeyboardInterrupt:
        return _end("interrupted; nothing half-written was kept", 130)
    except MemoryError:
        return _end("error: out of memory", 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _end(f"error: {error.filename or 'input/output'}: {error.strerror or error}", 1)
    except Exception as error:
        if processes.lost_another(error):
            # A launcher of ours says which one that was, and how it ended.
            return _end("" if processes.LAUNCHER in os.environ else "error: another process of this run has ended", 1)
        tells, code = processes.ends(1)
        if tells:
            raise
        return code
    return 0


def _end(line: str, code: int) -> int:
    """Tell why this process ends, unless another of the run does; gives the exit code."""
    tells, code = processes.ends(code)
    if tells and line:
        print(visible(line), file=sys.stderr)
    return code


def _is_to_launch(args: argparse.Namespace) -> bool:
    """Whether this process starts others, rather than working; raises `InputError` if neither can be meant."""
    if processes.LAUNCHER in os.environ:
        return False
    if processes.place().world > 1 and args.command is not _train:
        raise InputError("several processes were launched, only `palate train` works in more than one", "WORLD_SIZE")
    if getattr(args, "launch", None) is None:
        if getattr(args, "accelerate_config", None) is not None:
            raise InputError("says how to launch, expected --launch N beside it", "--accelerate-config")
        return False
    if processes.launched():
        raise InputError("this process was launched by another program, expected one or the other", "--launch")
    return True


def guide(command: str) -> int:
    """Run one of the guide's scripts: a command, with the guide's config unless another is named."""
    words = sys.argv[1:]
    named = any(word.split("=")[0] == "--config" for word in words)
    config = Path(sys.argv[0]).resolve().parents[1] / "configs" / "qwen3_7b_movielens_qlora.yaml"
    return main([command, *([] if named else ["--config", str(config)]), *words])


def _prepare(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.prepare import prepare

    if args.tables is not None:
        from palate.commands.data_option import to_prepare

        if args.ratings is not None:
            raise InputError("are read in place of ratings, expected no --ratings beside them", "--data")
        config = to_prepare(config, args.tables)
    prepare(config)


def _lengths(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.lengths import show_lengths

    show_lengths(
        config,
        split=args.split_shown,
        from_ratings=args.ratings is not None,
        cutoffs=args.cutoffs or (),
        examples=args.show_examples,
        as_json=args.json,
        plot=args.plot,
    )


def _tokenize(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.tokenize import tokenize, tokenize_portable

    out = None if args.out is None else Path(args.out)
    if args.portable:
        if args.splits:
            raise InputError("writes what training and scoring need, expected no --split beside it", "--portable")
        tokenize_portable(config, out, as_json=args.json)
        return
    tokenize(config, out, splits=args.splits, from_ratings=args.ratings is not None, as_json=args.json)


def _plan(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.plan import show_plan

    show_plan(config, from_ratings=args.ratings is not None, prices=args.price, as_json=args.json)


def _train(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.data_option import adopted
    from palate.commands.train import train

    train(adopted(config, args.data))


def _score(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.data_option import adopted, alpaca_of
    from palate.commands.train import score_test

    config = adopted(config, args.data)
    if alpaca_of(config) is not None:
        raise InputError("is of Alpaca files, which `palate evaluate` scores", config.data_path)
    score_test(config, adapter=args.adapter, base_only=args.base_only, out=args.out)


def _evaluate(config: Config, args: argparse.Namespace) -> None:
    from palate.commands import data_option
    from palate.commands.evaluate import evaluate

    if args.scores and args.base_only:
        raise InputError("say themselves what they are of, expected no --base-only beside them", "--scores")
    config = data_option.adopted(config, args.data)
    alpaca = data_option.alpaca_of(config)
    if alpaca is not None:
        from palate.commands.evaluate_alpaca import evaluate_examples

        if args.scores:
            raise InputError("are of prepared data, expected none beside Alpaca files", "--scores")
        if len(args.adapters) > 1:
            raise InputError("is given more than once, expected one beside Alpaca files", "--adapter")
        adapter = args.adapters[0] if args.adapters else None
        evaluate_examples(config, alpaca, adapter=adapter, base_only=args.base_only, out=args.out, as_json=args.json)
        return
    evaluate(
        config,
        adapters=args.adapters,
        base_only=args.base_only,
        scores=args.scores,
        out=args.out,
        as_json=args.json,
    )


def _compare(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.compare import compare

    compare(args.runs, seed=config.seed, as_json=args.json, out=None if args.out is None else Path(args.out))


def _audit(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.audit import show_leaks

    show_leaks(config, from_ratings=args.ratings is not None, as_json=args.json)


def _recommend(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.recommend import Request, recommend

    request = Request(
        user=args.user,
        history=args.history,
        all_users=args.all_users,
        top_k=args.top_k,
        retrieve=args.retrieve,
        retriever=args.retriever,
        candidates=args.candidates,
        include_seen=args.include_seen,
        out=None if args.out is None else Path(args.out),
    )
    recommend(config, request, adapter=args.adapter, base_only=args.base_only, as_json=args.json)


def _export(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.export import export

    export(
        config,
        merge=args.merge,
        gguf=args.gguf,
        adapter=args.adapter,
        out=args.out,
        dtype=args.dtype,
        converter=args.converter,
    )


def _run(config: Config, args: argparse.Namespace) -> None:
    from palate.commands.run import run

    run(config)


def _doctor(config: Config, args: argparse.Namespace) -> None:
    from palate.commands import doctor

    doctor.examine(config, as_json=args.json)


def _cache(config: Config, args: argparse.Namespace) -> None:
    from palate.commands import cache

    if args.prune:
        choice = cache.CacheChoice(args.kind, args.older_than, args.damaged, args.everything)
        cache.prune(choice, verify=args.verify, dry_run=args.dry_run, as_json=args.json)
        return
    for option in ("older_than", "damaged", "everything", "dry_run"):
        value = getattr(args, option)
        if value is not None and value is not False:  # 0 days are said, too
            name = "--all" if option == "everything" else "--" + option.replace("_", "-")
            raise InputError("says what to remove, expected --prune beside it", name)
    cache.show_caches(kind=args.kind, verify=args.verify, as_json=args.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="palate", description="From a ratings log to an LLM recommender that can be trusted."
    )
    parser.add_argument("--version", action="version", version=f"palate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = _common_options()

    def add(name: str, command: Command, text: str, *, recipe: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        if recipe:
            sub.add_argument("config_file", metavar="CONFIG", type=Path, nargs="?", help=RECIPE)
        return sub

    data = "a prepared folder, Alpaca files of others, or tables with splits (data_dir)"
    run = add("run", _run, "prepare, lengths, train, evaluate and report, skipping what is done")

    prepare = add("prepare", _prepare, "ratings → train.json, eval.json, test_raw.jsonl, manifest.json")
    prepare.add_argument("--history-len", type=int, metavar="N", help="rated items in a prompt (15)")
    prepare.add_argument("--rating-threshold", type=float, metavar="R", help="a rating of at least this is a Yes (4.0)")
    prepare.add_argument("--val-ratio", type=float, metavar="F", help="share of validation samples (0.05)")
    prepare.add_argument("--test-ratio", type=float, metavar="F", help="share of test samples (0.1)")
    prepare.add_argument("--max-eval", type=int, metavar="N", help="validation examples in eval.json (150)")
    prepare.add_argument(
        "--split", metavar="HOW", help="user-time: each user's last samples are test; global-time: one cutoff for all"
    )
    prepare.add_argument(
        "--data",
        dest="tables",
        type=Path,
        metavar="PATH",
        help="tables with splits: a folder with train, valid and test, or a file with a column split",
    )
    prepare.add_argument("--items", metavar="FILE", help="the item table, if it is not beside the ratings")

    lengths = add("lengths", _lengths, "token-length statistics, truncation analysis, examples, plot")
    lengths.add_argument("--show-examples", type=int, default=0, metavar="N", help="show N examples down to tokens (0)")
    lengths.add_argument(
        "--cutoff-len",
        dest="cutoffs",
        type=int,
        action="append",
        metavar="N",
        help="cutoff to analyse (the config's); once more: another beside it",
    )
    lengths.add_argument(
        "--split",
        "--on",
        dest="split_shown",
        choices=["train", "eval", "val", "test"],
        default="train",
        help="which samples to measure; eval is the part of val that eval.json holds (train)",
    )
    lengths.add_argument("--json", action="store_true", help="print JSON instead of tables")
    lengths.add_argument("--plot", type=Path, metavar="FILE", help="write a histogram (PNG, SVG or PDF)")

    tokenize = add("tokenize", _tokenize, "the samples as token ids in Arrow files, for any trainer")
    tokenize.add_argument("--cutoff-len", type=int, metavar="N", help="longest sequence (1024)")
    tokenize.add_argument(
        "--truncation", metavar="HOW", help="left, right, middle: tokens; history: oldest items; drop; error (left)"
    )
    tokenize.add_argument("--train-on", metavar="WHAT", help="labels of the whole response, or of the answer alone")
    tokenize.add_argument(
        "--split",
        dest="splits",
        action="append",
        choices=["train", "val", "test"],
        help="write this split; may be repeated (all)",
    )
    tokenize.add_argument(
        "--portable",
        action="store_true",
        help="write the folder that train and score need on a machine without ratings and Polars, as their --data",
    )
    tokenize.add_argument("--json", action="store_true", help="print the manifest as JSON instead of a line")

    plan = add("plan", _plan, "tokens, FLOPs, memory and time of training, before any of it is spent")
    plan.add_argument("--max-samples", type=int, metavar="N", help="train on N samples, drawn with the seed (all)")
    plan.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="NAME=PRICE",
        help="price of a device an hour, such as H100=2.50; may be repeated",
    )
    plan.add_argument("--json", action="store_true", help="print JSON instead of tables")

    train = add("train", _train, "fine-tune the base model with LoRA or QLoRA")
    train.add_argument("--max-samples", type=int, metavar="N", help="train on N samples, drawn with the seed (all)")
    for each in (run, train):
        each.add_argument("--seeds", type=int, metavar="N", help="train with N seeds, and tell their spread (1)")
    train.add_argument("--launch", type=int, metavar="N", help="in N processes of this machine, one for each GPU (1)")
    train.add_argument(
        "--accelerate-config",
        type=Path,
        metavar="FILE",
        help="how --launch spreads the work, a file of accelerate's such as configs/accelerate/fsdp2.yaml (DDP)",
    )
    train.add_argument("--data", metavar="PATH", help=data)

    score = add("score", _score, "P(Yes) of every test sample into a file, for palate evaluate --scores")
    score.add_argument(
        "--data", metavar="PATH", help="the prepared or the portable token folder, or tables with splits"
    )
    score.add_argument("--adapter", type=Path, metavar="DIR", help="the adapter (the run's own)")
    score.add_argument("--base-only", action="store_true", help="score the base model alone, without an adapter")
    score.add_argument("--max-samples", type=int, metavar="N", help="score N test samples, drawn with the seed (all)")

    evaluate = add("evaluate", _evaluate, "P(Yes) on the test split, metrics with intervals, baselines beside them")
    evaluate.add_argument("--data", metavar="PATH", help=data)
    evaluate.add_argument(
        "--adapter",
        dest="adapters",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="the adapter (the run's own); once more: another beside it, and the mean of all",
    )
    evaluate.add_argument("--base-only", action="store_true", help="score the base model alone, without an adapter")
    evaluate.add_argument(
        "--max-samples", type=int, metavar="N", help="score N test samples, drawn with the seed (all)"
    )
    evaluate.add_argument(
        "--ablations",
        nargs="+",
        choices=["titles", "shuffle", "empty", "ratings"],
        help="score again with titles hidden, the history shuffled or emptied, its ratings hidden",
    )
    for each in (score, evaluate):
        each.add_argument(
            "--split",
            dest="evaluated_split",
            choices=["train", "val", "test"],
            help="the samples to score (test); calibration is fitted on val",
        )
    evaluate.add_argument(
        "--scores",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="measure these scores of palate score; may be repeated, no model is loaded",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of the table")

    text = "runs side by side: what differs, and their scores on the rows that they share"
    compare = add("compare", _compare, text, recipe=False)
    compare.add_argument(
        "runs",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="a run's or an evaluation's folder, its metrics.json, or a file of scores; two or more",
    )
    compare.add_argument("--json", action="store_true", help="print JSON instead of tables")

    audit = add("audit", _audit, "what the test could know that it must not: order, pairs, labels, ties, the prompt")
    audit.add_argument("--data", metavar="DIR", help="the prepared folder (data_dir)")
    audit.add_argument("--split", metavar="HOW", help="of --ratings: user-time or global-time (user-time)")
    audit.add_argument("--json", action="store_true", help="print JSON instead of the table")
    for each in (run, evaluate, audit):
        each.add_argument(
            "--allow-leaks", action="store_true", default=None, help="go on with what the audit refuses, and report it"
        )

    recommend = add(
        "recommend", _recommend, "what a user would most likely like, with P(like) and what means think of it"
    )
    recommend.add_argument("--user", metavar="ID", help="for this user, after all of their ratings")
    recommend.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="for whoever rated this, oldest first: CSV with title or item_id, and rating; or the same as JSON lines",
    )
    recommend.add_argument(
        "--all-users", action="store_true", help="for every user, into the file --out FILE.parquet; can be interrupted"
    )
    recommend.add_argument("--top-k", type=int, default=10, metavar="K", help="recommendations a user (10)")
    recommend.add_argument("--retrieve", type=int, metavar="N", help="score N candidates of a first stage (all items)")
    recommend.add_argument(
        "--retriever",
        choices=["item-knn", "popularity"],
        help="the first stage: what users with the same likes liked, or what most users liked (item-knn)",
    )
    recommend.add_argument("--candidates", type=Path, metavar="FILE", help="score these: an item_id or a title a line")
    recommend.add_argument("--include-seen", action="store_true", help="recommend what was rated before, too")
    recommend.add_argument("--adapter", type=Path, metavar="DIR", help="the adapter (the run's own)")
    recommend.add_argument("--base-only", action="store_true", help="ask the base model alone, without an adapter")
    recommend.add_argument("--json", action="store_true", help="print JSON instead of the table")

    export = add("export", _export, "adapter and base as one plain model, for vLLM, transformers or llama.cpp")
    export.add_argument("--merge", action="store_true", help="write a Hugging Face folder: safetensors, tokenizer")
    export.add_argument(
        "--gguf",
        nargs="?",
        const="f16",
        choices=TYPES,
        help="write a GGUF file of this type (f16), with llama.cpp's converter",
    )
    export.add_argument("--adapter", type=Path, metavar="DIR", help="the adapter (the run's own)")
    export.add_argument("--dtype", choices=["bfloat16", "float32"], help="of the merged weights (the base's own)")
    export.add_argument(
        "--converter", type=Path, metavar="FILE", help="convert_hf_to_gguf.py (in $LLAMA_CPP, or on the PATH)"
    )

    doctor = add("doctor", _doctor, "what this machine has, which features that turns on, where the decision lies")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of the table")

    text = "what is kept so that nothing is made twice, and how to be rid of it"
    cache = add("cache", _cache, text, recipe=False)
    cache.add_argument("--prune", action="store_true", help="remove what is damaged or unfinished, or what these say:")
    cache.add_argument("--older-than", type=float, metavar="DAYS", help="… what was last used DAYS ago or earlier")
    cache.add_argument("--kind", metavar="KIND", help="… what is of this kind, such as tables; lists only that, too")
    cache.add_argument("--damaged", action="store_true", help="… what is damaged or unfinished")
    cache.add_argument("--all", dest="everything", action="store_true", help="… everything, converted models too")
    cache.add_argument("--dry-run", action="store_true", help="say what --prune would remove, and remove nothing")
    cache.add_argument("--verify", action="store_true", help="compare hashes, not only sizes: reads every byte")
    cache.add_argument("--json", action="store_true", help="print JSON instead of lines and tables")
    return parser


RECIPE = "the recipe: a YAML file, or the folder of a run that has one"


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("options of every command")
    group.add_argument("--config", type=Path, metavar="CONFIG", help=RECIPE)
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as in train.epochs=2"
    )
    group.add_argument("--ratings", metavar="PATH|NAME", help="folder, zip, CSV, Parquet, or ml-100k, ml-32m, …")
    group.add_argument("--tokenizer", metavar="NAME|PATH", help="qwen3, smollm2, a hub id, a folder")
    group.add_argument("--model", metavar="NAME|PATH", help="smollm2-135m, a hub id, a folder, a GGUF file")
    group.add_argument("--out", metavar="DIR", help="where this command writes")
    group.add_argument("--seed", type=int, metavar="N", help="seed of everything that is drawn (13)")
    return common


OPTIONS = {
    "ratings": "ratings.source",
    "items": "ratings.items",
    "tokenizer": "tokens.tokenizer",
    "model": "model.base",
    "seed": "seed",
    "data": "data_dir",
    "history_len": "prepare.history_len",
    "rating_threshold": "prepare.rating_threshold",
    "val_ratio": "prepare.val_ratio",
    "test_ratio": "prepare.test_ratio",
    "max_eval": "prepare.max_eval",
    "split": "prepare.split",
    "cutoff_len": "tokens.cutoff_len",
    "truncation": "tokens.truncation",
    "train_on": "train.train_on",
    "seeds": "train.seeds",
    "allow_leaks": "evaluate.allow_leaks",
    "ablations": "evaluate.ablations",
    "evaluated_split": "evaluate.split",
}


def _config(args: argparse.Namespace) -> Config:
    """The config that the options and the file come to; options win."""
    overrides = [parse_override(text) for text in args.set]
    if args.model is not None and _brings_tokenizer(args.model):  # not that of the config's model, unless one is named
        overrides.insert(0, Override("tokens.tokenizer", None, "--model"))
    for option, key in OPTIONS.items():
        value = getattr(args, option, None)
        if value is not None:
            name = "split" if option == "evaluated_split" else option.replace("_", "-")
            overrides.append(Override(key, value, f"--{name}"))
    if getattr(args, "max_samples", None) is not None:
        section = "train" if args.command in (_train, _plan) else "evaluate"
        overrides.append(Override(f"{section}.max_samples", args.max_samples, "--max-samples"))
    if getattr(args, "cutoffs", None):  # the first is the config's, the others are looked at beside it
        overrides.append(Override("tokens.cutoff_len", args.cutoffs[0], "--cutoff-len"))
    if args.out is not None and args.command not in (_evaluate, _score, _tokenize, _export, _recommend, _compare):
        overrides.append(Override("data_dir" if args.command is _prepare else "run_dir", args.out, "--out"))
    path = _recipe(args)
    if path is None and args.command in (_export, _recommend) and args.adapter is not None:
        beside = args.adapter.parent / "config.yaml"  # the run's that the adapter came out of
        path = beside if beside.is_file() else None
    if path is None and args.ratings is not None:  # a run of its own for each data set that is tried
        name = re.sub(r"[^\w.-]", "-", Path(args.ratings).stem) or "palate"
        overrides.insert(0, Override("name", name, "--ratings"))
    if args.command is _run and path is None:
        raise InputError("no config, expected `palate run CONFIG`; configs/demo.yaml is one", "palate run")
    return load_config(path, overrides)


def _brings_tokenizer(model: str) -> bool:
    """Whether a model has a tokenizer of its own; a folder with nothing but config.json, to plan with, does not."""
    folder = Path(model)
    return not folder.is_dir() or any(folder.glob("tokenizer*")) or (folder / "vocab.json").is_file()


def _recipe(args: argparse.Namespace) -> Path | None:
    """The config's file, which may be named by itself or by the folder of a run."""
    path: Path | None = getattr(args, "config_file", None)
    if path is not None and args.config is not None:
        raise InputError(f"is named beside {path}, expected one of both", "--config")
    path = path or args.config
    if path is None:
        return None
    inside = path / "config.yaml"
    if path.is_dir() and inside.is_file():
        return inside
    if path.is_dir() or path.suffix in (".csv", ".dat", ".data", ".inter", ".parquet", ".zip"):
        raise InputError("is no recipe, expected a YAML file or the folder of a run; ratings go with --ratings", path)
    return path


def _end_on_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does: temporary files are removed and a line says so."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _quiet_libraries() -> None:
    """Let Palate speak for itself: what the libraries have to say goes to their own loggers, errors only."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
