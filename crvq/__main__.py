"""``python -m crvq``: the same as ``crvq`` and ``python run.py``."""

from crvq.cli.main import main

if __name__ == "__main__":
    main()
