"""gunicorn reads this where it is started: ``cd examples/jobs && gunicorn app:app``."""

# The four hooks give each worker its number, start its nodes, and say goodbye for them.
from snowgreen.gunicorn import post_fork, post_worker_init, pre_fork, worker_exit  # noqa: F401  # gunicorn's

bind = "127.0.0.1:8000"
worker_class = "gevent"
workers = 2
# How long a worker that is to end may go on with its open requests. The goodbyes are within it.
graceful_timeout = 10
# A worker is replaced after so many requests, give or take; the new one has the number of the old one.
max_requests = 10_000
max_requests_jitter = 1_000
