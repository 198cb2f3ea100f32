"""Where Hydra looks for plugins: in modules of the namespace package ``hydra_plugins``."""

from crvq.cli.search import OptunaSweeper

__all__ = ["OptunaSweeper"]
