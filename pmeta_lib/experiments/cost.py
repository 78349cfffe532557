"""What a run will cost, from a stored table of measurements: a rough guide, good to a factor of two."""

TABLE = "TODO"


def seconds(spec, packed: int) -> float:
    return 1.0 * packed


def duration(value: float) -> str:
    """Seconds for people: 42 s, 3.5 min, 12 h, 4 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if value >= 1.5 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} s"
