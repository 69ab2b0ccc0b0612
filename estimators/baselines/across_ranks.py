"""Across ranks: a baseline that sees the examples of all processes that train one model."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ancestral.estimators.baselines.learned import Learned, StateError
from ancestral.estimators.credit.credit import Credit, Part
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.nodes.distribution_params import factorized, held_within, is_of_torch
from ancestral.trace.nodes.mask import rebuilt
from ancestral.trace.nodes.node import Node


class RanksError(RuntimeError):
    """The ranks of a process group do not train one model on different draws."""


class AcrossRanks:
    """What a baseline predicts for the examples of all ranks together.

        b = baseline(C of all ranks, one after the other along dimension 0)[those of this rank]

    So is the gradient that `DistributedDataParallel` averages that of one process on the whole
    batch, and what a baseline learns is the same on every rank. Let each rank's loss be a mean of
    as many examples as the others', or weigh it: the credits of all are taken as they are.

    Every rank calls it for the same sites in the same order: two collectives for each site, one of
    them of a few numbers. Without a process group it is the baseline itself.

    Unbiased, as the baseline is: draws of other ranks are draws of other elements.

    Args:
        baseline: one of this library's: LeaveOneOut, RunningMean, Optimal, Neural.
        group: the process group; by default, that of all processes.

    Raises:
        TypeError: if the baseline is none of this library's.
    """

    is_proven = True  # as those that it takes are

    def __init__(self, baseline: Any, group: dist.ProcessGroup | None = None) -> None:
        """Take a baseline."""
        if isinstance(baseline, type) or not vars(type(baseline)).get("is_proven"):
            raise TypeError(
                f"AcrossRanks takes LeaveOneOut(), RunningMean(), Optimal() or Neural(), not "
                f"{kind_of(baseline)}; a function of yours may gather what it needs by itself"
            )
        self.baseline, self._group = baseline, group
        self._has_compared = False

    def inputs_of(self, credit: Credit) -> Tensor | None:
        """Return what the baseline asks for, of the examples of this rank."""
        inputs: Callable[[Credit], Tensor | None] | None
        inputs = getattr(self.baseline, "inputs_of", None)
        return None if inputs is None else inputs(credit)

    def expect(self, names: Sequence[str]) -> None:
        """Compare the sites of a gradient with those of the other ranks, before any is met.

        Otherwise a rank with one site more would wait for the others until they time out.

        Raises:
            RanksError: if they are not the same.
        """
        if self._is_alone:
            return
        own = torch.tensor([_digest(repr(list(names)).encode())], device=self._device)
        rows = [int(each) for each in self._gathered(own, "before its first site")]
        if len(set(rows)) == 1:
            return
        every: list[Any] = [None] * len(rows)
        dist.all_gather_object(every, list(names), group=self._group)
        first = next(rank for rank, each in enumerate(rows) if each != rows[0])
        raise RanksError(
            f"the ranks have different sites: rank 0 has {_listed(every[0])}, rank {first} has "
            f"{_listed(every[first])}; expected one model on all ranks, whose sites are met in the "
            "same order; where Python decides on each rank which sites there are, leave these to "
            "another baseline: baseline={'z': AcrossRanks(...), '*': 'auto'}"
        )

    @property
    def _is_alone(self) -> bool:
        is_open = dist.is_available() and dist.is_initialized()
        return not is_open or dist.get_world_size(self._group) == 1

    @property
    def _device(self) -> torch.device:
        """Where tensors of a collective lie: gloo takes those of CPUs, nccl none of them."""
        kinds = dist.get_backend(self._group)
        return torch.device("cuda" if kinds == "nccl" else "cpu")

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the baseline of the examples of this rank.

        Raises:
            RanksError: if the ranks have other sites, or draw the same random numbers.
        """
        if self._is_alone or not credit.shape:
            found: Tensor = self.baseline(credit)
            return found
        sizes, is_apart = self._compared(credit)
        whole = self._whole(credit, sizes, is_apart)
        if hasattr(self.baseline, "inputs_of"):  # makes networks, which are to begin alike
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_digest(credit.name.encode()))
                found = self.baseline(whole)
        else:
            found = self.baseline(whole)
        if found.ndim < len(whole.shape) or len(found) == 1:
            return found
        rank = dist.get_rank(self._group)
        return found.narrow(0, sum(sizes[:rank]), sizes[rank])

    def state_dict(self) -> dict[str, Any]:
        """Return what the baseline has learned."""
        learned: dict[str, Any] = self.baseline.state_dict() if self._learns else {}
        return learned

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what a baseline has learned.

        Raises:
            StateError: if it is that of another, or anything of one that learns nothing.
        """
        if self._learns:
            self.baseline.load_state_dict(state)
        elif state:
            raise StateError(
                f"{kind_of(self.baseline)} learns nothing, and the state has {', '.join(state)}; "
                "expected the state of the same baseline"
            )

    @property
    def _learns(self) -> bool:
        return isinstance(self.baseline, Learned)

    def _compared(self, credit: Credit) -> tuple[list[int], list[bool]]:
        """Return the number of examples on each rank, and which parts are apart along them.

        Raises:
            RanksError: if the ranks differ where they must not, or are equal where they must not.
        """
        parts = [(sorted(part.apart - {0}), tuple(part.value.shape[1:])) for part in credit.parts]
        kind = repr((credit.name, credit.shape[1:], parts, str(credit.total.dtype)))
        draws = 0 if self._has_compared else _draws(credit)
        self._has_compared = True
        apart = sum((0 in part.apart) << number for number, part in enumerate(credit.parts))
        own = torch.tensor([credit.shape[0], _digest(kind.encode()), draws, apart])
        where = f"at site {credit.name!r}"
        rows = [each.tolist() for each in self._gathered(own.to(credit.total.device), where)]
        sizes, kinds, drawn, bits = map(list, zip(*rows, strict=True))
        if len(set(kinds)) > 1:
            first = next(rank for rank, each in enumerate(kinds) if each != kinds[0])
            raise RanksError(
                f"site {credit.name!r} of rank {dist.get_rank(self._group)} has shape "
                f"{list(credit.shape)} and {len(credit.parts)} parts of credit; ranks 0 and "
                f"{first} are at different sites, or have different costs; expected one model on "
                "all ranks, whose sites are met in the same order, with examples along dimension 0"
            )
        same = [rank for rank, each in enumerate(drawn) if each and each in drawn[:rank]]
        if same:
            raise RanksError(
                f"site {credit.name!r}: ranks {drawn.index(drawn[same[0]])} and {same[0]} draw the "
                "same random numbers, and so would train on the same draws; seed each rank by "
                "itself, for example torch.manual_seed(seed + rank)"
            )
        # Of one example, nothing tells.
        return sizes, [any(each >> n & 1 for each in bits) for n in range(len(parts))]

    def _gathered(self, own: Tensor, where: str) -> list[Tensor]:
        """Return equally large tensors of all ranks.

        Raises:
            RanksError: if another does not send its own.
        """
        found = [torch.empty_like(own) for _ in range(dist.get_world_size(self._group))]
        try:
            dist.all_gather(found, own.contiguous(), group=self._group)
        except RuntimeError as error:
            raise RanksError(
                f"rank {dist.get_rank(self._group)} waited {where} for the others, which did not "
                "come: another rank has failed (its own error says why), has fewer steps (give all "
                "as many batches), or takes another baseline there"
            ) from error
        return found

    def _whole(self, credit: Credit, sizes: Sequence[int], is_apart: Sequence[bool]) -> Credit:
        """Return the credit of the examples of all ranks, with their site and its inputs."""
        count, site = credit.shape[0], credit.site
        fn = None if site is None or site.fn is None else factorized(site.fn)
        is_known = fn is not None and is_of_torch(fn) and site is not None
        held = _over_examples(site, fn) if is_known and site is not None else {}
        inputs = credit.inputs
        has_inputs = inputs is not None and inputs.shape[:1] == credit.shape[:1]
        own = [part.value.expand(count, *part.value.shape[1:]) for part in credit.parts]
        own += held.values()
        own += [site.value.detach()] if is_known and site is not None else []
        own += [inputs] if has_inputs and inputs is not None else []
        found = iter(self._rows(own, sizes, f"at site {credit.name!r}"))
        shape = (sum(sizes), *credit.shape[1:])
        parts = tuple(
            Part(next(found), part.apart | {0} if along else part.apart)
            for part, along in zip(credit.parts, is_apart, strict=True)
        )
        if is_known and site is not None:
            twin = rebuilt(fn, {key: next(found) for key in held})
            vars(twin)["_batch_shape"] = torch.Size(shape)
            site = replace(site, fn=twin, value=next(found), shape=shape)
        return replace(
            credit,
            shape=shape,
            parts=parts,
            count_once=None,
            site=site if is_known else None,
            inputs=next(found) if has_inputs else inputs,
        )

    def _rows(self, own: Sequence[Tensor], sizes: Sequence[int], where: str) -> Iterator[Tensor]:
        """Yield tensors of all ranks, one after the other along dimension 0, by one collective."""
        flat = [each.detach().to(torch.double).reshape(len(each), -1) for each in own]
        widths = [each.shape[1] for each in flat]
        rows = torch.cat(flat, 1)
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: len(rows)] = rows
        sent = self._gathered(padded, where)
        every = [each[:size] for each, size in zip(sent, sizes, strict=True)]
        for each, columns in zip(own, torch.cat(every).split(widths, 1), strict=True):
            yield columns.reshape(-1, *each.shape[1:]).to(each.dtype)


def _over_examples(site: Node, fn: Any) -> dict[int, Tensor]:
    """Return the parameters of a distribution for each example, by their identity."""
    return {
        id(tensor): tensor.detach().expand(site.shape + tensor.shape[tensor.dim() - event :])
        for tensor, event in held_within(fn)
        if 0 <= event <= tensor.dim()
    }


def _draws(credit: Credit) -> int:
    """Return a number that two ranks have in common if they draw alike: never zero."""
    node = credit.site
    if node is None:
        return 0
    device = node.value.device
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    value = node.value.detach().cpu().to(torch.double)
    return 1 + _digest(bytes(state.tolist()) + bytes(value.reshape(-1).view(torch.uint8).tolist()))


def _digest(text: bytes) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:7])


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown or "none"
