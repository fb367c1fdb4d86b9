"""Retrieve: the candidates that are worth a language model's time, by models that cost next to nothing."""

from palate.baselines.item_knn import ItemKNN
from palate.baselines.popularity import Popularity
from palate.baselines.retriever import Past, Retriever, RetrieverData

__all__ = ["ItemKNN", "Past", "Popularity", "Retriever", "RetrieverData"]
