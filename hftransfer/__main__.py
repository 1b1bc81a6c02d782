"""``python -m hftransfer``: the command line."""

from hftransfer.cli import main

raise SystemExit(main())
