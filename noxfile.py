"""Tests on other versions: nox -s newest lowest (one Python: nox -s lowest-3.12; the tools are in .venv/tools/bin).

    lowest     the lowest versions that pyproject.toml allows, of direct dependencies
    newest     the newest versions that it allows, not those of constraints.txt

Both run what touches other libraries most: prompts, samples, tokens, training, scores, readers, baselines, and the
service. A Python that is not installed is skipped. TORCH has options of pip for torch, such as --index-url URL.
"""

import os
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
PYTHONS = ["3.11", "3.12", "3.13"]
EXTRAS = ("train", "serve", "excel", "remote", "dev")
UV = "uv==0.13.9"
"""It resolves to the lowest versions, which pip cannot."""
TESTS = ["tests/prompt", "tests/samples", "tests/tokens", "tests/train", "tests/score", "tests/models", "tests/ratings",
         "tests/baselines", "tests/serve/test_app.py", "tests/serve/test_engine.py"]  # fmt: skip


@nox.session(python=PYTHONS)
def lowest(session: nox.Session) -> None:
    """The lowest allowed versions."""
    _tested_with(session, "lowest-direct")


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest allowed versions."""
    _tested_with(session, "highest")


def _tested_with(session: nox.Session, resolution: str) -> None:
    session.install(UV)
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "chosen.txt"
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        # torch is pinned: each version is gigabytes, and its own tests cover what Palate uses.
        pin = Path(folder) / "pin.txt"
        pin.write_text(next(line for line in Path("constraints.txt").read_text().splitlines() if line[:7] == "torch=="))
        session.run_install(
            *("uv", "pip", "compile", "pyproject.toml", "--quiet", "--resolution", resolution, "--constraints"),
            *(str(pin), *extras, "--python", session.virtualenv.location, "--output-file", str(chosen)),
            *("--only-binary", ":all:"),  # the lowest versions that have files for this Python
            *("--no-emit-package", "torch", "--no-emit-package", "triton"),
        )
        lines = chosen.read_text().splitlines()
        chosen.write_text("\n".join(line for line in lines if not line.startswith(("nvidia-", "cuda-"))))
        session.install(*os.environ.get("TORCH", "").split(), "-r", str(pin))
        session.install("-r", str(chosen))
        session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", "-m", "not slow", *(session.posargs or TESTS), env={"OMP_NUM_THREADS": "1"})
