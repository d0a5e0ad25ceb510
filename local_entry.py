"""MAI on this machine, with no Modal; or, with --on modal, the same command line there: the `mai` command as a file.

python local_entry.py train --data photos
python local_entry.py evaluate --data photos
python local_entry.py predict holiday.jpg [--on modal | --on hosted]
python local_entry.py train --data photos --on modal --detach
"""

import sys

from mai_app.cli import main

if __name__ == "__main__":
    sys.exit(main())
