"""The stages of a run as functions of the config; each command is one of them.

A stage says on stderr what it does, prints its result on stdout, and leaves files in the run's folder. Heavy
imports happen inside the stage that needs them.
"""
