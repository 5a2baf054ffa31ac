"""Laws of data-parallel padding: ranks agree on counts, padding is never a token, and nobody stays out.

A backend's rule is data (`DpRule`); the laws read what it states and hold its plans to that.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from hardpoint.attention import check_token_counts
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.dp import DpPlan, GraphMode
from hardpoint.errors import DpError

_tokens = st.lists(st.one_of(st.just(0), st.integers(0, 40)), min_size=1, max_size=6)
_step = {
    "tokens": _tokens,
    "tp": st.sampled_from([1, 2, 3, 4, 8]),
    "mode": st.sampled_from(list(GraphMode)),
    "ep": st.booleans(),
}


def _plan(context: LawContext, tokens: list[int], tp: int, mode: GraphMode, ep: bool) -> DpPlan:
    plan = context.backend.dp_rule.plan(tuple(tokens), tp, mode, ep)
    for name in ("num_actual_tokens", "num_padded_tokens", "dummy_forward"):
        context.check(
            len(getattr(plan, name)) == len(tokens),
            f"a plan for {len(tokens)} ranks must have {len(tokens)} entries in {name}, got {getattr(plan, name)}",
        )
    return plan


def _uniform(context: LawContext, mode: GraphMode, ep: bool) -> bool:
    """Whether the backend's rule, as stated, gives all ranks one count in this step."""
    rule, graph = context.backend.dp_rule, mode != GraphMode.NONE
    demanded = {"never": False, "graph": graph, "ep": graph or ep, "always": True}[rule.uniform_when]
    return demanded or rule.pad_to == "max"


@law(part="dp_rule", id="dp_rule.same-count-on-all-ranks")
def same_count_on_all_ranks(context: LawContext) -> None:
    """Where the rule says so (graphs, expert parallelism, always) all ranks have the same padded count; a padded count
    is never less than the rank's own tokens."""

    def check(tokens: list[int], tp: int, mode: GraphMode, ep: bool) -> None:
        padded = _plan(context, tokens, tp, mode, ep).num_padded_tokens
        what = f"tokens {tokens}, tp {tp}, {mode.name}, expert parallel {ep}: padded counts {padded}"
        context.check(all(p >= t for p, t in zip(padded, tokens, strict=True)), f"{what} hold less than the tokens")
        if _uniform(context, mode, ep):
            context.check(len(set(padded)) == 1, f"{what} differ between ranks, and their collectives hang")

    check([26, 30], 2, GraphMode.NONE, True)  # FR4
    context.examples(check, count=150, **_step)


@law(part="dp_rule", id="dp_rule.multiples-hold")
def multiples_hold(context: LawContext) -> None:
    """Every padded count is a multiple of what the rule states, the tensor-parallel size for ``"tp"``."""
    rule = context.backend.dp_rule

    def check(tokens: list[int], tp: int, mode: GraphMode, ep: bool) -> None:
        multiple = tp if rule.multiple_of == "tp" else rule.multiple_of
        padded = _plan(context, tokens, tp, mode, ep).num_padded_tokens
        context.check(
            all(count % multiple == 0 for count in padded),
            f"padded counts for tokens {tokens}, tp {tp} must be multiples of {multiple}, got {padded}",
        )

    context.examples(check, count=150, **_step)


@law(part="dp_rule", id="dp_rule.actual-tokens-end-query-start-loc")
def actual_tokens_end_query_start_loc(context: LawContext) -> None:
    """A plan's actual tokens are the end of each rank's query_start_loc, never the padded count: padding rows do not
    count as real (FR4)."""

    def check(requests: list[list[int]], tp: int, mode: GraphMode, ep: bool) -> None:
        starts = [[sum(lengths[:i]) for i in range(len(lengths) + 1)] for lengths in requests]
        plan = _plan(context, [start[-1] for start in starts], tp, mode, ep)
        for rank, (start, lengths) in enumerate(zip(starts, requests, strict=True)):
            actual, padded = plan.num_actual_tokens[rank], plan.num_padded_tokens[rank]
            faults = check_token_counts(
                num_actual_tokens=actual, query_start_loc=start, seq_lens=lengths, hidden_rows=padded
            )
            context.check(not faults, f"data-parallel rank {rank}: " + "; ".join(fault.sentence for fault in faults))
            rows = plan.slices[rank]
            begin = sum(plan.num_padded_tokens[:rank])
            context.check(
                (rows.start, rows.stop) == (begin, begin + start[-1]),
                f"rank {rank}'s tokens are gathered rows {begin} to {begin + start[-1]}, the plan says {rows}",
            )

    check([[5, 5, 8, 8], [7, 5, 11, 7]], 2, GraphMode.NONE, True)
    lengths = st.lists(st.integers(1, 9), max_size=4)
    requests = st.lists(lengths, min_size=1, max_size=4)
    context.examples(check, count=100, requests=requests, **{key: _step[key] for key in ("tp", "mode", "ep")})


@law(part="dp_rule", id="dp_rule.ranks-without-tokens-take-part")
def ranks_without_tokens_take_part(context: LawContext) -> None:
    """If any rank has tokens every rank runs: one without gets at least one row of padding and a dummy forward, one
    with tokens never does. If no rank has any, all do the same."""

    def check(tokens: list[int], tp: int, mode: GraphMode, ep: bool) -> None:
        plan = _plan(context, tokens, tp, mode, ep)
        what = f"tokens {tokens}: padded counts {plan.num_padded_tokens}, dummy forward {plan.dummy_forward}"
        if not any(tokens):
            runs = {count > 0 for count in plan.num_padded_tokens}
            context.check(len(runs) == 1, f"{what}: some ranks run and some do not, though none has tokens")
            return
        for rank, count in enumerate(tokens):
            context.check(plan.num_padded_tokens[rank] > 0, f"{what}: rank {rank} stays out and the others wait for it")
            context.check(
                plan.dummy_forward[rank] == (count == 0),
                f"{what}: rank {rank} has {count} tokens, its dummy forward must be {count == 0}",
            )

    check([0, 5], 2, GraphMode.NONE, True)
    context.examples(check, count=150, **_step)


@law(part="dp_rule", id="dp_rule.plans-are-pure")
def plans_are_pure(context: LawContext) -> None:
    """A plan follows from its arguments alone: asked again, after other steps, from another thread or by another rank
    it is the same, and ranks in another order give the same plan in that order."""
    rule = context.backend.dp_rule

    def check(tokens: list[int], tp: int, mode: GraphMode, ep: bool) -> None:
        plan = _plan(context, tokens, tp, mode, ep)
        rule.plan(tuple(count + 100 for count in tokens), 2 * tp, mode, not ep)  # a step between that is unlike it
        again = rule.plan(tuple(tokens), tp, mode, ep)
        context.check(again == plan, f"tokens {tokens}: planned once {plan}, planned again {again}")
        plain = rule.plan(list(tokens), tp, int(mode), ep)
        context.check(plain == plan, f"tokens {tokens}: the mode as a plain integer gives {plain} instead of {plan}")
        order = list(range(len(tokens)))
        context.random.shuffle(order)
        other = _plan(context, [tokens[rank] for rank in order], tp, mode, ep)
        for name in ("num_actual_tokens", "num_padded_tokens", "dummy_forward"):
            expected = tuple(getattr(plan, name)[rank] for rank in order)
            context.check(
                getattr(other, name) == expected,
                f"tokens {tokens} in rank order {order}: {name} must be {expected}, is {getattr(other, name)}",
            )

    steps = ((26, 30), (0, 5), (3,))
    here = [rule.plan(tokens, 2, GraphMode.NONE, True) for tokens in steps]
    there = context.in_thread(lambda: [rule.plan(tokens, 2, GraphMode.NONE, True) for tokens in steps])
    context.check(here == there, f"planned in one thread {here}, in another {there}")
    context.examples(check, count=80, **_step)


@law(part="dp_rule", id="dp_rule.unpad-inverts-pad")
def unpad_inverts_pad(context: LawContext) -> None:
    """Padding adds rows of zeros after the tokens, unpadding takes them off again: the tokens come back to the bit, NaN
    included, and the batch that was padded is not changed."""

    dtypes = [torch.float32, torch.int64]
    if "bfloat16" in context.backend.capabilities.dtypes:
        dtypes.append(torch.bfloat16)

    def check(
        tokens: list[int], tp: int, mode: GraphMode, ep: bool, trailing: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        plan = _plan(context, tokens, tp, mode, ep)
        gathered, hosts = [], []
        for rank, count in enumerate(tokens):
            host = (context.host_randn(count, *trailing) * 1000).to(dtype)
            if count and dtype.is_floating_point:
                host[-1] = float("nan")
            x = context.to_device(host)
            padded = plan.pad(x, rank)
            zeros = torch.zeros((plan.num_padded_tokens[rank] - count, *trailing), dtype=dtype)
            context.equal(padded, torch.cat([host, zeros]), f"rank {rank} of {tokens}, padded")
            context.equal(plan.unpad(padded, rank), host, f"rank {rank} of {tokens}, padded and unpadded")
            padded.fill_(1)
            context.equal(x, host, f"rank {rank} of {tokens}, the batch after its padded copy was overwritten")
            gathered.append(plan.pad(x, rank))
            hosts.append(host)
        context.equal(plan.unpad_gathered(torch.cat(gathered)), torch.cat(hosts), f"tokens {tokens}, gathered")

    few = st.lists(st.one_of(st.just(0), st.integers(0, 9)), min_size=1, max_size=3)
    trailing = st.sampled_from([(3,), (), (1,), (2, 2)])
    context.examples(check, count=16, **{**_step, "tokens": few}, trailing=trailing, dtype=st.sampled_from(dtypes))


@law(part="dp_rule", id="dp_rule.misfits-are-refused")
def misfits_are_refused(context: LawContext) -> None:
    """Counts that cannot be, and tensors whose rows are not the plan's, are refused with DpError."""
    rule = context.backend.dp_rule
    for tokens, tp in (((), 1), ((3, -1), 1), ((3, 1), 0)):
        with context.refuses(f"a plan for tokens {tokens} and tp {tp}", DpError):
            rule.plan(tokens, tp, GraphMode.NONE, True)
    plan = rule.plan((3, 9), 2, GraphMode.FULL, True)
    for rows, rank in ((2, 0), (4, 0), (3, 2), (3, -1)):
        with context.refuses(f"padding {rows} rows as rank {rank} of {plan}", DpError):
            plan.pad(context.full(rows, 2, value=1.0), rank)
    with context.refuses(f"unpadding one row too many as rank 0 of {plan}", DpError):
        plan.unpad(context.full(plan.num_padded_tokens[0] + 1, 2, value=1.0), 0)
    for rows in (sum(plan.num_padded_tokens) + 1, sum(plan.num_padded_tokens) - 1):
        with context.refuses(f"unpadding {rows} gathered rows of {plan}", DpError):
            plan.unpad_gathered(context.full(rows, 2, value=1.0))


@law(part="dp_rule", id="dp_rule.ranks-meet", ranks=2, deadline=60, patient=True)
def ranks_meet(context: LawContext) -> None:
    """Ranks that exchange their counts, pad by the plan and gather with an equal-size collective meet, also a rank
    without tokens, and get each other's tokens without padding."""
    communicator = context.communicator()
    if not _uniform(context, GraphMode.FULL, True):
        context.note("the rule never makes counts equal; this backend's MoE collectives have to be ragged")
        return
    for tokens in ((5, 3), (0, 4), (4, 0), (1, 1)):
        mine = tokens[context.rank]
        counts = context.to_device(torch.zeros(context.world_size, dtype=torch.int32))
        communicator.all_gather(counts, context.to_device(torch.tensor([mine], dtype=torch.int32)))
        seen = tuple(int(count) for count in context.to_host(counts))
        plan = _plan(context, list(seen), 2, GraphMode.FULL, True)
        plans = context.gather((plan.num_actual_tokens, plan.num_padded_tokens, plan.dummy_forward))
        context.check(len(set(plans)) == 1, f"ranks made different plans of the counts {tokens}: {plans}")
        hosts = [torch.full((count, 2), float(rank + 1)) for rank, count in enumerate(tokens)]
        padded = plan.pad(context.to_device(hosts[context.rank]), context.rank)
        if not plan.runs:
            continue
        gathered = context.full(sum(plan.num_padded_tokens), 2, value=float("nan"))
        communicator.all_gather(gathered, padded)
        context.equal(
            plan.unpad_gathered(gathered), torch.cat(hosts), f"tokens {tokens} gathered on rank {context.rank}"
        )
