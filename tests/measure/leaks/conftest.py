from tests.samples.conftest import ml_latest_small

__all__ = ["ml_latest_small"]
