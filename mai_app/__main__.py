"""`python -m mai_app` is the `mai` command."""

import sys

from mai_app.cli import main

sys.exit(main())
