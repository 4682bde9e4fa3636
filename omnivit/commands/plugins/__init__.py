"""`omnivit plugins`, a package: the verb, and `info` and `check`, which are imported when they are asked for."""

from omnivit.commands.plugins.verb import add_arguments, run

__all__ = ["add_arguments", "run"]
