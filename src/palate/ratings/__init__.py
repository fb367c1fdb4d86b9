"""Ratings: read, check, name the columns."""
