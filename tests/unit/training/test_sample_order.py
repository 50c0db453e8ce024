from collections import Counter

from hart_studio.training.sample_order import order_samples, step_seed


def test_every_pass_holds_every_sample_once_in_another_order() -> None:
    order = order_samples(7, 20, seed=1, first_step=0)
    assert len(order) == 20
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    assert max(Counter(order).values()) == 3


def test_the_order_depends_on_the_seed_and_the_stage_only() -> None:
    assert order_samples(9, 9, 1, 0) == order_samples(9, 9, 1, 0)
    assert order_samples(9, 30, 1, 0)[:9] == order_samples(9, 9, 1, 0)
    assert order_samples(9, 9, 1, 0) != order_samples(9, 9, 2, 0) != order_samples(9, 9, 2, 5)


def test_seeds_differ_by_step_and_process_and_fit() -> None:
    seeds = {step_seed(0, step, process) for step in range(50) for process in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert step_seed(0, 3, 1) == step_seed(0, 3, 1)
