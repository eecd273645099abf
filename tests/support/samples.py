"""The samples that a run takes, read off its windows by hand."""

from hypothesis import strategies as st

from trainer.data import sampler

SEEDS = st.integers(0, 2**31 - 1)


def delivered(windows: sampler.Windows, batch: int, first: int, last: int) -> list[list[list[int]]]:
    """Return the batches of steps as samples [shard, row], by a buffer that is filled by hand."""
    batches: list[list[list[int]]] = []
    while first < last:
        window = windows.of_step(first, batch)
        end = min(last, window.steps_done(batch))
        buffer = [[-1, -1]] * (batch - 1) + rows_of(windows, window)
        if carried := window.carried(batch):
            before = windows.at(window.start - 1)
            rows = rows_of(windows, before)
            buffer[batch - 1 - carried : batch - 1] = [
                rows[row] for row in windows.carry(before, batch)
            ]
        chosen = windows.batches(window, batch, first, end - first)
        batches += [[buffer[row] for row in rows] for rows in chosen]
        first = end
    return batches


def rows_of(windows: sampler.Windows, window: sampler.Window) -> list[list[int]]:
    return [[shard, row] for shard in window.shards for row in range(windows.counts[shard])]
