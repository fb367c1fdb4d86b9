"""Proof that a prompt may be cut into fragments: no token of the tokenizer spans a cut.

Palate tokenizes fragments one by one and joins them. The result equals the ids of the whole text only if no token spans
a joint, and if the text on one side does not change the tokens on the other. Three modules prove this; each calls the
next:

- `cuts` finds a safe cut to the left and right of each field of a prompt (`choose_cuts`), and the values that have
  none. Samples with such a value are tokenized whole.
- `boundaries` decides whether a cut between two texts is safe (`Boundaries.safe`): it follows the two characters at the
  cut through the stages of the tokenizer.
- `regex` parses the regular expression of a stage, and answers which adjacent characters one match may contain.

For an unsupported tokenizer the proof gives a reason (`Boundaries.reason`, `UnprovedError`), and Palate tokenizes every
sample whole.
"""

from palate.tokens.proof.boundaries import Boundaries
from palate.tokens.proof.cuts import Cuts, UnprovedError, choose_cuts

__all__ = ["Boundaries", "Cuts", "UnprovedError", "choose_cuts"]
