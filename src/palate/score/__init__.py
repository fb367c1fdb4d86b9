"""Score prompts: P(like) at the decision token, from a local model or a server."""
