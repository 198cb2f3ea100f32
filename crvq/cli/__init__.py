"""The command line: Hydra in, typed configuration out, errors shown as people want them."""

from crvq.cli.config_store import store_defaults

# Before anything is composed: the files of conf/ build on these nodes.
store_defaults()
