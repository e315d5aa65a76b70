"""What the command line makes of a workload's messages when torchrun may start it again."""

from types import SimpleNamespace

from cli.workload import _error
from tokenstone.errors import UsageError, WorkloadFailed

CHILD = SimpleNamespace(name="train")
IMPORT = {"event": "phase", "name": "import"}


def failed(what, exit_code=1):
    return {"event": "error", "what": what, "where": "communication", "hint": "see its output", "exit_code": exit_code}


def last_error(*messages):
    error = None
    for message in messages:
        error = _error(message, CHILD, error)
    return error


def test_the_first_error_of_an_attempt_is_the_cause():
    error = last_error(IMPORT, failed("dispatch was not completed"), failed("combine was not completed"))
    assert isinstance(error, WorkloadFailed)
    assert error.what == "dispatch was not completed"
    assert isinstance(last_error(failed("no such text", exit_code=2)), UsageError)


def test_a_new_attempt_has_no_error_yet():
    assert last_error(IMPORT, failed("dispatch was not completed"), IMPORT, {"event": "progress", "done": 1}) is None
    again = last_error(IMPORT, failed("dispatch was not completed"), IMPORT, failed("the loss became nan"))
    assert again.what == "the loss became nan"
