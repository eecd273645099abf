"""What start.json says of the newest command of a run: when it began, and on what it trains."""

from collections.abc import Mapping
from typing import Any

COMMIT = "TRAINYARD_COMMIT"  # variable with the commit of the project that trains


def device_line(plan: Mapping[str, Any]) -> str:
    """Return device, threads and how steps are computed, as a run prints them."""
    parts = [
        f"device: {plan.get('device')}",
        f"threads: {plan.get('threads')}",
        f"XLA: {'on' if plan.get('xla') else 'off'}",
        f"layers: {plan.get('layers')}",
    ]
    count, workers = plan.get("microbatches"), plan.get("workers")
    if isinstance(count, int) and count > 1:
        parts[-1] += f" in {count} microbatches"
    if isinstance(workers, int) and workers > 1:
        parts.append(f"all-reduce: {plan.get('all_reduce')}")
    return ", ".join(parts)
