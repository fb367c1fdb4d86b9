"""Ratings: read, check, name the columns."""

from palate.ratings.archives import ARCHIVES, Archive
from palate.ratings.load import Ratings, load_ratings

__all__ = ["ARCHIVES", "Archive", "Ratings", "load_ratings"]
