"""The `mai` command as a file: on this machine without Modal, or with --on modal the same command line there.

python local_entry.py train --data photos
python local_entry.py evaluate --data photos
python local_entry.py predict holiday.jpg [--on modal | --on hosted]
python local_entry.py train --data photos --on modal --detach
"""

import sys

from mai_app.cli import main

if __name__ == "__main__":
    sys.exit(main())
