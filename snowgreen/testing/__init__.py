"""For your own tests: linked nodes in memory, links that can be cut or silenced, and a clock to put forward.

::

    import snowgreen.testing

    def test_a_job_reaches_the_worker():
        with snowgreen.testing.pair("web", "worker") as (web, worker):
            inbox = worker.mailbox("jobs")
            web.send(worker.name, "jobs", {"id": 7})
            assert inbox.get(timeout=1).body == {"id": 7}

The nodes are real ones, with the real handshake, TLS and messages between them. What they lack is the
network: a connection is a pair of connected descriptors of this process. Nothing is bound, no port is taken,
no file is read, and no other program can reach them. A node made elsewhere cannot either: what is to be
tested takes its node as an argument.

They run in the loop of the thread that tests: while it waits, in snowgreen or gevent, they work.
"""

from .clock import Clock
from .nodes import Cluster, cluster, pair

__all__ = ["Clock", "Cluster", "cluster", "pair"]
