"""Costs on Modal: list prices, the formula, and the tables of the docs (`python -m mai_app.remote.costs`)."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

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


def _gpus(name: str) -> int:
    """How many GPUs a type as Modal names it stands for."""
    return int(name.rstrip("!").partition(":")[2] or 1) if name else 0


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
IDLE: Final = 60
"""Seconds that a container waits for another call where the machine names no other: Modal's default."""
LEAST: Final = 10 * 60
"""Seconds that an attempt must get for a budget to be of use."""


Role = Literal["work", "pool", "leader"]
"""work: each call gets a container. pool: containers that take calls from a list, none any more once an attempt's time
is over. leader: waits for all the others."""


@dataclass(frozen=True)
class Hire:
    """What a command hires for one of its functions."""

    machine: Machine
    calls: int = 1
    """Calls, each of which gets all attempts; of a pool, containers."""
    role: Role = "work"

    @property
    def rounds(self) -> int:
        """Time limits that a call takes at most: no attempt begins in the last of them.

        Two at least, for a preempted attempt begins anew.
        """
        return max(2, 1 + self.machine.retries) if self.role != "pool" else 2

    def seconds(self, limit: int) -> int:
        """Seconds from the first start to the last end of a call whose attempts take `limit` seconds at most."""
        return self.rounds * limit + 2 * STARTUP + (self.machine.idle or IDLE)


def time_limits(hired: Mapping[str, Hire], seconds: int) -> dict[str, int]:
    """Time limits of an attempt in seconds, by function, where the work's may take so many: leaders wait longer."""
    limits = {name: min(seconds, hire.machine.timeout) for name, hire in hired.items()}
    waiting = seconds
    for name, hire in hired.items():
        if hire.role != "leader":
            turns = 1 if hire.role == "pool" else -(-hire.calls // hire.machine.containers)
            waiting += turns * hire.seconds(limits[name])
    return limits | {n: min(waiting, h.machine.timeout) for n, h in hired.items() if h.role == "leader"}


def container_hours(hired: Mapping[str, Hire], limits: Mapping[str, int], gpus: bool = False) -> float:
    """Hours that all containers together are paid for at most; with `gpus` hours of GPUs."""
    counts = {name: max(map(_gpus, hire.machine.gpus or ("",))) if gpus else 1 for name, hire in hired.items()}
    return sum(counts[name] * hire.calls * hire.seconds(limits[name]) for name, hire in hired.items()) / 3600


def upper_bound(hired: Mapping[str, Hire], limits: Mapping[str, int]) -> float | None:
    """Dollars if every attempt takes all of its time on the dearest GPU; None where a GPU's price is not known."""
    total = 0.0
    for name, hire in hired.items():
        prices = hire.machine.prices()
        if prices is None:
            return None
        total += max(prices) * hire.calls * hire.seconds(limits[name])
    return total


def limits_within(budget: float, hired: Mapping[str, Hire]) -> dict[str, int]:
    """The longest time limits of an attempt, by function, with which all of them cost the budget at most.

    All work gets the same limit, or its own where that is less. Raises MaiError for a budget that is no amount, that
    leaves less than LEAST, and for a GPU whose price is not known.
    """
    if not 0 < budget < math.inf:
        raise MaiError(f"--budget {budget:g}: name an amount of dollars")
    longest = max(hire.machine.timeout for hire in hired.values())

    def cost(seconds: int) -> float:
        dollars = upper_bound(hired, time_limits(hired, seconds))
        if dollars is None:
            gpus = sorted(
                {gpu for hire in hired.values() for gpu in hire.machine.gpus if per_second(gpu, 0, 0) is None}
            )
            raise MaiError(f"--budget: no price is known here of {' or '.join(gpus)}; name another GPU in MAI_GPU")
        return dollars

    if (least := cost(LEAST)) > budget:
        cents = math.ceil(100 * least) / 100
        raise MaiError(
            f"--budget {budget:g}: ${cents:.2f} is the least, for {LEAST // 60} minutes of each attempt that there may "
            f"be ({', '.join(hired)}); nothing was hired"
        )
    # cost never falls as the seconds grow: the number of those that are within the budget.
    return time_limits(hired, bisect_right(range(longest), budget, key=lambda seconds: cost(seconds + 1)))


def describe_bound(hired: Mapping[str, Hire], limits: Mapping[str, int], budget: float) -> str:
    """One line: the hours of containers and of GPUs that a command takes at most, and what they cost."""
    hours, gpu_hours = (container_hours(hired, limits, gpus) for gpus in (False, True))
    dollars = upper_bound(hired, limits)
    price = "price not known here" if dollars is None else f"${dollars:,.2f} (list price, {PRICES_OF})"
    taken = f"{hours:,.1f} container hours, {gpu_hours:,.1f} of them with a GPU" if gpu_hours else f"{hours:,.1f} hours"
    if budget:
        return f"in all at most {taken}, {price}: within --budget {budget:g}"
    return f"in all, if every attempt takes all of its time: {taken}, {price}; --budget DOLLARS sets a limit"


SPEEDS: Final = (500, 2000)
"""Images a second of a training, assumed and not measured: the slowest and the fastest of the table."""
STRONG_SPEEDS: Final = (100, 300)
"""Those of the recipe strong on its own GPU, by arithmetic (docs/train.md) and not measured."""


def describe_training(images: int, epochs: int, hire: Hire, limit: int, speeds: tuple[int, int] = SPEEDS) -> str:
    """One line: how long a training takes at the assumed speeds, slowest and fastest, and what that costs.

    Raises MaiError where even the fastest does not end within all attempts of `limit` seconds.
    """
    slow, fast = (images * epochs / speed for speed in speeds)
    attempts = 1 + hire.machine.retries
    if fast > limit * attempts:
        raise MaiError(
            f"{images:,} images × {epochs} epochs take {_hours(fast)} at {speeds[1]:,} images/s (assumed), and there "
            f"are {attempts} attempts of {_hours(limit)}; name a larger --budget or fewer --epochs; nothing was hired"
        )
    prices = hire.machine.prices()
    dollars = f", ${min(prices) * fast:,.2f} to ${max(prices) * slow:,.2f}" if prices else ""
    return (
        f"{images:,} images × {epochs} epochs: {_hours(fast)} to {_hours(slow)}{dollars}, at {speeds[1]:,} to "
        f"{speeds[0]:,} images/s (assumed, not measured)"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


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
    limit = f"{machine.timeout / 3600:.3g} h" if machine.timeout >= 3600 else f"{machine.timeout / 60:.0f} min"
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
