"""``python -m kiwicha_host.cli.demo``: see :mod:`kiwicha_host.cli.demo`."""

import sys

from . import main

sys.exit(main())
