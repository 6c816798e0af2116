"""`python -m harness`, the same as the `vltune` command."""

import sys

from harness.cli import main

sys.exit(main())
