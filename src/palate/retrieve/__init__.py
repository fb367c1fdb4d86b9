"""Retrieve: the candidates that are worth a language model's time, by models that cost next to nothing."""

from palate.retrieve.item_knn import ItemKNN
from palate.retrieve.known import Known, Past, Retriever
from palate.retrieve.popularity import Popularity

__all__ = ["ItemKNN", "Known", "Past", "Popularity", "Retriever"]
