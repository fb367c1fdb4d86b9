"""Palate turns a ratings log into an LLM recommender that can be trusted."""

from importlib.metadata import version

__version__ = version("palate")
