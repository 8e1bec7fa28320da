"""python -m hptransfer"""

import sys

from hptransfer.cli import main

sys.exit(main())
