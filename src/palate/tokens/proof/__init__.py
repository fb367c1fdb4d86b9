"""Proof that a prompt may be cut into fragments: no token of the tokenizer spans a cut.

Fragments are tokenized one by one and joined. That gives the ids of the whole text only if no token would reach over
the joint, and if what stands on one side does not change the tokens on the other. Three modules decide this, each by
the one below:

- `cuts` looks for a safe cut to the left and right of each field of a prompt (`choose_cuts`), and names the values for
  which there is none. Samples that show such a value are tokenized whole.
- `boundaries` decides whether a cut between two texts is safe (`Boundaries.safe`): it follows the two characters at the
  cut through the stages of the tokenizer.
- `regex` reads a stage's regular expression, and answers which characters one match may hold together.

What is not understood is refused with a reason (`Boundaries.reason`, `UnprovedError`), and the plain path serves.
"""

from palate.tokens.proof.boundaries import Boundaries
from palate.tokens.proof.cuts import Cuts, UnprovedError, choose_cuts

__all__ = ["Boundaries", "Cuts", "UnprovedError", "choose_cuts"]
