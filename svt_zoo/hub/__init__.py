"""The table of weights, and how weights are downloaded, converted, loaded and published."""
