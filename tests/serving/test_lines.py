"""Questions between processes, here between threads: the pipe is the same."""

import threading
from multiprocessing import Pipe

import pytest

from serving.errors import BadInput, ModelNotReady
from serving.lines import Line, answer


@pytest.fixture
def line():
    asking, answering = Pipe()
    go_on = threading.Event()

    def refuse():
        raise BadInput("no")

    def slow():
        assert go_on.wait(10)
        return "slow"

    answers = {"add": lambda a, b: a + b, "refuse": refuse, "fail": lambda: 1 / 0, "slow": slow}
    thread = threading.Thread(target=answer, args=(answering, answers))
    thread.start()
    made = Line(asking)
    made.go_on = go_on
    yield made
    go_on.set()
    made.close()
    thread.join(10)
    assert not thread.is_alive()


def test_questions_are_answered_and_errors_come_back(line):
    assert line.ask("add", 1, 2) == 3
    with pytest.raises(BadInput, match="no"):
        line.ask("refuse")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        line.ask("fail")
    assert line.ask("add", "a", "b") == "ab"


def test_an_answer_that_came_too_late_is_not_taken_for_another(line):
    with pytest.raises(ModelNotReady, match="answer"):
        line.ask("slow", patience_seconds=0.01)
    line.go_on.set()
    assert line.ask("add", 1, 1) == 2


def test_who_asks_somebody_gone_is_told():
    asking, answering = Pipe()
    answering.close()
    line = Line(asking)
    with pytest.raises(ModelNotReady, match="ended"):
        line.ask("add", 1, 2)
    line.close()


def test_threads_get_their_own_answers(line):
    found = {}

    def ask(number):
        found[number] = [line.ask("add", number, step) for step in range(50)]

    threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == {1000 * number: [1000 * number + step for step in range(50)] for number in range(4)}
