"""`svt-zoo demo`: makes videos, trains a tiny network on them, and writes a report about the result."""
