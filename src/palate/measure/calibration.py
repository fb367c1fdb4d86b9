"""Calibration: from what a model says to a probability that means what it says.

A language model's P(like) = σ(z), z = z_yes − z_no, sorts better than it measures: fine-tuned on few answers it is too
sure, untrained it leans to one of the two words. A calibration is an increasing function of z, fitted on validation:

    none         p = σ(z)
    temperature  p = σ(z / T), T > 0                      (Guo, Pleiss, Sun & Weinberger 2017)
    platt        p = σ(a z + b), a > 0                    (Platt 1999)
    isotonic     p = (1 − ε) g(z) + ε h(z)                (Zadrozny & Elkan 2002), g not decreasing, piecewise linear

g alone gives many rows the same p, and ties move an AUC. The tie-breaker h(z) = ½ + z / (2 (1 + |z|)) with ε = 1e-6
keeps the order of z, so that no calibration changes what ranks above what; it moves no p by more than 1e-6.

Fitting is in `fit_calibration`; applying a calibration needs NumPy and nothing else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate import __version__
from palate.errors import InputError
from palate.prompt.tokenizer import is_text_hash
from palate.store.artifacts import read_json, sha256_file, sha256_of, write_json
from palate.store.keys import changed

FILE = "calibration.json"
FORMAT = 1
"""Raised whenever a file would have to be read in another way."""
TIE = 1e-6

Method = Literal["none", "temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
"""From the fewest to the most parameters."""
Floats = NDArray[np.float64]

_PARAMETERS = {"none": (), "temperature": ("temperature",), "platt": ("slope", "intercept"), "isotonic": ("z", "p")}
_ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class CalibrationSource:
    """Whose logits a calibration is for; it is refused for any other's."""

    model: str
    """The fingerprint of the base model's weights, or what a server calls the model that it has."""
    adapter: dict[str, str]
    """The hashes of the adapter's files; empty for the base model alone."""
    prompt: str
    """The hash of what the model is asked with, see `prompt_hash`."""
    server: str | None = None
    """What served the model, where that was another program."""

    def differs(self, other: "CalibrationSource") -> str | None:
        """What of it is another in `other`; None if nothing."""
        return next(iter(changed(asdict(self), asdict(other))), None)


@dataclass(frozen=True)
class Losses:
    """The log loss of one method on the validation rows, in nats."""

    cross_validated: float | None
    """On rows of users that the method was not fitted on; None where there is one user only."""
    fitted: float
    """On the rows that it was fitted on."""


@dataclass(frozen=True)
class FittedOn:
    """The validation rows, and what was asked for."""

    scores: str
    """SHA-256 of rows, labels and logits."""
    key: str
    """SHA-256 of what the scores depend on: samples, rows, model, adapter, number format."""
    rows: int
    users: int
    liked: float
    """Share of liked rows."""
    asked: str
    """`score.calibration`."""
    seed: int
    """Of the users' folds."""


@dataclass(frozen=True)
class Calibration:
    """One fitted method, with what it was fitted on and what else was tried."""

    method: Method
    parameters: Mapping[str, Any]
    """`temperature`; `slope` and `intercept`; or the knots `z` and `p` of equal length, `z` ascending."""
    source: CalibrationSource
    fitted_on: FittedOn
    losses: Mapping[str, Losses]
    """Of every method that was tried."""

    def p(self, logit: ArrayLike) -> Floats:
        """P(like) of logits z_yes − z_no of any shape, in float64; increases with the logit.

        In float64 σ(x) reaches 1 at x = 37: beyond that equal values of `p` can come from different logits, and
        whoever ranks does better with the logit itself.
        """
        return apply(self.method, self.parameters, np.asarray(logit, np.float64))

    def check(self, source: CalibrationSource, place: Path | str) -> None:
        """Raise `InputError` if the calibration in `place` was fitted to the logits of another source."""
        name = self.source.differs(source)
        if name is not None:
            raise InputError(
                f"was fitted to the scores of another {_NAMES[name]}, not {_short(source, name)}: expected a "
                "calibration of this model's own; remove the file, and `palate evaluate` fits one",
                place,
            )


_NAMES = {"model": "base model", "adapter": "adapter", "prompt": "prompt", "server": "server"}


def apply(method: str, parameters: Mapping[str, Any], z: Floats) -> Floats:
    """P(like) by a method with its parameters; `z` float64 of any shape."""
    if method == "none":
        return sigmoid(z)
    if method == "temperature":
        return sigmoid(z / parameters["temperature"])
    if method == "platt":
        return sigmoid(parameters["slope"] * z + parameters["intercept"])
    steps: Floats = np.interp(z, parameters["z"], parameters["p"])
    p: Floats = (1 - TIE) * steps + TIE * (0.5 + z / (2 * (1 + np.abs(z))))
    return p


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(−x)) without overflow; float64 of any shape."""
    small = np.exp(-np.abs(x))
    p: Floats = np.where(x >= 0, 1.0, small) / (1 + small)
    return p


def prompt_hash(prompt: Mapping[str, Any], tokenizer: Mapping[str, str], decision: Mapping[str, Any]) -> str:
    """The hash of prompt texts, tokenizer and decision token, as `palate.json` of an adapter holds them."""
    return sha256_of({"prompt": dict(prompt), "tokenizer": dict(tokenizer), "decision": dict(decision)})


def load_calibration(folder: Path, *, source: CalibrationSource | None = None) -> Calibration | None:
    """The calibration in an adapter's folder, or a run's folder for its base model; None if there is none.

    Raises `InputError` if the file is broken, or was fitted to the scores of another adapter than the folder holds, or
    of another base model or prompt than the adapter's `palate.json` names. What the folder does not tell is compared
    where `source` says whose logits are to be calibrated: the base model of a run, the server.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    found = read_calibration(path)
    adapter = {name: sha256_file(folder / name) for name in _ADAPTER if (folder / name).is_file()}
    held = replace(found.source, adapter=adapter)
    if (folder / "palate.json").is_file():
        about = read_json(folder / "palate.json")
        if not is_text_hash(
            about["tokenizer"]["chat template"]
        ):  # an earlier version's, which no other one compares to
            held = replace(held, prompt=prompt_hash(about["prompt"], about["tokenizer"], about["decision"]))
        if held.server is None:  # nobody here has seen the weights that a server has
            held = replace(held, model=about["base"]["weights"])
    found.check(held, path)
    if source is not None:
        found.check(source, path)
    return found


def read_calibration(path: Path) -> Calibration:
    """Read a file; raises `InputError` if it is no calibration, or one that does not increase."""
    value = read_json(path)
    wanted = f"expected a calibration of format {FORMAT}"
    if value.get("format") != FORMAT:
        raise InputError(f"is something else, {wanted}", path)
    try:
        method, parameters = value["method"], value["parameters"]
        found = Calibration(
            method,
            {name: parameters[name] for name in _PARAMETERS[method]},
            CalibrationSource(**value["source"]),
            FittedOn(**value["fitted_on"]),
            {name: Losses(**losses) for name, losses in value["losses"].items()},
        )
        increases = _increases(method, found.parameters)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is damaged ({error!r}), {wanted}", path) from error
    if not increases:
        raise InputError(f"has {method} parameters under which P does not increase with the logit, {wanted}", path)
    return found


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file, atomically; equal calibrations give equal bytes."""
    write_json(path, {"format": FORMAT, "palate": __version__, **asdict(calibration)})


def _increases(method: Method, parameters: Mapping[str, Any]) -> bool:
    """Whether the parameters are finite and give an increasing function with values in [0, 1]."""
    values = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    if not all(np.isfinite(value).all() for value in values.values()):
        return False
    if method == "isotonic":
        z, p = values["z"], values["p"]
        ordered = (
            z.ndim == 1 and z.shape == p.shape and z.size > 0 and (np.diff(z) > 0).all() and (np.diff(p) >= 0).all()
        )
        return bool(ordered and p[0] >= 0 and p[-1] <= 1)
    return all(value.ndim == 0 and (name == "intercept" or value > 0) for name, value in values.items())


def _short(source: CalibrationSource, name: str) -> str:
    value = getattr(source, name)
    return str(next(iter(value.values()), "none") if isinstance(value, dict) else value)[:16]
