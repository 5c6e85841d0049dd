"""What schemathesis is told in Python for `cargo xtask acceptance rest`.

Metrics are text. Where FUZZ_STATUS names the status of a job that is started again whenever a request has ended it, each
request waits until another one runs: what ends a job is judged by its answer and by nothing that came before.
"""

import http.client
import json
import os
import sys
import time
import urllib.request

import schemathesis

STATUS = os.environ.get("FUZZ_STATUS")
TOKEN = os.environ.get("FUZZ_TOKEN")

# How long the next job may take to run.
PATIENCE_S = 60
# A stop that came to nothing leaves its job there: after this time that one is asked again.
STAYS_S = 20
LOOK_EVERY_S = 0.02


@schemathesis.deserializer("application/openmetrics-text")
def open_metrics(context, response):
    return response.content.decode("utf-8")


class Kept:
    """The job that the last request was for, and the one that a request has ended."""

    asked = None
    ended = None


# The job answers on this machine, whatever the environment says of proxies.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def running():
    """The name of the job that runs; None where none does."""
    request = urllib.request.Request(STATUS)
    if TOKEN:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    try:
        with opener.open(request, timeout=5) as answer:
            status = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return status["job"] if status["phase"] == "running" else None


if STATUS:

    @schemathesis.hook
    def before_call(context, case, kwargs):
        began = time.monotonic()
        while (waited := time.monotonic() - began) < PATIENCE_S:
            job = running()
            if job is not None and (job != Kept.ended or waited > STAYS_S):
                Kept.asked = job
                return
            time.sleep(LOOK_EVERY_S)
        print(f"no job has run at {STATUS} for {PATIENCE_S} s", file=sys.stderr, flush=True)
        os._exit(3)

    @schemathesis.hook
    def after_call(context, case, response):
        if response.status_code < 300:
            Kept.ended = Kept.asked
