"""Why two nodes do not link: one attempt, taken apart into steps, each with its outcome, its time and advice.

::

    for step in snowgreen.doctor.examine("worker@10.0.0.5:9000", cookie=cookie):
        print(step.name, step.outcome, step.text, step.advice)

It is one ordinary handshake of a passing node, with a goodbye at its end: it harms neither the peer nor a
link that the peer has.
"""

from .examination import STEPS, examine
from .steps import Outcome, Step

__all__ = ["STEPS", "Outcome", "Step", "examine"]
