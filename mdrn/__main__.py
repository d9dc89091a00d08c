"""`python -m mdrn` is the command line of `mdrn.cli`."""

from mdrn.cli import main

raise SystemExit(main())
