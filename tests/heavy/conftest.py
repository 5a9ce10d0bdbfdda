"""These tests take minutes and gigabytes, so they run only when their path is named: ``pytest tests/heavy``."""


def pytest_ignore_collect(collection_path, config):
    return None if any("heavy" in str(argument) for argument in config.args) else True
