"""Ratings: find and read the tables of ratings and items, recognize their columns, and check every row."""
