"""What a report of a problem needs, without anything private: numbers, versions, and words that Palate's source has.

Values of a config are shown if they are numbers or words that the config's schema or its defaults name. Of an error
the report has the class and the places of the source that raised it, and the constant parts of its message.
"""

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import palate
from palate.commands.ledger import flat
from palate.config import Config
from palate.ratings.archives import ARCHIVES
from palate.store.hub import ALIASES, ENCODERS, MODELS, TOKENIZERS
from palate.store.keys import recorded
from palate.store.scratch import memory_limit

FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16"),
    *("amx_int8", "asimd", "asimddp", "bf16", "sve", "sve2"),
)
"""The flags of a processor that decide which kernels of PyTorch, Polars and NumPy run."""
PUBLIC = {
    *sys.stdlib_module_names,
    *("palate", "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "bitsandbytes", "triton"),
    *("polars", "numpy", "scipy", "pyarrow", "datasets", "huggingface_hub", "pydantic", "yaml", "rich", "numba"),
    *("sklearn", "lightgbm", "surprise", "implicit", "fastapi", "starlette", "uvicorn", "anyio", "ray", "fsspec"),
    *("psycopg", "jinja2", "matplotlib", "gguf"),
}
"""Top-level modules whose names and functions are no secret."""
_RECORD = re.compile(r"[\d-]+ [\d:,]+ (\S+) ([A-Z]+) (palate\S*): (.*)")
_RAISED = re.compile(r"raised (\w+) at (.+)")
_FRAME = re.compile(r"(\w+(?:\.\w+)*):(\d+) in (?:\w+|<\w+>)")
_STAGE = re.compile(r"\d/\d ([a-z ]+)")


def problem_report(config: Config, versions: dict[str, Any], features: dict[str, str]) -> dict[str, Any]:
    """The report as JSON has it; with the config and the last error of the run if `config` names one."""
    report: dict[str, Any] = {
        "palate": palate.__version__,
        **versions,
        "flags": _flags(),
        "memory_bytes": memory_limit(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "features": features,
    }
    if config.model_fields_set:
        stages = recorded(config.run_path / "stages.json")
        report["run"] = {
            "config": dict(_shown(config)),
            "finished": sorted({name.partition(",")[0] for name in stages if re.fullmatch(r"[a-z -]+(, .*)?", name)}),
            "last_error": _last_error(config.run_path / "run.log"),
        }
    return report


def _flags() -> list[str] | None:
    """Those of `FLAGS` that the processor has; None on a system that does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    line = next((line for line in text.splitlines() if re.match(r"(flags|Features)\s*:", line)), "")
    return [flag for flag in FLAGS if flag in line.split()]


def _shown(config: Config) -> Iterator[tuple[str, Any]]:
    """The keys that differ from the defaults, with values of which no text of a user is left."""
    usual = flat(Config().model_dump(mode="json"))
    known = {*_words(Config.model_json_schema()), *ALIASES, *MODELS, *TOKENIZERS, *ENCODERS, *ARCHIVES}
    known |= {value for key, value in usual.items() if isinstance(value, str) and not key.startswith("prompt.")}

    def masked(value: Any) -> Any:
        if isinstance(value, list):
            return [masked(each) for each in value]
        if not isinstance(value, str) or value in known:
            return value
        kind = "URL" if "://" in value else "path" if os.sep in value else "text"
        return f"… ({kind} of {len(value)} characters)"

    for key, value in flat(config.model_dump(mode="json")).items():
        if key not in usual or usual[key] != value:
            yield ".".join(part if part in known else "…" for part in key.split(".")), masked(value)


def _words(schema: Any) -> Iterator[str]:
    """The names of keys, and the texts that a value may be, of a JSON schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from _words(each)
    elif isinstance(schema, dict):
        yield from schema.get("properties", {})
        yield from (text for text in [*schema.get("enum", []), schema.get("const")] if isinstance(text, str))
        for each in schema.values():
            yield from _words(each)


def _last_error(log: Path) -> dict[str, Any] | None:
    """The newest error in a run's log; None if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found: dict[str, Any] | None = None
    stage, raised, failed = None, None, ""
    for record in filter(None, map(_RECORD.match, lines)):
        run, level, name, message = record.groups()
        if found is not None and run != failed:
            found["later_runs"] = True
        if place := _STAGE.match(message) if name == "palate.progress" else None:
            stage = place[1].strip()
        elif matched := _RAISED.fullmatch(message):
            raised = matched
        elif level in ("ERROR", "CRITICAL"):
            found, failed = {"stage": stage, **_error_facts(raised), "later_runs": False}, run
    return found


def _error_facts(raised: "re.Match[str] | None") -> dict[str, Any]:
    """The class and the places of an error, innermost first, and the constant parts of its message."""
    if raised is None:
        return {}
    frames = [frame for frame in map(_FRAME.fullmatch, raised[2].split("; ")) if frame is not None]
    at = [frame[0] if frame[1].partition(".")[0] in PUBLIC else "…" for frame in frames]
    ours = next((frame for frame in frames if frame[1].partition(".")[0] == "palate"), None)
    return {"error": raised[1], "says": None if ours is None else _constant(ours[1], int(ours[2])), "at": at}


def _constant(module: str, line: int) -> str | None:
    """The text of the `raise` at a line of Palate's source, with … for each value in it."""
    path = Path(palate.__file__).parent.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    raises = (node for node in ast.walk(tree) if isinstance(node, ast.Raise))
    statement = next((node for node in raises if node.lineno <= line <= (node.end_lineno or 0)), None)
    call = getattr(statement, "exc", None)
    if not isinstance(call, ast.Call) or not call.args:
        return None
    text = call.args[0]
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
