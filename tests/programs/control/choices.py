"""Choices among finished terms: no tensor that is computed after the look says which was chosen."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from programs.control.register import coin, control, num, roll

trap = control(is_regardless=False)


@trap
def a_conditional_expression(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    c1, c2 = (w - 0.3) ** 2, 2 * w + theta[1]
    return c1 if z > 0 else c2


@control()
def plain_terms(theta: Tensor) -> Tensor:
    """A term that nothing follows counts from the line that adds it to the loss."""
    z = coin(theta[0])
    c1, c2 = theta[1] ** 2, theta[1] + 3
    return (c1 if z > 0 else c2) + 0.1 * z


@trap
def a_list_of_terms(theta: Tensor) -> Tensor:
    z, w = roll(theta), coin(theta[1])
    terms = [w * 0.4, (w - 0.7) ** 2, theta[0] - w]
    return terms[int(z)]


@trap
def a_list_indexed_by_the_tensor(theta: Tensor) -> Tensor:
    z, w = roll(theta), coin(theta[1])
    terms = [w * 0.4, (w - 0.7) ** 2, theta[0] - w]
    return terms[z]


@trap
def a_dictionary_of_terms(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    losses = {0.0: w + theta[0], 1.0: 3 * w}
    return losses[z.item()]


@trap
def a_dictionary_by_name(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    losses = {"loss_0": w + theta[0], "loss_1": 3 * w}
    return losses[f"loss_{int(z)}"]


@trap
def a_helper_function(theta: Tensor) -> Tensor:
    def chosen(z: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return first if z > 0 else second

    z, w = coin(theta[0]), coin(theta[1])
    return chosen(z, w * 1.3, w**2 - theta[1])


@trap
def a_lambda(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    pick: Callable[..., Tensor] = lambda *terms: terms[int(z)]  # noqa: E731
    return pick(w * 1.3, w**2 - theta[1])


@trap
def a_sort_by_key(theta: Tensor) -> Tensor:
    z, w = coin(theta), coin(theta[1])
    terms = [(z[0], w * 0.6), (z[1] * 0.5 + 0.2, 1 - 2 * w)]
    return sorted(terms, key=lambda pair: pair[0])[0][1]


@trap
def a_maximum_of_python(theta: Tensor) -> Tensor:
    z = coin(theta)
    w = coin(theta[1])
    return max([z[0] * 0.7, z[1] * 1.2 - 0.1, w * 0.3])


@trap
def a_minimum_by_key(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    terms = [w * 0.4, theta[1] - w]
    return min(terms, key=lambda term: abs(float(z) - 1 + terms.index(term)))


@trap
def a_sum_of_the_chosen(theta: Tensor) -> Tensor:
    z, w = coin(theta), coin(theta[0])
    terms = [w * 0.4, (w - 0.7) ** 2]
    return sum((t for t, each in zip(terms, z, strict=True) if each), w * 0)


@trap
def a_sum_with_a_start(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    start = w * 1.5 if z else w - 0.8
    return sum([theta[0], theta[1]], start)


@trap
def any_of_them(theta: Tensor) -> Tensor:
    z, w = coin(theta), coin(theta[1])
    c1, c2 = w + 0.5, w * theta[0]
    return c1 if any(z) else c2


@trap
def all_of_them(theta: Tensor) -> Tensor:
    z, w = coin(theta), coin(theta[1])
    c1, c2 = w + 0.5, w * theta[0]
    return c1 if all(each > 0 for each in z) else c2


@trap
def a_repeated_term(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    term = (w + 0.4) ** 2
    return torch.stack([term] * (1 + 2 * int(z))).sum()


@trap
def an_accumulator(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    term, loss = 1.2 * w, w - theta[1]
    if z > 0:
        loss += term
    return loss


@trap
def a_sign(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    term = 1.2 * w + 0.4
    return -term if z > 0 else term


@trap
def a_factor(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    term = 1.2 * w + 0.4
    return (0.3 + z.item()) * term


@trap
def a_dictionary_of_losses(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    losses = {"nll": w * 0.7, "kl": theta[1] ** 2}
    if z > 0:
        losses["nll"] = losses.pop("kl") + 0 * w
    return torch.stack(list(losses.values())).sum()


@trap
def swapped_names(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    first, second = w * 0.4, theta[0] + w
    if z > 0:
        first, second = second, first
    return first


@trap
def a_list_that_is_cut(theta: Tensor) -> Tensor:
    z, w = roll(theta), coin(theta[1])
    terms = [w + 0.1, w * 0.7, 1 - w]
    del terms[int(z) :]
    return sum(terms, w * 0.3)


@trap
def a_default_argument(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    known = {1: w * 2.0}
    return known.get(int(z), theta[1] - w)


@trap
def an_object(theta: Tensor) -> Tensor:
    @dataclass
    class State:
        loss: Tensor
        spare: Tensor

        @property
        def total(self) -> Tensor:
            return self.loss

    z, w = coin(theta[0]), coin(theta[1])
    state = State(w * 0.6, w - 1.2)
    if z:
        state.loss = state.spare
    return state.total


@trap
def a_closure(theta: Tensor) -> Tensor:
    w = coin(theta[1])
    loss = w * 0.6
    other = 2 - w

    def change() -> None:
        nonlocal loss
        loss = other

    if coin(theta[0]):
        change()
    return loss


@trap
def an_exception_with_a_term(theta: Tensor) -> Tensor:
    class Found(Exception):  # noqa: N818 (it is no error)
        pass

    z, w = coin(theta[0]), coin(theta[1])
    c1, c2 = w * 0.6, w - 1.2
    try:
        if z > 0:
            raise Found(c1)
    except Found as found:
        return found.args[0]  # type: ignore[no-any-return]
    return c2


@trap
def a_choice_in_a_loop(theta: Tensor) -> Tensor:
    """The best of three, kept as Python code keeps it."""
    best = num(-1.0) + 0 * coin(theta[0])
    for k in range(2):
        candidate = coin(theta[k]) * (1.5 - k) - 0.3
        if candidate > best:
            best = candidate
    return best


@trap
def a_look_at_finished_terms(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    costs = torch.stack([z * 0.7, w - 0.4])
    return costs[0] if costs[1] > 0 else costs[1]


@trap
def a_slice_of_finished_terms(theta: Tensor) -> Tensor:
    n, w = roll(theta), coin(theta)
    costs = torch.stack([w[0] * 0.7, w[1] - 0.4, theta[1]])
    return costs[: int(n)].sum() + 0.01 * w[0]


@control()
def every_term_regardless(theta: Tensor) -> Tensor:
    """The branch adds its own term; what was finished stays."""
    z, w = coin(theta[0]), coin(theta[1])
    loss = (w - 0.3) ** 2 * 2
    if z > 0:
        loss = loss + coin(theta[1] - 1) * 1.1
    return loss


@control()
def plain_costs_after_an_escape(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    loss = 0.3 * z
    scale = 1 + 2 * z.item()
    return loss + theta[1].exp() * scale


@control()
def a_product_after_an_escape(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    term = w + 0.5
    scale = torch.full((), 0.3 + z.item(), dtype=torch.float64)
    return term * scale
