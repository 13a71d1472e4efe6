"""`python -m pgzoo` is `pgzoo`."""

from pgzoo.cli import main

main()
