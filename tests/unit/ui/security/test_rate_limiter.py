from hart_studio.ui.security.rate_limiter import RateLimiter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tries_are_counted_for_each_address_and_forgotten_in_time() -> None:
    clock = Clock()
    throttle = RateLimiter(tries=3, seconds=60.0, clock=clock)
    assert [throttle.admit("a") for _ in range(5)] == [True, True, True, False, False]
    assert throttle.admit("b"), "another address has tries of its own"
    clock.now = 59.9
    assert not throttle.admit("a")
    clock.now = 60.0
    assert [throttle.admit("a") for _ in range(4)] == [True, True, True, False], "refused tries did not count"


def test_asking_for_room_counts_nothing() -> None:
    clock = Clock()
    throttle = RateLimiter(tries=1, clock=clock)
    assert all(throttle.has_room("a") for _ in range(5))
    assert throttle.admit("a") and not throttle.has_room("a") and throttle.has_room("b")
    clock.now = 60.0
    assert throttle.has_room("a")


def test_memory_is_bounded() -> None:
    throttle = RateLimiter(tries=1, addresses=3, clock=Clock())
    assert all(throttle.admit(str(address)) for address in range(100))
    assert not throttle.admit("99") and throttle.admit("0"), "the oldest are forgotten first"
