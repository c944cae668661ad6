"""The node that everybody knows: the workers dial it, and learn from it of each other.

In production there are two or three such nodes on different machines, and the workers are given all of them.
"""

import os

import snowgreen

with snowgreen.Node(os.environ.get("JOBS_HUB", "hub@127.0.0.1:9100"), mesh=True) as node:
    print(node.name, "is there", flush=True)
    for event in node.subscribe():
        print(event, flush=True)
