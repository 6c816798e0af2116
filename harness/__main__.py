"""`python -m harness`, the same as the `vltune` command."""

import sys

from harness.cli import main

if __name__ == "__main__":  # processes of single cells import this module under another name
    sys.exit(main())
