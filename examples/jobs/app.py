"""A job board: what is posted at one web worker is on the board of all, on every node, and is taken once.

Start the node that the workers find each other through, then as many servers as you like; each has several
workers, and each worker is a node::

    python hub.py
    JOBS_NAME=web gunicorn app:app        # gunicorn.conf.py beside this file says the rest
    JOBS_NAME=api gunicorn -b 127.0.0.1:8001 app:app

A board lives in the memory of its workers, and a job can be taken while the worker where it was posted lives:
what has to outlive them belongs in a database.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from flask import Flask, abort, redirect, render_template, request

import snowgreen

app = Flask(__name__)
node = snowgreen.Node(
    os.environ.get("JOBS_NAME", "web")
    + "-{worker}@127.0.0.1:0",  # started by snowgreen.gunicorn, in the worker
    peers=[os.environ.get("JOBS_HUB", "hub@127.0.0.1:9100")],
    mesh=True,  # the hub is enough: through it the workers find each other
)
news = node.join("jobs")  # gets what any node broadcasts, this one's own included
board: dict[str, dict[str, Any]] = {}
numbers = itertools.count(1)
caught_up = False


@app.get("/")
def page() -> str:
    """The board, for people."""
    return render_template("board.html", jobs=jobs(), node=node)


@app.get("/jobs")
def listing() -> dict[str, Any]:
    """The board, for programs."""
    return {"node": node.name, "members": node.members, "jobs": jobs()}


@app.post("/jobs")
def post() -> Any:
    """Post a job."""
    text = (request.form.get("text") or abort(400, "a job has a text"))[:200]
    tell({"id": f"{next(numbers)}@{node.name}", "text": text, "taken_by": None})
    return redirect("/", 303)


@app.post("/jobs/<path:key>/take")
def take(key: str) -> Any:
    """Take a job. Who asks first the node where it was posted decides, so that nobody takes it twice."""
    try:
        taken = node.call(owner(key), "take", key, request.form.get("by", "somebody")[:80], timeout=5)
    except (snowgreen.LinkError, snowgreen.SessionError, snowgreen.CallError) as error:
        abort(503, str(error))
    return redirect("/", 303) if taken else abort(409, "it is gone already")


@node.handler("take")
def decide(key: str, by: str) -> bool:
    """Called by any node for a job posted here. Between look and record nobody else runs."""
    if key not in board or board[key]["taken_by"] is not None:
        return False
    tell({**board[key], "taken_by": by})
    return True


@node.handler("board")
def whole_board() -> list[dict[str, Any]]:
    """Called by a worker that is new."""
    return jobs()


def tell(job: dict[str, Any]) -> None:
    """Put a job, or what has become of it, on every board."""
    note(job)
    node.broadcast("jobs", job)


def note(job: dict[str, Any]) -> None:
    """Put a job on this worker's board. What comes late does not undo that it was taken."""
    if job["taken_by"] or job["id"] not in board:
        board[job["id"]] = job


def jobs() -> list[dict[str, Any]]:
    """This worker's board, brought up to date by what has come in the meantime.

    Reading here, when somebody asks, needs no greenlet; until then what comes waits in the mailbox.
    """
    global caught_up
    others = [member for member in node.group("jobs") if member != node.name]
    if others and not caught_up:
        caught_up = True  # before asking: the others may be new, too, and ask back
        for job in node.call(others[0], "board", timeout=5):
            note(job)
    while len(news):
        note(news.get().body)
    return list(board.values())


def owner(key: str) -> str:
    """The node where a job was posted: its name is a part of the key."""
    return key.partition("@")[2]
