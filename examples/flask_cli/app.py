"""A shop that sends its mails by a command, which cron starts on every host."""

from __future__ import annotations

import os
import time

from flask import Flask, Response, abort, jsonify

import advlock
from advlock.flask import locks

app = Flask(__name__)
# An address as SQLAlchemy has it; it is the first of these that is set: ADVLOCK_DSN,
# SQLALCHEMY_DATABASE_URI, DATABASE_URL.
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]


@app.cli.command("send-mails")
def send_mails() -> None:
    """Send what is to be sent, unless another host is at it."""
    with locks().attempt("send-mails") as held:
        if held is None:
            print("skipped, another host is at it")
            return
        time.sleep(3)
        print("the mails are sent")


@app.post("/users/<int:user>/report")
def report(user: int) -> Response:
    """Make a user's report, unless somebody is at it."""
    with locks().attempt(f"report:{user}") as held:
        if held is None:
            abort(409, "it is being made")
        return jsonify(report="ready")


@app.errorhandler(advlock.LockTimeout)
def busy(_error: advlock.LockTimeout) -> tuple[Response, int, dict[str, str]]:
    """Say that somebody else is at it: try again."""
    return jsonify(detail="busy"), 409, {"Retry-After": "5"}
