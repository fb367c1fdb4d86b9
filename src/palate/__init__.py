"""Palate turns a ratings log into an LLM recommender that can be trusted."""

from importlib import import_module

TYPE_CHECKING = False  # typing takes 3 ms, in which Ctrl-C would print a traceback
PLACES = {
    "Chat": "palate.prompt.chat",
    "Client": "palate.client",
    "Config": "palate.config",
    "Options": "palate.tokens.dataset",
    "PrepareConfig": "palate.config",
    "PromptSpec": "palate.prompt.spec",
    "Scorer": "palate.score.scorer",
    "ServiceError": "palate.client",
    "TokenDataset": "palate.tokens.dataset",
    "build_samples": "palate.samples.build",
    "load_config": "palate.config",
    "load_prepared": "palate.samples.prepared",
    "load_ratings": "palate.ratings.load",
    "load_tokenizer": "palate.prompt.tokenizer",
    "prepare": "palate.samples.export",
    "preprocess_datasets_parallel": "palate.tokens.cache",
    "token_datasets": "palate.tokens.dataset",
}
"""The module of each public name, imported at the name's first use, because some imports take a second."""

__all__ = ["__version__", *PLACES]

if TYPE_CHECKING:
    __version__: str
    from palate.client import Client as Client
    from palate.client import ServiceError as ServiceError
    from palate.config import Config as Config
    from palate.config import PrepareConfig as PrepareConfig
    from palate.config import load_config as load_config
    from palate.prompt.chat import Chat as Chat
    from palate.prompt.spec import PromptSpec as PromptSpec
    from palate.prompt.tokenizer import load_tokenizer as load_tokenizer
    from palate.ratings.load import load_ratings as load_ratings
    from palate.samples.build import build_samples as build_samples
    from palate.samples.export import prepare as prepare
    from palate.samples.prepared import load_prepared as load_prepared
    from palate.score.scorer import Scorer as Scorer
    from palate.tokens.cache import preprocess_datasets_parallel as preprocess_datasets_parallel
    from palate.tokens.dataset import Options as Options
    from palate.tokens.dataset import TokenDataset as TokenDataset
    from palate.tokens.dataset import token_datasets as token_datasets
else:

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            value = version("palate")
        elif name in PLACES:
            value = getattr(import_module(PLACES[name]), name)
        else:
            raise AttributeError(f"module 'palate' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *PLACES})
