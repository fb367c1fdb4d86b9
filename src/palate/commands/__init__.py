"""Commands: one module for each command, as a function of the config."""
