"""`python -m dmcore`."""

from dmcore.run.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
