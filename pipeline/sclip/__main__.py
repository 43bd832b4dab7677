"""`python -m sclip`, which torchrun starts."""

from sclip.cli import main

main()
