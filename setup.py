from setuptools import find_packages, setup

# Metadata and tool settings are in pyproject.toml. The recipes at the top of the repository are data of the package.
setup(
    packages=[*find_packages(include=["svt_zoo*"]), "svt_zoo.configs"],
    package_dir={"svt_zoo.configs": "configs"},
    package_data={"svt_zoo": ["py.typed", "demo/*.html", "hub/*.safetensors"], "svt_zoo.configs": ["**/*.yaml"]},
)
