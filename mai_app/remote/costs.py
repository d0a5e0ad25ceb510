"""Costs on Modal: list prices, the formula, and the tables of the docs (`python -m mai_app.remote.costs`)."""

from dataclasses import dataclass
from typing import Any, Final

from mai_app.errors import MaiError

PRICES_OF: Final = "October 2026"
GPU_SECOND: Final = {
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "A10G": 0.000306,
    "L40S": 0.000542,
    "A100": 0.000583,
    "A100-40GB": 0.000583,
    "A100-80GB": 0.000694,
    "RTX-PRO-6000": 0.000842,
    "H100": 0.001097,
    "H200": 0.001261,
    "B200": 0.001736,
    "B300": 0.001972,
}
"""US dollars per second and GPU."""
CORE_SECOND: Final = 0.0000131
"""US dollars per second and physical core."""
GIB_SECOND: Final = 0.00000222
"""US dollars per second and GiB of memory."""
NONPREEMPTIBLE: Final = 3
"""Factor on the price of a container that Modal promises not to preempt."""
GPUS: Final = ("L4", "A10", "T4")
"""GPU types asked for by default, in order of preference."""


def choose_gpus(wanted: str | None) -> tuple[str, ...]:
    """The GPU types that MAI_GPU names, by commas and in order of preference; GPUS where it names none.

    Raises MaiError for an empty name between commas, or a number of GPUs that is none.
    """
    if not (wanted or "").strip():
        return GPUS
    names = tuple(name.strip() for name in (wanted or "").split(","))
    for name in names:
        kind, colon, count = name.partition(":")
        if not kind or (colon and not (count.isdecimal() and int(count))):
            raise MaiError(f"MAI_GPU={wanted}: name GPU types as L4 or H100:2, with commas between them")
    return names


def per_second(gpu: str, cores: float, gib: float) -> float | None:
    """Price of a container in US dollars per second; gpu as Modal names it ("L4", "H100:2"), "" for none.

    None for a GPU whose price is not in the table.
    """
    name, _, count = gpu.rstrip("!").partition(":")
    name = name.rstrip("!").upper()
    if name and name not in GPU_SECOND:
        return None
    return (GPU_SECOND[name] * int(count or 1) if name else 0.0) + cores * CORE_SECOND + gib * GIB_SECOND


@dataclass(frozen=True)
class Machine:
    """The hardware, limits and number of containers of a function on Modal."""

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
    retries: int = 0
    """Attempts after the first one."""
    preemptible: bool = True
    """Whether Modal may stop it for others and start it again, for a third of the price."""
    idle: int = 0
    """Seconds that a container waits for the next call, paid for like work; 0: as Modal likes, a minute."""

    def modal_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of Modal's decorators that ask for this machine."""
        wanted: dict[str, Any] = {
            "cpu": float(self.cores),
            "memory": self.gib * 1024,
            "timeout": self.timeout,
            "startup_timeout": STARTUP,  # else as long as the work itself may take
            "max_containers": self.containers,
            "gpu": list(self.gpus) or None,
        }
        return wanted | ({} if self.preemptible else {"nonpreemptible": True})

    def prices(self) -> list[float] | None:
        """Dollars per second, by GPU; None where one of them is not known."""
        factor = 1 if self.preemptible else NONPREEMPTIBLE
        prices = [per_second(gpu, self.cores, self.gib) for gpu in self.gpus or ("",)]
        known = [factor * price for price in prices if price is not None]
        return known if len(known) == len(prices) else None


STARTUP: Final = 15 * 60
"""Seconds that a container may take to start, its imports included."""


def describe_cost(what: str, machine: Machine, containers: int | None = None) -> str:
    """One line: what is hired, at most how many containers and attempts, for how long, and the price.

    `containers`: how many the command can use; default: as many as the machine allows.
    """
    size = f"{' or '.join(machine.gpus) or 'no GPU'}, {machine.cores:g} cores, {machine.gib} GiB"
    count = min(containers or machine.containers, machine.containers)
    hours = machine.timeout * (1 + machine.retries) * (containers or machine.containers) / 3600
    if prices := machine.prices():
        hourly = [price * 3600 for price in prices]
        dollars = f"${_range(hourly)} an hour each (list price, {PRICES_OF})"
        if machine.retries:
            dollars += f"; ${max(hourly) * hours:,.0f} if every attempt takes all of its time"
        if machine.idle:
            idle = [price * machine.idle for price in prices]
            dollars += f"; a call that finds none waiting starts one, which then waits {machine.idle / 60:g} min for "
            dollars += f"others: ${_range(idle, 4)}"
    else:
        dollars = "price not known here, see modal.com/pricing"
    limit = f"{machine.timeout / 3600:g} h" if machine.timeout >= 3600 else f"{machine.timeout / 60:g} min"
    most = "1 container" if count == 1 else f"at most {count} containers"
    attempts = f", {1 + machine.retries} attempts at most" if machine.retries else ""
    return f"{what}: hires {most} ({size}), {limit} at most an attempt{attempts}; {dollars}"


def _range(values: list[float], digits: int = 2) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}–{high}"


def table() -> str:
    """The tables of the docs in Markdown: dollars for a training, for predictions and for one call."""
    images, epochs = 100_000, 20
    lines = [
        f"| {images:,} images × {epochs} epochs, 8 cores, 16 GiB | 500 images/s | 1,000 images/s | 2,000 images/s |",
        "|---|---|---|---|",
    ]
    for gpu in ("T4", "L4", "A10", "A100-40GB", "H100", "H200"):
        price = per_second(gpu, 8, 16) or 0.0
        dollars = [f"${images * epochs / speed * price:.2f}" for speed in (500, 1000, 2000)]
        lines.append(f"| {gpu} | {' | '.join(dollars)} |")
    lines += [
        "",
        "| 1,000 predictions | 10 images/s | 50 images/s | 200 images/s | and 5 idle minutes after the last |",
        "|---|---|---|---|---|",
    ]
    for name, gpu in (("4 cores, 4 GiB, no GPU", ""), ("the same with an L4", "L4")):
        price = per_second(gpu, 4, 4) or 0.0
        dollars = [f"${1000 / speed * price:.4f}" for speed in (10, 50, 200)]
        lines.append(f"| {name} | {' | '.join(dollars)} | ${300 * price:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
