"""Results turn into values that JSON can hold."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from inference_pio.runtime.result import Delta, FinishReason, Result, Timings, TokenLogprob, ToolCall, Usage, rate

LOGPROBS = (TokenLogprob(5, -0.25, ((5, -0.25), (7, -math.inf))),)
TIMINGS = Timings(0.0, 0.5, 1.5, 0.6, math.inf, math.nan)
RESULT = Result("h\u00e9", (5, 6), FinishReason.STOP, Usage(3, 2, 1), TIMINGS, LOGPROBS)


def strict(value) -> str:
    return json.dumps(value, allow_nan=False)


def test_a_result():
    found = json.loads(strict(RESULT.to_dict()))
    assert list(found) == [
        *("text", "token_ids", "finish_reason", "usage", "timings", "logprobs"),
        *("reasoning", "tool_calls", "tool_call_problems"),
    ]
    assert (found["reasoning"], found["tool_calls"], found["tool_call_problems"]) == (None, [], [])
    assert (found["text"], found["token_ids"], found["finish_reason"]) == ("h\u00e9", [5, 6], "stop")
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    assert found["logprobs"][0] == {
        "token_id": 5,
        "logprob": -0.25,
        "top": [{"token_id": 5, "logprob": -0.25}, {"token_id": 7, "logprob": None}],
    }
    assert dataclasses.replace(RESULT, logprobs=None).to_dict()["logprobs"] is None


def test_a_result_of_a_chat():
    call = ToolCall("weather", {"place": "\u00c5", "days": [1, None]})
    result = dataclasses.replace(RESULT, reasoning="why", tool_calls=(call,), tool_call_problems=("2 is bad",))
    found = json.loads(strict(result.to_dict()))
    assert found["tool_calls"] == [{"name": "weather", "arguments": {"place": "\u00c5", "days": [1, None]}}]
    assert (found["reasoning"], found["tool_call_problems"]) == ("why", ["2 is bad"])


def test_times_that_are_not_finite_are_null():
    found = TIMINGS.to_dict()
    assert found["prefill_tokens_per_s"] is None and found["decode_tokens_per_s"] is None
    assert found["prefill_s"] == 0.5 and set(found) == {field.name for field in dataclasses.fields(Timings)}


def test_deltas():
    first = Delta("a", (5,)).to_dict()
    assert first == {
        **{"text": "a", "reasoning": "", "token_ids": [5]},
        **{"logprobs": None, "finish_reason": None, "result": None},
    }
    last = Delta("", (), (), FinishReason.LENGTH, RESULT).to_dict()
    assert (last["finish_reason"], last["logprobs"], last["result"]) == ("length", [], RESULT.to_dict())
    strict(last)


def test_values_of_numpy():
    logprob = TokenLogprob(np.int64(3), np.float32(-1.5), ((np.int32(3), np.float64(-1.5)),))
    result = Result("", (np.int64(3),), FinishReason.ERROR, Usage(np.int64(1), 1, 0), TIMINGS, (logprob,))
    assert json.loads(strict(result.to_dict()))["logprobs"][0]["logprob"] == -1.5


@pytest.mark.parametrize("reason", FinishReason)
def test_reasons_are_their_words(reason):
    assert str(reason) == reason.value == f"{reason}" == json.loads(json.dumps(reason))
    assert {reason.value for reason in FinishReason} == {"stop", "length", "cancelled", "error"}


def test_rates_are_finite():
    assert (rate(10, 2.0), rate(10, 0.0), rate(0, 0.0), rate(5, -1e-9)) == (5.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("instance", [RESULT, RESULT.usage, TIMINGS, LOGPROBS[0], Delta("", ())])
def test_frozen(instance):
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.text = 1
