"""`python -m heedful` is the `heedful` command."""

from heedful.cli import main

main()
