"""Costs on Modal: list prices, the formula, and the tables of the docs (`python -m mai_app.remote.costs`)."""

from dataclasses import dataclass
from typing import Any, Final

PRICES_OF: Final = "June 2026"
GPU_SECOND: Final = {
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "L40S": 0.000542,
    "A100-80GB": 0.000694,
    "H100": 0.001097,
    "B200": 0.001736,
}
"""US dollars per second and GPU."""
CORE_SECOND: Final = 0.0000131
"""US dollars per second and physical core."""
GIB_SECOND: Final = 0.00000222
"""US dollars per second and GiB of memory."""


def per_second(gpu: str, cores: float, gib: float) -> float | None:
    """Price of a container in US dollars per second; gpu as Modal names it ("L4", "H100:2"), "" for none.

    None for a GPU whose price is not in the table.
    """
    name, _, count = gpu.rstrip("!").partition(":")
    name = name.rstrip("!")
    if name and name not in GPU_SECOND:
        return None
    return (GPU_SECOND[name] * int(count or 1) if name else 0.0) + cores * CORE_SECOND + gib * GIB_SECOND


@dataclass(frozen=True)
class Machine:
    """The hardware, time limit and number of containers of a function on Modal."""

    cores: float
    """Physical cores."""
    gib: int
    """Memory in GiB."""
    timeout: int
    """Time limit of an attempt, in seconds."""
    containers: int = 1
    """Maximum number of containers at a time."""
    gpus: tuple[str, ...] = ()
    """GPU types in order of preference, as Modal names them ("L4", "H100:2"); empty: no GPU."""

    def modal_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of Modal's decorators that ask for this machine."""
        return {
            "cpu": float(self.cores),
            "memory": self.gib * 1024,
            "timeout": self.timeout,
            "max_containers": self.containers,
            "gpu": list(self.gpus) or None,
        }


def describe_cost(what: str, machine: Machine, containers: int | None = None) -> str:
    """One line: what is hired, at most how many containers, the time limit of an attempt, and the price per hour.

    `containers`: how many the command can use; default: as many as the machine allows.
    """
    choices = machine.gpus or ("",)
    size = f"{' or '.join(machine.gpus) or 'no GPU'}, {machine.cores:g} cores, {machine.gib} GiB"
    prices = [p * 3600 for gpu in choices if (p := per_second(gpu, machine.cores, machine.gib)) is not None]
    if len(prices) < len(choices):
        dollars = "price not known here, see modal.com/pricing"
    else:
        low, high = f"{min(prices):.2f}", f"{max(prices):.2f}"
        dollars = f"${low if low == high else f'{low}–{high}'} an hour each (list price, {PRICES_OF})"
    limit = f"{machine.timeout / 3600:g} h" if machine.timeout >= 3600 else f"{machine.timeout / 60:g} min"
    count = min(containers or machine.containers, machine.containers)
    most = "1 container" if count == 1 else f"at most {count} containers"
    return f"{what}: hires {most} ({size}), {limit} at most an attempt; {dollars}"


def table() -> str:
    """The table of the docs in Markdown: dollars for a training and for 1,000 predictions, at assumed speeds."""
    images, epochs = 100_000, 20
    lines = [
        f"| {images:,} images × {epochs} epochs, 8 cores, 16 GiB | 500 images/s | 1,000 images/s | 2,000 images/s |",
        "|---|---|---|---|",
    ]
    for gpu in ("T4", "L4", "A10", "H100"):
        price = per_second(gpu, 8, 16) or 0.0
        dollars = [f"${images * epochs / speed * price:.2f}" for speed in (500, 1000, 2000)]
        lines.append(f"| {gpu} | {' | '.join(dollars)} |")
    lines += ["", "| 1,000 predictions | 10 images/s | 50 images/s | 200 images/s |", "|---|---|---|---|"]
    for name, gpu in (("4 cores, 4 GiB, no GPU", ""), ("the same with an L4", "L4")):
        price = per_second(gpu, 4, 4) or 0.0
        dollars = [f"${1000 / speed * price:.4f}" for speed in (10, 50, 200)]
        lines.append(f"| {name} | {' | '.join(dollars)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
