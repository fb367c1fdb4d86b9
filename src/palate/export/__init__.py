"""Export: a trained adapter and its base as one model that other programs load, with the proof that it is the same."""
