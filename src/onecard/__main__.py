"""`python -m onecard`."""

from onecard.cli.main import script

script()
