"""Item text: frozen vectors of items' texts, computed once by an encoder and kept in a run's folder."""
