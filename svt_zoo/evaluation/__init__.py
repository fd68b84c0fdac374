"""Evaluation of features and classifiers: k-NN, linear probe, multi-view test."""
