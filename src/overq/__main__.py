"""`python -m overq` is the `overq` command."""

from overq.cli import main

main()
