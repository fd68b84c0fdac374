"""What `svt-zoo demo` does: makes videos, trains a tiny network on them, and reports what it learned."""
