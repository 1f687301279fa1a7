"""python -m corerec: the same as the command `corerec`."""

from corerec.cli.app import main

main()
