"""The service: a run's models behind HTTP, with a page, a store of feedback, and the way back to training."""
