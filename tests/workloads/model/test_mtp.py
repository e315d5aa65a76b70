"""Multi-token prediction: what it predicts, from what, and whom its loss teaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction

WORDS = CPU_TINY.vocabulary


def ids(sequences: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(WORDS, (sequences, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> MoeModel:
    return MoeModel(CPU_TINY, seed=1)


@pytest.mark.parametrize("depths", [1, 2, 3])
def test_each_depth_predicts_every_position_that_has_a_target(model: MoeModel, depths: int) -> None:
    mtp = MultiTokenPrediction(CPU_TINY, depths=depths)
    logits = mtp(model.hidden(ids()), ids(), model.embedding, model.head)
    assert [tuple(of_depth.shape) for of_depth in logits] == [(2, 12 - 1 - k, WORDS) for k in range(1, depths + 1)]


def naive_loss(mtp: MultiTokenPrediction, model: MoeModel, ids_BT: Tensor, weight: float) -> float:
    """Equations 21 to 25 position by position, each from the positions up to it, in one sequence after another."""
    losses: dict[int, list[float]] = {}
    for sequence in ids_BT:
        previous = model.hidden(sequence[None])[0]
        for k, depth in enumerate(mtp.depths, start=1):
            assert isinstance(depth, nn.Module)
            joined = []
            for i in range(len(sequence) - k - 1):
                hidden = F.rms_norm(previous[i], (CPU_TINY.dim,), depth.hidden_norm.weight, 1e-6)
                token = model.embedding(sequence[i + k])
                token = F.rms_norm(token, (CPU_TINY.dim,), depth.embedding_norm.weight, 1e-6)
                joined.append(depth.project.weight @ torch.cat((hidden, token)))
            states = []
            for i in range(len(joined)):
                positions = torch.arange(i + 1)[None]
                angles = positions[..., None] * 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
                out = depth.block(torch.stack(joined[: i + 1])[None], (angles.cos(), angles.sin()), None)[0, -1]
                states.append(F.rms_norm(out, (CPU_TINY.dim,), depth.norm.weight, 1e-6))
                probabilities = (model.head.weight @ states[-1]).softmax(0)
                losses.setdefault(k, []).append(-float(probabilities[sequence[i + k + 1]].log()))
            previous = torch.stack(states)
    return weight * sum(sum(of_depth) / len(of_depth) for of_depth in losses.values()) / len(losses)


@pytest.mark.parametrize("depths", [1, 2])
def test_loss_is_that_of_the_paper_position_by_position(model: MoeModel, depths: int) -> None:
    mtp = MultiTokenPrediction(CPU_TINY, depths=depths, seed=3)
    with torch.no_grad():
        for parameter in mtp.parameters():  # large enough that every token matters
            parameter.add_(torch.randn_like(parameter) * 0.2)
        loss = mtp.loss(model.hidden(ids()), ids(), model.embedding, model.head, weight=0.3)
        assert float(loss) == pytest.approx(naive_loss(mtp, model, ids(), 0.3), rel=1e-4)


def learned_loss(sequences: Tensor) -> float:
    """Loss after training trunk and prediction together on sequences that never repeat."""
    torch.manual_seed(0)
    shape = CPU_TINY.model_copy(update={"layers": 1, "vocabulary": 32})
    model, mtp = MoeModel(shape, seed=1), MultiTokenPrediction(shape)
    optimizer = torch.optim.AdamW([*model.parameters(), *mtp.parameters()], lr=5e-3)
    loss = torch.zeros(())
    for batch in sequences:
        optimizer.zero_grad()
        loss = mtp.loss(model.hidden(batch), batch, model.embedding, model.head, weight=1.0)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.slow
def test_it_sees_the_next_token_and_not_the_one_it_predicts() -> None:
    """Pairs (a, b) of which b follows from a: given every token up to a, the b after it is certain; given only
    those before, it is not. Even positions are random, so that predicting them is guessing among 16."""
    firsts = torch.randint(16, (50, 8, 8), generator=torch.Generator().manual_seed(1))
    sequences = torch.stack((firsts, (firsts * 5 + 3) % 16 + 16), dim=-1).flatten(2)
    guessing_half_of_them = 0.5 * torch.tensor(16.0).log()
    # Less would need to see the target; a wrong shift could not even know the certain half.
    assert learned_loss(sequences) == pytest.approx(float(guessing_half_of_them), rel=0.12)


def test_the_loss_teaches_trunk_embedding_and_head(model: MoeModel) -> None:
    mtp = MultiTokenPrediction(CPU_TINY)
    mtp.loss(model.hidden(ids()), ids(), model.embedding, model.head).backward()
    for name, parameter in [*model.named_parameters(), *mtp.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_the_trunk_it_needs_only_hidden_states_and_ids(model: MoeModel) -> None:
    """As on the last stage of a pipeline: the gradient of the hidden states is what goes back to the other stages."""
    mtp = MultiTokenPrediction(CPU_TINY)
    whole = mtp.loss(model.hidden(ids()), ids(), model.embedding, model.head)
    whole.backward()
    expected = model.blocks[0].attention.output.weight.grad
    model.zero_grad()
    sent = model.hidden(ids())
    received = sent.detach().requires_grad_()
    mtp.loss(received, ids(), model.embedding, model.head).backward()
    assert received.grad is not None
    torch.autograd.backward([sent], [received.grad])
    torch.testing.assert_close(model.blocks[0].attention.output.weight.grad, expected)


def test_the_trunk_without_it_is_unchanged() -> None:
    before = MoeModel(CPU_TINY, seed=1)
    loss = F.cross_entropy(before(ids())[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())
    loss.backward()
    MultiTokenPrediction(CPU_TINY)
    after = MoeModel(CPU_TINY, seed=1)
    again = F.cross_entropy(after.head(after.hidden(ids()))[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())
    again.backward()
    assert torch.equal(loss, again)
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_only_real_tokens_reach_its_router(model: MoeModel) -> None:
    mtp = MultiTokenPrediction(CPU_TINY)
    mtp(model.hidden(ids()), ids(), model.embedding, model.head)
    [router] = mtp.routers()
    assert router.take_load().sum() == 2 * (12 - 2) * 2


def test_impossible_depths_are_refused(model: MoeModel) -> None:
    with pytest.raises(InvalidValue, match="depths"):
        MultiTokenPrediction(CPU_TINY, depths=0)
    with pytest.raises(InvalidValue, match="give 4 or more"):
        MultiTokenPrediction(CPU_TINY, depths=2)(model.hidden(ids(2, 3)), ids(2, 3), model.embedding, model.head)
