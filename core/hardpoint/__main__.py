"""``python -m hardpoint``."""

import sys

from hardpoint.cli.main import main

sys.exit(main())
