"""``python -m crvq.report`` is ``crvq report``."""

import sys

from crvq.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
