"""Samples: each user's timeline, the split of its samples, and the prepared files."""

from palate.samples.build import Samples, build_samples
from palate.samples.export import prepare
from palate.samples.lines import iter_examples
from palate.samples.prepared import Prepared, load_prepared

__all__ = ["Prepared", "Samples", "build_samples", "iter_examples", "load_prepared", "prepare"]
