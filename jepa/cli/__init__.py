"""The command line: `python -m jepa.cli`."""
