"""`python -m onecard`."""

import sys

from onecard.cli.main import main

sys.exit(main())
