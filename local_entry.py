"""MAI on this machine, with no Modal; or, with --on modal, the same command line there.

python local_entry.py train --data photos
python local_entry.py evaluate --data photos
python local_entry.py predict holiday.jpg [--on modal | --on hosted]
python local_entry.py train --data photos --on modal --detach
"""

import sys
from collections.abc import Sequence

from mai_app import cli

PLACES = ("local", "modal", "hosted")


def main(arguments: Sequence[str]) -> int:
    """Run one command of `mai` at the place that --on names; returns the exit code."""
    words, place, detach = take_place(list(arguments))
    if place not in PLACES:
        print(f"local_entry.py: --on {place}: not one of {', '.join(PLACES)}", file=sys.stderr)
        return 2
    if place == "local":
        return cli.main(words)
    import modal_client  # noqa: PLC0415 - the local way needs no Modal

    return cli.main(words, lambda config: modal_client.run_there(config, detach, hosted=place == "hosted"))


def take_place(words: list[str]) -> tuple[list[str], str, bool]:
    """The command line without --on and --detach, the place that --on names, and whether the work goes on there alone.

    Commands run locally by default.
    """
    for i, word in enumerate(words):
        if word == "--on":
            rest, place = words[:i] + words[i + 2 :], words[i + 1] if i + 1 < len(words) else ""
        elif word.startswith("--on="):
            rest, place = words[:i] + words[i + 1 :], word.removeprefix("--on=")
        else:
            continue
        return [word for word in rest if word != "--detach"], place, "--detach" in rest
    return words, "local", False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
