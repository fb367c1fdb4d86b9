"""The order of the packages, read from their imports: each imports only those before it; no module is in a circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import palate

ROOT = Path(palate.__file__).parent
ORDER = [
    *("errors", "validation", "store", "console", "progress", "snapshot", "ratings", "prompt", "ablations", "copies"),
    "config",
    *("samples", "tokens", "models", "text", "train"),
    *(
        "score",
        "cluster",
        "baselines",
        "measure",
        "report",
        "alpaca",
        "recommend",
        "plan",
        "serve",
        "client",
        "commands",
        "parser",
        "cli",
        "__main__",
    ),
]


def modules() -> dict[str, Path]:
    """All but `palate` itself, which imports the others only when a name of theirs is used."""
    names = {path: ".".join(("palate", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if path != ROOT / "__init__.py"}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, at the top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "palate":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else str(node.module)


def test_a_package_imports_only_those_before_it() -> None:
    known = modules()
    place = {f"palate.{name}": at for at, name in enumerate(ORDER)}
    upward = []
    for name, path in known.items():
        for other in imports(path, known):
            one, two = (".".join(each.split(".")[:2]) for each in (name, other))
            if one != two and two != "palate" and place[two] > place.get(one, -1):
                upward.append(f"{name} -> {other}")
    assert upward == []


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    list(TopologicalSorter({name: set(imports(path, known)) - {name} for name, path in known.items()}).static_order())


def test_contributing_lists_the_packages_in_this_order() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.split("src/palate/\n")[1].split("\n```")[0].splitlines()
    columns = [line.strip().split("  ")[0].split() for line in lines]
    names = [name.removesuffix(".py").removesuffix("/") for column in columns for name in column]
    assert names == [name for name in ORDER if name != "__main__"]
