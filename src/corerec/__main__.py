"""`python -m corerec` runs the same program as the command `corerec`."""

from corerec.cli.app import main

main()
