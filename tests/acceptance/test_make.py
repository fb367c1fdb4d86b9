import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from palate.cli import _parser
from palate.ratings.database import is_url

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".venv" / ".test").is_file(), reason="not run by `make test`")
@pytest.mark.parametrize("target", ["test", "demo"])
def test_a_second_make_installs_nothing(target: str) -> None:
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "pip" not in planned
    assert ".venv/bin/" in planned


def test_make_install_takes_neither_the_demo_nor_the_tools() -> None:
    command = ["make", "-n", "VENV=no-such-environment", "install"]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert [line.partition(" install ")[2].split() for line in planned.splitlines() if " -m pip " in line] == [
        ["-c", "constraints.txt", "-e", "'.[train,serve]'"]
    ]


def test_the_image_is_pinned_and_runs_without_root() -> None:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines)

    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["python:3.12-slim"]
    user = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert user
    assert user[-1] not in ("root", "0")
    assert lines.index(f"USER {user[-1]}") < lines.index('ENTRYPOINT ["palate"]')
    installed = re.findall(r"pip install --no-cache-dir (.*?)(?:&&|$)", text.replace("\\\n", ""), re.MULTILINE)
    assert [words.split()[-3:] for words in installed[:2]] == [
        ["-c", "constraints.txt", "torch"], ["--require-hashes", "-r", "requirements.lock"]
    ]  # fmt: skip
    assert installed[2:] == ["--no-deps ."]
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert set(copied) <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert all((ROOT / name).exists() for name in copied)


def test_the_lock_has_hashes_of_the_versions_that_were_tested() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([^ ]+)", lock, re.MULTILINE))
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {name.replace("_", "-").lower(): version for name, version in tested.items()}
    assert {name: tested[name] for name in locked if name in tested} == {
        name: version for name, version in locked.items() if name in tested
    }
    assert locked.keys() - tested.keys() <= {"colorama", "httpx2-jsfetch", "setuptools"}  # of other platforms
    entries = re.split(r"\n(?=[^ #])", lock)[1:]
    assert len(entries) == len(locked)
    assert all("--hash=sha256:" in entry for entry in entries)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    words = [*project["dependencies"], *(each for name in extras if name != "dev" for each in extras[name])]
    wanted = {re.split(r"[\[<>=]", each)[0].lower() for each in words}
    assert wanted - {"torch"} <= locked.keys()
    assert "torch" in tested


def test_the_services_run_without_root_behind_a_key_on_this_machine_alone() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())
    palate, db = (services["services"][name] for name in ("palate", "db"))

    assert palate["user"].strip("${}").partition(":-")[2] not in ("", "0")
    assert palate["cap_drop"] == ["ALL"]
    assert (palate["read_only"], palate["tmpfs"]) == (True, ["/tmp"])
    assert all(port.startswith("127.0.0.1:") for port in palate["ports"])
    assert "ports" not in db
    assert services["secrets"] == {"api_key": {"environment": "PALATE_API_KEY"}}
    assert re.fullmatch(r"postgres:\d+", db["image"])
    args = _parser().parse_args([word.replace("${RUN:-runs/demo}", "runs/demo") for word in palate["command"]])
    assert (args.host, str(args.api_key_file)) == ("0.0.0.0", "/run/secrets/api_key")
    assert is_url(args.store)
    words = palate["healthcheck"]["test"]
    assert words[:3] == ["CMD", "python", "-c"]
    compile(words[3], "healthcheck", "exec")
    seconds = int(palate["stop_grace_period"].rstrip("s"))
    assert seconds > 2 * args.timeout
    assert all(each["healthcheck"] for each in (palate, db))


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py") if p.name != "utils.py"))
def test_every_script_of_the_guide_is_a_few_lines_that_call_the_package(script: str) -> None:
    lines = (ROOT / "scripts" / script).read_text().splitlines()

    assert len(lines) < 15
    assert "from palate.cli import guide" in lines


def test_the_scripts_utils_are_the_guides_functions() -> None:
    words = "to_chat_messages, to_generation_messages, tokenize_func, preprocess_datasets_parallel"
    code = f"from utils import {words}; print('found')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=False
    )

    assert done.stdout == "found\n", done.stderr
