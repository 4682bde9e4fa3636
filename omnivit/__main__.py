"""`python -m omnivit`, as `torchrun -m omnivit` needs it."""

import sys

from omnivit.cli import main

sys.exit(main())
