"""`python -m dmcore`."""

import signal

from dmcore.run.cli import main

if __name__ == "__main__":
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said: a key that is pressed now changes no status
    raise SystemExit(status)
