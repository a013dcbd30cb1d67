"""`python -m stcr_plugin.cli`."""

import sys

from stcr_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
