"""How tests run."""

import os

from hypothesis import settings

# A machine that others use keeps no deadlines. `make fuzz` looks for minutes, with other examples each time.
settings.register_profile("tests", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

# Servers look for a free port before they take it; those of two processes would find the same.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
os.environ.setdefault("GRADIO_SERVER_PORT", str(7860 + 200 * int(WORKER)))


def pytest_configure(config):
    """A process that only hands tests to others begins these at once: the imports of the fixtures take it seconds."""
    if not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")
