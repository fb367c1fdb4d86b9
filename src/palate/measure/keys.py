"""Keys of an evaluation's rows, as used in `metrics.json` and in names of score files."""

ZERO_SHOT = "zero-shot"
FINE_TUNED = "fine-tuned"
MARK = "@"
"""Separates a model's name from its number, as in `fine-tuned@2`."""
CALIBRATED = "-calibrated"
"""Suffix of the key of a model's calibrated row."""
MEAN = "mean-of-adapters"
STACKED = "stacked"
"""The model's logit stacked with statistics."""
ALONE = "statistics"
"""The same statistics without the model."""
BESIDE = "stacked-baseline"
"""The model's logit stacked with that of a baseline."""
COMBINED = (MEAN, STACKED, ALONE, BESIDE)
"""Rows that combine a model's scores with other scores."""
CONSTANT = "constant"
"""The baseline that predicts the base rate for every row."""


def in_words(key: str) -> str:
    """A key in prose: `fine-tuned 2, calibrated`."""
    return key.replace(MARK, " ").replace(CALIBRATED, ", calibrated")


def main_key(keys: list[str]) -> str:
    """The main model of a run: the first adapter, else the base model."""
    models = [key for key in keys if key not in COMBINED]
    return next((key for key in models if key.startswith(FINE_TUNED)), models[0])
