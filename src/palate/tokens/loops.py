"""The loops over samples: compiled where numba is installed, in NumPy elsewhere."""

import logging

log = logging.getLogger(__name__)

try:
    from palate.tokens.kernel import compose, label, measure
except ImportError as error:  # numba is absent, or refuses the NumPy that is there
    from palate.tokens.numpy_kernel import compose, label, measure

    log.info("tokens are composed in NumPy, with the same result: %s", error)

__all__ = ["compose", "label", "measure"]
