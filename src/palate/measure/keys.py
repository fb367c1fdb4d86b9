"""Keys of an evaluation's rows, as `metrics.json` and the names of score files hold them."""

ZERO_SHOT = "zero-shot"
FINE_TUNED = "fine-tuned"
MARK = "@"
"""Stands between a model's name and its number, as in `fine-tuned@2`."""
CALIBRATED = "-calibrated"
"""Ends the key of a model whose P(like) is calibrated."""
MEAN = "mean-of-adapters"
STACKED = "stacked"
"""The model's logit stacked with statistics."""
ALONE = "statistics"
"""The same statistics without the model."""
BESIDE = "stacked-baseline"
"""The model's logit stacked with that of a baseline."""
COMBINED = (MEAN, STACKED, ALONE, BESIDE)
"""Rows that are made of a model's scores and something else."""
CONSTANT = "constant"
"""The baseline that answers the base rate to everything."""


def in_words(key: str) -> str:
    """A key as a sentence has it: `fine-tuned 2, calibrated`."""
    return key.replace(MARK, " ").replace(CALIBRATED, ", calibrated")


def main_key(keys: list[str]) -> str:
    """The model that stands for a run: the first adapter, else the base model."""
    own = [key for key in keys if key not in COMBINED]
    return next((key for key in own if key.startswith(FINE_TUNED)), own[0])
