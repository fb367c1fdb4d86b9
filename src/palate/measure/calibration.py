"""Calibration: turn a model's logit into a probability that matches observed frequencies.

A language model's P(like) = σ(z), z = z_yes − z_no, ranks better than it is calibrated: fine-tuned on few answers it is
overconfident, untrained it is biased to one answer. A calibration is an increasing function of z, fitted on validation:

    none         p = σ(z)
    temperature  p = σ(z / T), T > 0                      (Guo, Pleiss, Sun & Weinberger 2017)
    platt        p = σ(a z + b), a > 0                    (Platt 1999)
    isotonic     p = (1 − ε) g(z) + ε h(z)                (Zadrozny & Elkan 2002), g monotone and piecewise linear

g alone gives many rows the same p, and ties change an AUC. The tie-breaker h(z) = ½ + z / (2 (1 + |z|)) with ε = 1e-6
keeps the order of z, so that no calibration changes a ranking; it moves p by at most 1e-6.

`fit_calibration` fits; applying a calibration needs only NumPy.
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
"""The version of the file format; every incompatible change raises it."""
TIE = 1e-6

Method = Literal["none", "temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
"""From the fewest to the most parameters."""
Floats = NDArray[np.float64]

_PARAMETERS = {"none": (), "temperature": ("temperature",), "platt": ("slope", "intercept"), "isotonic": ("z", "p")}
_ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "item_vectors.safetensors")


@dataclass(frozen=True)
class CalibrationSource:
    """The model, adapter and prompt whose logits a calibration fits; Palate refuses it for others."""

    model: str
    """The fingerprint of the base model's weights, or the server's name of the model."""
    adapter: dict[str, str]
    """The hashes of the adapter's files; empty for the base model alone."""
    prompt: str
    """The hash of prompt, tokenizer and decision token; see `prompt_hash`."""
    server: str | None = None
    """The server of the model; None for a local model."""

    def differs(self, other: "CalibrationSource") -> str | None:
        """The first field that differs in `other`; None if all are equal."""
        return next(iter(changed(asdict(self), asdict(other))), None)


@dataclass(frozen=True)
class Losses:
    """The log loss of one method on the validation rows, in nats."""

    cross_validated: float | None
    """On held-out users; None for a single user."""
    fitted: float
    """On the rows of the fit."""


@dataclass(frozen=True)
class FittedOn:
    """The validation rows of a fit, and its settings."""

    scores: str
    """SHA-256 of rows, labels and logits."""
    key: str
    """SHA-256 of the inputs of the scores: samples, rows, model, adapter, number format."""
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
    """One fitted method, its data, and the losses of all methods."""

    method: Method
    parameters: Mapping[str, Any]
    """`temperature`; `slope` and `intercept`; or the knots `z` and `p` of equal length, `z` ascending."""
    source: CalibrationSource
    fitted_on: FittedOn
    losses: Mapping[str, Losses]
    """By method, for every method."""

    def p(self, logit: ArrayLike) -> Floats:
        """P(like) of logits z_yes − z_no of any shape, in float64; increases with the logit.

        In float64 σ(x) reaches 1 at x = 37, and different logits beyond give equal `p`: rank by the logit instead.
        """
        return apply(self.method, self.parameters, np.asarray(logit, np.float64))

    def check(self, source: CalibrationSource, place: Path | str) -> None:
        """Raise `InputError` if the calibration in `place` belongs to another source."""
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

    Raises `InputError` if the file is broken, or if it belongs to another adapter than the folder's, or to another base
    model or prompt than those in the adapter's `palate.json`. `source` adds what the folder does not record: the base
    model of a run, the server.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    found = read_calibration(path)
    found.check(recorded_source(folder, found.source), path)
    if source is not None:
        found.check(source, path)
    return found


def recorded_source(folder: Path, source: CalibrationSource) -> CalibrationSource:
    """A fit's source with what an adapter's folder records: the adapter's files, and those of its `palate.json`."""
    adapter = {name: sha256_file(folder / name) for name in _ADAPTER if (folder / name).is_file()}
    expected = replace(source, adapter=adapter)
    if (folder / "palate.json").is_file():
        about = read_json(folder / "palate.json")
        if not is_text_hash(
            about["tokenizer"]["chat template"]
        ):  # an earlier version hashed the text itself, which is not comparable
            expected = replace(expected, prompt=prompt_hash(about["prompt"], about["tokenizer"], about["decision"]))
        if expected.server is None:  # a server's weights are unknown
            expected = replace(expected, model=about["base"]["weights"])
    return expected


def read_calibration(path: Path) -> Calibration:
    """Read a file; raises `InputError` if it is not a calibration, or if its P does not increase with the logit."""
    value = read_json(path)
    wanted = f"expected a calibration of format {FORMAT}; remove the file, and `palate evaluate` fits one"
    if value.get("format") != FORMAT:
        given = f"format {value['format']!r}" if "format" in value else "no format"
        raise InputError(f"has {given}, {wanted}", path)
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
        raise InputError(f"is damaged, {wanted}", path) from error
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
