"""FR1, second half: data fields of a batch never reach `generate`, whatever is wrapped around the model."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration
from transformers.generation.streamers import BaseStreamer

from hardpoint.errors import HardpointError
from hardpoint_trainers import base_model, generate_kwargs
from support.trainer_models import tiny_trainer_moe

DATA = {"solution": ["42"], "task_type": ["math"], "messages": [[]], "loss_scale": None, "data_source": ["gsm8k"]}


class _Wrapper(torch.nn.Module):
    """What DDP and DeepSpeed look like from outside: the model under `module`, a forward that takes anything."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # DeepSpeed's engine answers for the model inside it.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


class _Adapted(torch.nn.Module):
    """What a PEFT model looks like from outside."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def get_base_model(self) -> torch.nn.Module:
        return self.base_model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_trainer_moe()


def batch() -> dict[str, Any]:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 2, "do_sample": False}


def test_data_fields_end_generate_and_the_filter_keeps_them_from_it(model: Any) -> None:
    with pytest.raises(ValueError, match=r"`model_kwargs` are not used by the model: \['solution', 'task_type'"):
        model.generate(**batch(), **DATA)
    kept = generate_kwargs(model, {**batch(), **DATA})
    assert list(kept) == list(batch())
    assert torch.equal(model.generate(**kept), model.generate(**batch()))


@pytest.mark.parametrize(
    "wrap",
    [_Wrapper, _Adapted, lambda model: _Wrapper(_Adapted(model)), lambda model: _Adapted(_Wrapper(_Wrapper(model)))],
)
def test_wrappers_are_taken_off_since_their_forward_says_nothing(model: Any, wrap: Any) -> None:
    wrapped = wrap(model)
    assert base_model(wrapped) is model
    assert list(generate_kwargs(wrapped, {**batch(), **DATA})) == list(batch())


def test_real_wrappers_are_taken_off(model: Any) -> None:
    assert base_model(torch.nn.DataParallel(model)) is model
    compiled = torch.compile(model)
    assert list(generate_kwargs(compiled, {**batch(), **DATA})) == list(batch())


def test_a_real_adapter_is_taken_off() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    adapted = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(target_modules=["q_proj"]))
    assert list(generate_kwargs(adapted, {**batch(), **DATA})) == list(batch())


def test_what_generate_itself_takes_stays(model: Any) -> None:
    own = {
        "generation_config": GenerationConfig(max_new_tokens=2),
        "streamer": BaseStreamer(),
        "logits_processor": None,
        "synced_gpus": False,
        "temperature": 0.5,
        "eos_token_id": 3,
        "position_ids": None,
        "use_cache": True,
        "output_router_logits": True,
    }
    assert generate_kwargs(model, {**own, **DATA}) == own


def test_what_an_encoder_and_a_decoder_take_stays() -> None:
    config = T5Config(
        d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32, decoder_start_token_id=0, pad_token_id=0
    )
    model = T5ForConditionalGeneration(config).eval()
    given = {**batch(), "decoder_attention_mask": torch.ones(2, 1, dtype=torch.long)}
    kept = generate_kwargs(model, {**given, **DATA})
    assert list(kept) == list(given)
    model.generate(**kept)


def test_what_is_dropped_is_said_once(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hardpoint.trainers"):
        for _ in range(3):
            generate_kwargs(model, {**batch(), "reference_answer": "x", "difficulty": 3})
            generate_kwargs(model, batch())
    said = [record.message for record in caplog.records]
    assert said == ["Qwen3MoeForCausalLM takes no reference_answer, difficulty: kept from generate()."]


def test_a_model_that_names_nothing_is_refused_and_nothing_is_dropped_in_silence() -> None:
    class Anything(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(HardpointError, match=r"found Anything\.forward with \*args and \*\*kwargs alone"):
        generate_kwargs(Anything(), batch())
