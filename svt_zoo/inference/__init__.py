"""Uses of a model: prediction, features, search, export, visualization, demo page."""
