"""python -m corerec: the same as the command `corerec`."""

from corerec.cli import main

main()
