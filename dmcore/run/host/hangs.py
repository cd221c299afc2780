"""Whether jobs that hang are found on this host, after how long, and what happens then: in words, and as a check.

A worker says by what policy it works in its beat; one that is yet to be started here would work by the environment's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dmcore.errors import DarkMatterError
from dmcore.progress import format_seconds
from dmcore.run.host.checks import FAIL, OK, WARN, Check
from dmcore.run.jobs.heartbeat import Beat
from dmcore.run.jobs.liveness import HANG_VARIABLE, HangPolicy

NAME = "hangs"
"""Of the check."""


def policy_of(beat: Beat) -> HangPolicy:
    """When a worker takes its job's process for hung: what it said, or, if it is of an older version, what this process knows."""
    if beat.hang_seconds is not None:
        return HangPolicy(beat.hang_seconds, beat.hang_retries)
    try:
        return HangPolicy.of_environment()
    except DarkMatterError:
        return HangPolicy()


def hang_words(policy: HangPolicy) -> str:
    """`on, after 15 min without a sign of life: ...`, or that it is off and what that means."""
    if not 0 < policy.seconds < math.inf:
        return f"off: a job that hangs holds its device until somebody cancels it ({HANG_VARIABLE} turns it on)"
    then = "the job has failed"
    if policy.retries:
        again = "once" if policy.retries == 1 else f"up to {policy.retries} times"
        then = f"the job is begun again, {again}, before it counts as failed"
    after = format_seconds(policy.seconds).removesuffix(" 0 s").removesuffix(" 0 min")
    return f"on, after {after} without a sign of life: the process says in its log where it hangs, is ended, and {then}"


def next_workers_words() -> str:
    """The same of a worker that is started from here; or the sentence that says why none can be."""
    try:
        return hang_words(HangPolicy.of_environment())
    except DarkMatterError as error:
        return str(error)


def hang_check(living: Sequence[Beat]) -> Check:
    """What a monitor should know; `living`: beats of the workers that are there."""
    try:
        policy = HangPolicy.of_environment()
    except DarkMatterError as error:
        said, _, remedy = str(error).partition(": ")
        return Check(NAME, WARN if living else FAIL, f"No worker can be started here: {said}.", remedy.capitalize())
    words = {hang_words(policy_of(beat)): beat.lane for beat in living} or {hang_words(policy): ""}
    several = len(words) > 1
    said = "; ".join(f"{lane}: {one}" if several else f"Finding jobs that hang is {one}" for one, lane in words.items())
    return Check(NAME, OK, f"{said}.")
