"""The batcher, stepped by hand: a fake clock, a function for a model, and executors that are lines of the test."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.batcher import Batcher
from serving.errors import BadBundle, BadInput, DeadlineExceeded, Draining, ModelNotReady, Overloaded
from serving.row_queue import Batch, BatchLimits


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Model:
    """Doubles its rows and remembers the sizes of its calls; fails when told to."""

    def __init__(self):
        self.calls = []
        self.error = None
        self.lose_rows = 0

    def __call__(self, feeds, outputs):
        rows = feeds["x"]
        self.calls.append(rows.copy())
        if self.error:
            raise self.error
        everything = {"double": rows * 2.0, "sum": rows.reshape(len(rows), -1).sum(axis=1)}
        wanted = {name: everything[name] for name in outputs or everything}
        return {name: array[: len(array) - self.lose_rows] for name, array in wanted.items()}


class Rig:
    def __init__(self, executors=1, model=None, **limits):
        self.clock = Clock()
        self.model = model or Model()
        self.rejected = []
        self.batches = []
        self.batcher = Batcher(
            self.model,
            limits=BatchLimits(**limits),
            executors=executors,
            clock=self.clock,
            rejected=self.reject,
            batch_done=lambda **told: self.batches.append(told),
        )

    def reject(self, *, reason):
        self.rejected.append(reason)

    def submit(self, rows, value=1.0, **options):
        return self.batcher.submit({"x": np.full((rows, 2), value, np.float32)}, **options)

    def take(self) -> Batch | None:
        due = self.batcher.take()
        return due.batch if due else None

    def step(self) -> bool:
        batch = self.take()
        if batch:
            self.batcher.compute(batch)
        return batch is not None

    @property
    def sizes(self):
        return [len(call) for call in self.model.calls]


def test_rows_that_wait_while_the_executor_is_busy_are_computed_together():
    rig = Rig()
    first = rig.submit(1, 1.0)
    busy = rig.take()
    others = [rig.submit(rows, 10.0 + rows) for rows in (1, 2, 3)]
    rig.batcher.compute(busy)
    rig.step()
    assert rig.sizes == [1, 6]
    assert first.result(0)["double"].tolist() == [[2.0, 2.0]]
    for rows, answer in zip((1, 2, 3), others, strict=True):
        assert answer.result(0)["double"].tolist() == [[20.0 + 2 * rows] * 2] * rows


def test_callers_who_make_the_same_of_their_rows_have_it_made_in_one_go():
    """And still each gets its own rows' things, a request of several calls too."""
    made = []

    def double(arrays):
        made.append(len(arrays["double"]))
        return [row[0] for row in arrays["double"].tolist()]

    rig = Rig(max_batch_rows=4)
    answers = [rig.submit(rows, value, each=double, make=sum) for rows, value in ((1, 1.0), (2, 5.0), (6, 7.0))]
    while rig.step():
        pass
    assert [answer.result(0) for answer in answers] == [2.0, 20.0, 84.0]
    assert made == rig.sizes == [3, 4, 2]


def test_callers_who_make_different_things_of_their_rows_may_share_a_call():
    """What one makes is not what its neighbour gets."""
    rig = Rig()
    one = rig.submit(2, 1.0, each=lambda arrays: ["one"] * len(arrays["double"]))
    other = rig.submit(1, 1.0, each=lambda arrays: ["other"] * len(arrays["double"]))
    plain = rig.submit(1, 4.0)
    rig.step()
    assert rig.sizes == [4]
    assert (one.result(0), other.result(0)) == (["one", "one"], ["other"])
    assert plain.result(0)["double"].tolist() == [[8.0, 8.0]]


def test_making_that_fails_fails_its_callers_and_leaves_the_batcher_at_work():
    """As a failing model would."""
    rig = Rig()

    def fail(_arrays):
        raise RuntimeError("cannot be written")

    failed = rig.submit(1, each=fail)
    rig.step()
    assert isinstance(failed.exception(0), RuntimeError)
    after = rig.submit(1)
    rig.step()
    assert after.result(0)["double"].tolist() == [[2.0, 2.0]]


def test_an_idle_executor_starts_at_once_when_no_wait_is_set():
    rig = Rig()
    rig.submit(1)
    assert rig.take().rows == 1


def test_a_batch_waits_for_company_no_longer_than_max_wait_ms():
    rig = Rig(max_wait_ms=5)
    rig.submit(1)
    due = rig.batcher.take()
    assert due.batch is None
    assert due.look_again == pytest.approx(100.005)
    rig.clock.now += 0.0051
    assert rig.take().rows == 1


def test_a_full_batch_does_not_wait():
    rig = Rig(max_wait_ms=5, max_batch_rows=4)
    rig.submit(4)
    assert rig.take().rows == 4


def test_batches_are_cut_at_a_preferred_size_without_waiting():
    rig = Rig(max_wait_ms=5, max_batch_rows=8, preferred_rows=(4,))
    for _ in range(5):
        rig.submit(1)
    assert rig.take().rows == 4
    assert rig.take() is None
    rig.clock.now += 0.006
    assert rig.take().rows == 1


def test_a_request_that_fills_a_batch_alone_is_not_copied():
    rig = Rig()
    rows = np.ones((3, 2), np.float32)
    rig.batcher.submit({"x": rows})
    assert rig.take().feeds()["x"] is rows


def test_a_large_request_is_split_and_joined_again_in_order():
    rig = Rig(max_batch_rows=4)
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    answer = rig.batcher.submit({"x": rows})
    while rig.step():
        pass
    assert rig.sizes == [4, 4, 3]
    np.testing.assert_array_equal(answer.result(0)["double"], rows * 2)


def test_pieces_computed_in_another_order_are_joined_in_theirs():
    rig = Rig(max_batch_rows=4, executors=2)
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    answer = rig.batcher.submit({"x": rows})
    one, two = rig.take(), rig.take()
    rig.batcher.compute(two)
    assert not answer.done()
    rig.batcher.compute(one)
    np.testing.assert_array_equal(answer.result(0)["double"], rows * 2)


def test_a_caller_who_hangs_up_while_waiting_costs_no_compute_and_harms_no_neighbour():
    rig = Rig()
    before, gone, after = rig.submit(1, 1.0), rig.submit(2, 2.0), rig.submit(1, 3.0)
    assert gone.cancel()
    assert rig.batcher.waiting_rows == 2
    rig.step()
    assert rig.sizes == [2]
    assert before.result(0)["sum"].tolist() == [2.0]
    assert after.result(0)["sum"].tolist() == [6.0]
    assert rig.rejected == ["cancelled"]


def test_a_caller_who_hangs_up_during_the_call_harms_no_neighbour():
    rig = Rig()
    gone, stays = rig.submit(1, 1.0), rig.submit(1, 2.0)
    batch = rig.take()
    assert gone.cancel()
    rig.batcher.compute(batch)
    assert gone.cancelled()
    assert stays.result(0)["sum"].tolist() == [4.0]


def test_the_rest_of_a_split_request_is_dropped_when_its_caller_hangs_up():
    rig = Rig(max_batch_rows=2)
    gone = rig.submit(6)
    batch = rig.take()
    assert gone.cancel()
    rig.batcher.compute(batch)
    assert not rig.step()
    assert rig.sizes == [2]


def test_rows_whose_deadline_passed_are_never_computed():
    rig = Rig()
    late, fine = rig.submit(1, 1.0, deadline=101.0), rig.submit(1, 2.0, deadline=105.0)
    rig.clock.now = 102.0
    rig.step()
    assert rig.sizes == [1]
    assert fine.result(0)["sum"].tolist() == [4.0]
    with pytest.raises(DeadlineExceeded):
        late.result(0)
    assert rig.rejected == ["expired"]


def test_a_deadline_that_is_past_already_is_refused_before_the_queue():
    rig = Rig()
    with pytest.raises(DeadlineExceeded):
        rig.submit(1, deadline=99.0)
    assert rig.batcher.waiting_rows == 0


def test_a_failing_call_fails_its_batch_and_nothing_else():
    rig = Rig()
    failing = [rig.submit(1), rig.submit(1)]
    rig.model.error = RuntimeError("boom")
    rig.step()
    rig.model.error = None
    healthy = rig.submit(1)
    rig.step()
    for answer in failing:
        with pytest.raises(RuntimeError, match="boom"):
            answer.result(0)
    assert healthy.result(0)["sum"].tolist() == [2.0]


class Picky(Model):
    """Refuses calls with a negative value in them, as onnxruntime does an index out of range."""

    def __call__(self, feeds, outputs):
        answer = super().__call__(feeds, outputs)
        if (feeds["x"] < 0).any():
            raise BadInput("a value below 0")
        return answer


@given(values=st.lists(st.sampled_from([1.0, 2.0, 3.0, -1.0]), min_size=1, max_size=20))
def test_values_that_the_model_refuses_are_their_callers_error_alone(values):
    """Whoever shares a batch with bad values gets its own answer all the same; nobody's rows are lost or counted on."""
    rig = Rig(model=Picky())
    answers = [rig.submit(1 + number % 3, value) for number, value in enumerate(values)]
    rig.step()
    for value, answer in zip(values, answers, strict=True):
        if value < 0:
            with pytest.raises(BadInput, match="below 0"):
                answer.result(0)
        else:
            assert (answer.result(0)["sum"] == 2 * value).all()
    assert "0 rows running, RowQueue(0 rows" in repr(rig.batcher)


def test_one_callers_bad_values_cost_few_calls():
    """The halves are tried, not every request by itself: bad values must not make the server slow for all."""
    rig = Rig(model=Picky())
    answers = [rig.submit(1, -1.0 if number == 5 else 1.0) for number in range(64)]
    rig.step()
    assert sum(answer.exception(0) is not None for answer in answers) == 1
    assert len(rig.model.calls) == 1 + 2 * 6


def test_who_hangs_up_while_a_refused_batch_is_parted_is_not_computed_again():
    rig = Rig(model=Picky())
    answers = [rig.submit(1, value) for value in (-1.0, 1.0, 2.0, 3.0)]
    answers[0].add_done_callback(lambda _: answers[3].cancel())
    rig.step()
    assert [answer.cancelled() for answer in answers] == [False, False, False, True]
    assert (answers[2].result(0)["sum"] == 4).all()
    assert "0 rows running" in repr(rig.batcher)


def test_a_failed_part_fails_its_request_once_and_spares_the_rest_of_it():
    rig = Rig(max_batch_rows=2)
    answer = rig.submit(6)
    rig.model.error = RuntimeError("boom")
    rig.step()
    with pytest.raises(RuntimeError, match="boom"):
        answer.result(0)
    assert not rig.step()
    assert rig.batcher.waiting_rows == 0


def test_answers_with_a_missing_row_are_an_error_and_never_shifted():
    rig = Rig()
    answers = [rig.submit(1), rig.submit(2)]
    rig.model.lose_rows = 1
    rig.step()
    for answer in answers:
        with pytest.raises(BadBundle, match="one row per input row, here 3"):
            answer.result(0)


def test_rows_of_different_shape_type_or_wanted_outputs_are_not_mixed_and_the_oldest_goes_first():
    rig = Rig()
    rig.batcher.submit({"x": np.ones((1, 2), np.float32)})
    rig.batcher.submit({"x": np.ones((1, 3), np.float32)})
    rig.batcher.submit({"x": np.ones((1, 2), np.uint8)})
    rig.batcher.submit({"x": np.ones((1, 2), np.float32)}, outputs=("sum",))
    rig.batcher.submit({"x": np.ones((1, 2), np.float32)})
    while rig.step():
        pass
    assert [(call.shape, call.dtype.name) for call in rig.model.calls] == [
        ((2, 2), "float32"),
        ((1, 3), "float32"),
        ((1, 2), "uint8"),
        ((1, 2), "float32"),
    ]


def test_a_busy_bucket_does_not_starve_another():
    rig = Rig(max_batch_rows=2)
    for _ in range(4):
        rig.submit(1)
    lonely = rig.batcher.submit({"x": np.ones((1, 3), np.float32)})
    for _ in range(3):
        rig.submit(2)
        rig.step()
    assert lonely.done()


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    rig = Rig(max_queue_rows=4)
    kept = rig.submit(3)
    with pytest.raises(Overloaded, match="max_queue_rows") as refused:
        rig.submit(2)
    assert refused.value.retry_after_ms > 0
    assert rig.rejected == ["queue_full"]
    rig.step()
    assert kept.done()
    rig.submit(4)


def test_the_queue_is_bounded_by_bytes_too():
    rig = Rig(max_queue_bytes=64)
    rig.submit(7)
    with pytest.raises(Overloaded, match="max_queue_bytes"):
        rig.submit(2)
    with pytest.raises(BadInput, match="max_queue_bytes"):
        rig.submit(9)


def test_texts_count_by_what_they_take_in_memory():
    """Four letters of four bytes each, in an object of their own, behind a pointer."""
    rig = Rig(max_queue_bytes=100 * (8 + 40 + 16))
    texts = np.array(["\U0001f600" * 4] * 100, object)
    with pytest.raises(BadInput, match="max_queue_bytes"):
        rig.batcher.submit({"x": texts})
    rig.batcher.submit({"x": texts[:50]})


def test_a_request_that_could_never_wait_is_bad_input_that_names_the_setting():
    rig = Rig(max_queue_rows=4)
    with pytest.raises(BadInput, match="max_queue_rows"):
        rig.submit(5)
    assert rig.rejected == []


@pytest.mark.parametrize(
    "feeds",
    [{}, {"x": np.ones(())}, {"x": np.ones((0, 2))}, {"x": np.ones((2, 2)), "y": np.ones((3, 2))}],
    ids=["none", "scalar", "empty", "uneven"],
)
def test_inputs_that_have_no_common_number_of_rows_are_bad_input(feeds):
    with pytest.raises(BadInput, match="same number of rows"):
        Rig().batcher.submit(feeds)


def test_a_model_that_does_not_compute_row_by_row_gets_each_request_by_itself():
    rig = Rig(joins=False, max_batch_rows=2)
    answers = [rig.submit(5), rig.submit(3)]
    while rig.step():
        pass
    assert rig.sizes == [5, 3]
    assert [len(answer.result(0)["sum"]) for answer in answers] == [5, 3]


def test_close_finishes_what_was_accepted_without_letting_it_wait_for_company_then_refuses():
    rig = Rig(max_wait_ms=1000)
    accepted = rig.submit(1)
    rig.batcher.close()
    with pytest.raises(ModelNotReady):
        rig.submit(1)
    assert rig.step()
    assert accepted.done()
    assert rig.batcher.take() is None


def test_abandon_fails_what_waits_and_lets_a_running_call_finish():
    rig = Rig(max_batch_rows=1)
    running, waiting = rig.submit(1), rig.submit(1)
    batch = rig.take()
    rig.batcher.abandon()
    with pytest.raises(Draining):
        waiting.result(0)
    rig.batcher.compute(batch)
    assert running.result(0)["sum"].tolist() == [2.0]


def test_repr_tells_the_state():
    rig = Rig()
    rig.submit(2)
    rig.submit(3)
    assert repr(rig.batcher) == "Batcher(open, 0 idle, 0 rows running, RowQueue(5 rows, 40 bytes: [2, 3]))"


def test_each_answered_call_is_reported_with_its_rows_and_waiting_times():
    rig = Rig()
    rig.submit(1)
    rig.clock.now += 0.5
    rig.submit(2)
    rig.step()
    assert rig.batches == [{"rows": 3, "queue_seconds": [0.5, 0.0], "compute_seconds": 0.0}]


def test_threads_compute_what_is_submitted_and_end_after_close():
    """The one test with real threads: nothing is lost between an executor going idle and a row arriving."""
    model = Model()
    batcher = Batcher(model, limits=BatchLimits(max_batch_rows=8, max_wait_ms=0.2, max_queue_rows=10**6), executors=2)
    batcher.start()
    answers = []
    lock = threading.Lock()

    def call(caller: int) -> None:
        for number in range(200):
            value = float(caller * 1000 + number)
            answer = batcher.submit({"x": np.full((1 + number % 11, 2), value, np.float32)})
            with lock:
                answers.append((value, answer))
            if number % 7 == 0:
                answer.result(10)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    batcher.close()
    assert batcher.join(10)
    assert len(answers) == 800
    assert all((answer.result(0)["sum"] == 2 * value).all() for value, answer in answers)
    assert sum(len(call) for call in model.calls) == sum(len(answer.result(0)["sum"]) for _, answer in answers)


@pytest.fixture
def frequent_switches():
    """Threads are switched as often as the interpreter can, so that a race of a few instructions shows in seconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_executors_that_stop_waiting_while_tokens_come_neither_die_nor_are_miscounted():
    """A token for one of several waiting executors may go to another one at the moment at which the first gives up."""
    batcher = Batcher(
        lambda feeds, _: {"y": feeds["x"]}, limits=BatchLimits(max_wait_ms=0.2, max_queue_rows=10**6), executors=3
    )
    batcher.start()
    answers = []

    def call(seed: int) -> None:
        pauses = np.random.default_rng(seed).uniform(0, 0.0005, 3000)
        for pause in pauses:
            answers.append(batcher.submit({"x": np.zeros((1, 2), np.float32)}))
            threading.Event().wait(pause)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(3)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    for answer in answers:
        answer.result(10)
    batcher.close()
    assert batcher.join(10)
    assert "0 idle, 0 rows running" in repr(batcher)


class AnyOrder(RuleBasedStateMachine):
    """Whatever callers, clock and executors do, every accepted request gets its own rows' answers or its own error."""

    @initialize(
        max_batch_rows=st.integers(1, 6),
        max_wait_ms=st.sampled_from([0, 0, 10]),
        max_queue_rows=st.integers(1, 30),
        preferred=st.sampled_from([(), (2,), (2, 4)]),
    )
    def begin(self, max_batch_rows, max_wait_ms, max_queue_rows, preferred):
        self.rig = Rig(
            executors=2,
            max_batch_rows=max_batch_rows,
            max_wait_ms=max_wait_ms,
            max_queue_rows=max_queue_rows,
            preferred_rows=preferred,
        )
        self.limits = (max_batch_rows, max_queue_rows)
        self.accepted = []  # (rows, deadline, wanted outputs, future, callbacks' count)
        self.taken = []
        self.doomed = []  # (future, error) of batches that failed
        self.next_value = 0

    @precondition(lambda self: hasattr(self, "rig"))
    @rule(
        rows=st.integers(1, 14),
        width=st.sampled_from([1, 1, 1, 2]),
        allowed_ms=st.sampled_from([None, None, 5, 40]),
        outputs=st.sampled_from([(), (), ("sum",)]),
    )
    def submit(self, rows, width, allowed_ms, outputs):
        x = np.arange(self.next_value, self.next_value + rows * width, dtype=np.float64).reshape(rows, width)
        deadline = None if allowed_ms is None else self.rig.clock.now + allowed_ms / 1000
        waiting = self.rig.batcher.waiting_rows
        try:
            future = self.rig.batcher.submit({"x": x}, outputs=outputs, deadline=deadline)
        except BadInput:
            assert rows > self.limits[1]
        except Overloaded:
            assert waiting + rows > self.limits[1]
        else:
            self.next_value += rows * width
            calls = []
            future.add_done_callback(calls.append)
            self.accepted.append((x, deadline, outputs, future, calls))

    @precondition(lambda self: getattr(self, "accepted", None))
    @rule(data=st.data())
    def cancel(self, data):
        future = data.draw(st.sampled_from(self.accepted))[3]
        before = future.done()
        assert future.cancel() == (not before or future.cancelled())

    @rule(ms=st.sampled_from([1, 6, 50]))
    def pass_time(self, ms):
        self.rig.clock.now += ms / 1000

    @precondition(lambda self: len(getattr(self, "taken", "xx")) < 2)
    @rule()
    def take(self):
        now = self.rig.clock.now
        batch = self.rig.take()
        if batch is None:
            return
        assert 1 <= batch.rows <= self.limits[0]
        for piece in batch.pieces:
            assert not piece.request.future.cancelled()
            assert piece.request.deadline is None or piece.request.deadline > now
        assert len({(piece.request.outputs, piece.feeds["x"].shape[1]) for piece in batch.pieces}) == 1
        self.taken.append(batch)

    @precondition(lambda self: getattr(self, "taken", None))
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def compute(self, data, fails):
        batch = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.rig.model.error = error = RuntimeError(f"call {len(self.rig.model.calls)}") if fails else None
        waiting = [piece.request.future for piece in batch.pieces if not piece.request.future.done()]
        self.rig.batcher.compute(batch)
        self.rig.model.error = None
        if error:
            self.doomed += [(future, error) for future in waiting]
            assert all(future.exception(0) is error for future in waiting)

    @invariant()
    def bounds_hold(self):
        if hasattr(self, "rig"):
            assert 0 <= self.rig.batcher.waiting_rows <= self.limits[1]

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        self.rig.batcher.close()
        for batch in self.taken:
            self.rig.batcher.compute(batch)
        while self.rig.step():
            pass
        assert self.rig.batcher.waiting_rows == 0
        errors = {id(future): error for future, error in self.doomed}
        for x, deadline, outputs, future, calls in self.accepted:
            assert future.done()
            assert len(calls) == 1
            if future.cancelled():
                continue
            error = future.exception(0)
            if error is None:
                assert id(future) not in errors
                alone = Model()({"x": x}, outputs)
                assert future.result(0).keys() == alone.keys()
                for name, array in alone.items():
                    np.testing.assert_array_equal(future.result(0)[name], array)
            elif isinstance(error, DeadlineExceeded):
                assert deadline is not None
                assert deadline <= self.rig.clock.now
            else:
                assert errors[id(future)] is error


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), max_batch_rows=st.integers(1, 8))
def test_every_row_is_computed_exactly_once_in_the_order_of_arrival(sizes, max_batch_rows):
    rig = Rig(max_batch_rows=max_batch_rows, max_queue_rows=10**6)
    for value, rows in enumerate(sizes):
        rig.submit(rows, float(value))
    while rig.step():
        pass
    computed = np.concatenate(rig.model.calls)[:, 0]
    np.testing.assert_array_equal(computed, np.repeat(np.arange(len(sizes)), sizes))
