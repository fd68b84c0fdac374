"""From a file to a batch: reading videos, choosing frames and views, augmenting them, loading them in parallel."""
