"""A model in FP8: what is swapped, what is not, and that it trains about as well as in fp32."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.device import Device
from workloads.moe.experts import RoutedExperts
from workloads.moe.model import MoeModel
from workloads.presets import training_spec
from workloads.text import Corpus, encode
from workloads.training.data import Batches
from workloads.training.local import LocalTrainer
from workloads.training.precision.convert import convert_to_fp8
from workloads.training.precision.linear import Fp8GroupedMultiply, Fp8Linear


def test_attention_and_feed_forwards_are_swapped_and_nothing_else() -> None:
    model = MoeModel(CPU_TINY)
    conversion = convert_to_fp8(model)
    left = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert left == {"head"}
    assert "blocks.0.attention.latent_up" in conversion.modules
    assert "blocks.1.ffn.routed" in conversion.modules
    experts = [module for module in model.modules() if isinstance(module, RoutedExperts)]
    assert experts
    assert all(isinstance(module.multiply, Fp8GroupedMultiply) for module in experts)
    norms_and_gates = CPU_TINY.vocabulary * CPU_TINY.dim * 2
    assert 0 < model.parameter_count() - norms_and_gates - conversion.parameters < 0.02 * model.parameter_count()


def test_the_parameters_stay_the_same_objects_under_the_same_names() -> None:
    model = MoeModel(CPU_TINY)
    before = dict(model.named_parameters())
    convert_to_fp8(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(parameter.dtype == torch.float32 for parameter in after.values())


def test_keep_leaves_out_what_it_names_at_any_depth() -> None:
    model = MoeModel(CPU_TINY)
    conversion = convert_to_fp8(nn.ModuleDict({"stage": model}), keep=("head", "blocks.0", "shared", "no_such_part"))
    assert conversion.modules
    assert not any("blocks.0" in name or "shared" in name for name in conversion.modules)
    assert type(model.head) is nn.Linear
    assert isinstance(model.get_submodule("blocks.1.attention.output"), Fp8Linear)


def test_nothing_left_to_convert_is_an_error() -> None:
    model = MoeModel(CPU_TINY)
    convert_to_fp8(model)
    with pytest.raises(InvalidValue, match="no layer is left"):
        convert_to_fp8(model)


def test_provenance_says_that_a_cpu_emulates() -> None:
    provenance = convert_to_fp8(MoeModel(CPU_TINY)).provenance()
    assert provenance["precision"] == "fp8: emulated"
    assert int(provenance["fp8_parameters"]) > 500_000


@pytest.mark.slow
def test_training_in_fp8_ends_near_fp32_and_is_not_fp32(device: Device, corpus: Corpus, tokenizer: Tokenizer) -> None:
    spec = training_spec("cpu-tiny")
    tokens = encode(Corpus(corpus.name, corpus.text[:100_000], corpus.sha256), tokenizer)
    batches = Batches(tokens, spec.batch_sequences, spec.sequence_length, spec.seed)
    losses: dict[bool, list[float]] = {}
    for fp8 in (False, True):
        trainer = LocalTrainer(spec, device)
        if fp8:
            conversion = convert_to_fp8(trainer.model)
        losses[fp8] = []
        for step in range(30):
            if fp8:
                conversion.statistics.enabled = step == 29
            losses[fp8].append(float(trainer.step(step, *batches.at(step, device))[0]))
    last = {fp8: sum(curve[-5:]) / 5 for fp8, curve in losses.items()}
    assert last[False] < losses[False][0] - 0.8  # it learns at all
    assert last[True] == pytest.approx(last[False], rel=0.03)
    assert losses[True][0] != losses[False][0]
    figures = conversion.statistics.take()
    assert set(figures) == {"activation", "weight", "gradient"}
    assert all(figure.underflow_ratio is not None and figure.underflow_ratio < 0.01 for figure in figures.values())
