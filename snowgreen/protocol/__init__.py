"""The protocol without a network: bytes in, bytes and decisions out.

Nothing below this folder imports gevent, socket, ssl, a clock or a source of randomness: time and
entropy are arguments. ``docs/protocol.md`` is the specification these modules implement.
"""
