from hart_studio.ui.security.rate_limiter import RateLimiter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tries_are_counted_for_each_address_and_forgotten_in_time() -> None:
    clock = Clock()
    limiter = RateLimiter(tries=3, seconds=60.0, clock=clock)
    assert [limiter.admit("a") for _ in range(5)] == [True, True, True, False, False]
    assert limiter.admit("b"), "another address has tries of its own"
    clock.now = 59.9
    assert not limiter.admit("a")
    clock.now = 60.0
    assert [limiter.admit("a") for _ in range(4)] == [True, True, True, False], "refused tries did not count"


def test_checking_the_limit_counts_nothing() -> None:
    clock = Clock()
    limiter = RateLimiter(tries=1, clock=clock)
    assert all(limiter.is_below_limit("a") for _ in range(5))
    assert limiter.admit("a") and not limiter.is_below_limit("a") and limiter.is_below_limit("b")
    clock.now = 60.0
    assert limiter.is_below_limit("a")


def test_memory_is_bounded() -> None:
    limiter = RateLimiter(tries=1, addresses=3, clock=Clock())
    assert all(limiter.admit(str(address)) for address in range(100))
    assert not limiter.admit("99") and limiter.admit("0"), "the oldest are forgotten first"
