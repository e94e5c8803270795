"""`python -m dynackd`."""

import sys

from dynackd.cli import main

if __name__ == "__main__":
    sys.exit(main())
