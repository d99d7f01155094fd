"""`python -m kiwicha_host.cli`: the command without its installed script."""

from . import main

main()
