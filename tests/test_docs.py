"""The README, docs/ and the notes of measurements: Python blocks run, command lines parse, links lead somewhere."""

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.ratings import write_ratings
from tests.tiny import tiny_folder

import palate
from palate import cli
from palate.baselines.registry import BASELINES
from palate.prompt.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/results/*.md")),
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVED = "docs/serve.md"
"""Its blocks need a service: tests/serve/test_docs.py runs them."""
BLOCKS = {
    name: [body for kind, body in FENCED.findall(text) if kind == "python" and name != SERVED]
    for name, text in TEXTS.items()
}
COMMANDS = {
    (name, " ".join(line.split()))
    for name, text in TEXTS.items()
    for line in re.findall(r"^(?: {4,}|[\w.$/-].* -m )?(palate [a-z].*)$", text.replace("\\\n", " "), re.MULTILINE)
}
MENTIONS = {
    (name, " ".join(words.split()))
    for name, text in TEXTS.items()
    for words in re.findall(r"`(palate [a-z][^`]* --[^`]*)`", FENCED.sub("", text))
}


@pytest.fixture
def folder(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with small stand-ins under the names that the pages use."""
    write_ratings(tmp_path / "data" / "ml-latest-small", users=60)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("qwen3", "smollm2-135m", "Qwen/Qwen3-0.6B", "minilm"):
        shutil.copytree(base, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    load_tokenizer.cache_clear()  # it knows tokenizers by name, here those of other folders
    yield tmp_path
    load_tokenizer.cache_clear()


def prepare_data(folder: Path) -> None:
    config = palate.load_config()
    ratings = palate.load_ratings("data/ml-latest-small")
    palate.prepare(ratings, config.prepare, config.prompt, config.seed, folder / "data" / "mine")


def prepare_tables(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (folder / "ml-1m").mkdir()
    for split in ("train", "valid", "test"):
        pandas.DataFrame({"uid": [1], "iid": [2], "label": [1]}).to_pickle(f"{split}_ood2.pkl")


def prepare_merged(folder: Path) -> None:
    merged = tiny_folder(folder / "runs" / "demo" / "merged")
    (merged / "palate.json").write_text('{"decision": {"response_before": "", "yes": {"id": 1}, "no": {"id": 2}}}')


PREPARED = {
    "docs/baselines.md": prepare_data,
    "docs/external.md": prepare_tables,
    "docs/export.md": prepare_merged,
    "docs/text.md": prepare_data,
}


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_python_blocks_run_one_after_the_other(name: str, folder: Path) -> None:
    PREPARED.get(name, lambda _: None)(folder)
    variables: dict[str, Any] = {"__name__": "__main__"}
    absent = []
    for number, block in enumerate(BLOCKS[name], 1):
        try:
            exec(compile(block, f"{name}, block {number}", "exec"), variables)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "palate":
                raise
            absent.append(f"block {number} needs {error.name}")
    if absent:
        pytest.skip("; ".join(absent))


@pytest.mark.parametrize(("name", "line"), sorted(COMMANDS))
def test_a_command_line_parses(name: str, line: str) -> None:
    cli._parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize(("name", "line"), sorted(MENTIONS))
def test_a_command_mentioned_in_a_sentence_has_its_options(
    name: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.split()
    with pytest.raises(SystemExit):
        cli._parser().parse_args([words[1], "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_every_public_name_is_there() -> None:
    assert all(hasattr(palate, name) for name in palate.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        palate.Nothing  # noqa: B018


def test_every_baseline_is_documented_under_its_name() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", TEXTS["docs/baselines.md"], re.MULTILINE)
    assert dict(rows) == BASELINES


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^()\s]+)\)", FENCED.sub("", TEXTS[name]))
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        assert there.exists(), link
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), link


def test_the_generated_reference_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    for name, text in made.items():
        assert TEXTS[f"docs/{name}"] == text, "run: python docs/reference.py"
