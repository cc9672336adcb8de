"""`python -m runners` is the command `tokendream`."""

from __future__ import annotations

import sys

from runners.cli import main

if __name__ == "__main__":
    sys.exit(main())
