"""The gevent shell of messages, between the links and the node: bodies, flows, mailboxes, calls, groups."""
