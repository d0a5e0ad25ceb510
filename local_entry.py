"""MAI on this machine, with no Modal; or, with --on modal, the same command line there.

python local_entry.py train --data photos
python local_entry.py evaluate --data photos
python local_entry.py predict holiday.jpg [--on modal]
"""

import sys
from collections.abc import Sequence

from mai_app import cli

PLACES = ("local", "modal")


def main(arguments: Sequence[str]) -> int:
    """Run one command of `mai` at the place that --on names; returns the exit code."""
    words, place = take_place(list(arguments))
    if place not in PLACES:
        print(f"local_entry.py: --on {place}: not one of {', '.join(PLACES)}", file=sys.stderr)
        return 2
    if place == "local":
        return cli.main(words)
    import modal_app  # noqa: PLC0415 - the local way needs no Modal

    return cli.main(words, modal_app.run_there)


def take_place(words: list[str]) -> tuple[list[str], str]:
    """The command line without --on, and the place that it names; local is where commands run by default."""
    for i, word in enumerate(words):
        if word == "--on":
            return words[:i] + words[i + 2 :], words[i + 1] if i + 1 < len(words) else ""
        if word.startswith("--on="):
            return words[:i] + words[i + 1 :], word.removeprefix("--on=")
    return words, "local"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
