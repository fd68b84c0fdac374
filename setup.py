from setuptools import setup

setup()  # metadata and tool settings live in pyproject.toml
