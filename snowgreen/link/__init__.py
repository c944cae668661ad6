"""The gevent shell: sockets, TLS, greenlets, deadlines. What to say on them the protocol floor decides."""
