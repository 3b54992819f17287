"""What threads that work ahead are told."""

import threading

from vlora.system.leaving import heed, told


def test_a_thread_is_told_by_its_own_event() -> None:
    """One thread's event tells no other thread, and a thread without one is never told."""
    event = threading.Event()
    event.set()
    seen: dict[str, bool] = {}

    def work(name: str, heeded: threading.Event | None) -> None:
        if heeded is not None:
            heed(heeded)
        seen[name] = told().is_set()

    threads = [threading.Thread(target=work, args=given) for given in (("told", event), ("left alone", None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == {"told": True, "left alone": False}
    assert not told().is_set()


def test_the_event_may_be_set_later() -> None:
    """A thread asks again and again."""
    event, answers = threading.Event(), []

    def work() -> None:
        heed(event)
        answers.append(told().is_set())
        event.set()
        answers.append(told().is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert answers == [False, True]
