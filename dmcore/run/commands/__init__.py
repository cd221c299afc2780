"""The commands of `python -m dmcore`: one file each, with `register(commands)` that adds its parser."""
