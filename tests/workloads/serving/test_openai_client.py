"""The official client against the real server: what it can ask for, and what it is told."""

import asyncio
import time

import openai
import pytest

pytestmark = pytest.mark.slow
MODEL = "cpu-tiny"


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_completion_whole(client):
    answer = client.completions.create(model=MODEL, prompt="def main(", max_tokens=7, temperature=0)
    [choice] = answer.choices
    assert answer.object == "text_completion"
    assert choice.finish_reason == "length"
    assert choice.text
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_a_completion_is_sixteen_tokens_unless_asked(client):
    assert client.completions.create(model=MODEL, prompt="import").usage.completion_tokens == 16


def test_a_streamed_completion_is_the_whole_one_in_pieces(client):
    wanted = {"model": MODEL, "prompt": "import os", "max_tokens": 9, "temperature": 0}
    whole = client.completions.create(**wanted)
    chunks = list(client.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 9
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    without = list(client.completions.create(**wanted, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in without)


def test_prompts_as_ids_and_several_at_once(client):
    ids = [5, 6, 7]
    one = client.completions.create(model=MODEL, prompt=ids, max_tokens=3, temperature=0)
    assert one.usage.prompt_tokens == 3
    both = client.completions.create(model=MODEL, prompt=[ids, [9, 10]], max_tokens=3, temperature=0)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == one.choices[0].text
    assert (both.usage.prompt_tokens, both.usage.completion_tokens) == (5, 6)
    chunks = client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=3, temperature=0, stream=True)
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}


def test_a_chat_whole_and_streamed(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=6, temperature=0)
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.role == "assistant"
    assert whole.usage.completion_tokens == 6
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6, temperature=0, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    same = client.chat.completions.create(model=MODEL, messages=messages[:1] + parts, max_tokens=6, temperature=0)
    assert same.choices[0].message.content == whole.choices[0].message.content


def test_the_same_seed_says_the_same(client):
    def say(seed):
        answer = client.completions.create(model=MODEL, prompt="x", max_tokens=12, temperature=1, top_p=0.9, seed=seed)
        return answer.choices[0].text

    assert say(7) == say(7)
    assert say(7) != say(8)


def test_a_stop_text_ends_the_answer_before_itself(client):
    wanted = {"model": MODEL, "prompt": "class A", "max_tokens": 20, "temperature": 0}
    full = client.completions.create(**wanted).choices[0].text
    stop = full[len(full) // 2 : len(full) // 2 + 2]
    for stream in (False, True):
        answer = client.completions.create(**wanted, stop=["never this", stop], stream=stream)
        choices = [c.choices[0] for c in answer] if stream else [answer.choices[0]]
        assert "".join(choice.text for choice in choices) == full[: full.index(stop)]
        assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "gpt-5"),
        ({"logprobs": 3}, openai.BadRequestError, "logprobs"),
        ({"n": 2}, openai.BadRequestError, "n is not supported"),
        ({"echo": True}, openai.BadRequestError, "echo"),
        ({"presence_penalty": 0.5}, openai.BadRequestError, "presence_penalty"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"prompt": ""}, openai.BadRequestError, "empty"),
        ({"prompt": [999_999]}, openai.BadRequestError, "vocabulary"),
        ({"prompt": [1] * 395, "max_tokens": 6}, openai.BadRequestError, "maximum context length is 400"),
        ({"prompt": [1] * 500}, openai.BadRequestError, "maximum context length is 400"),
        ({"stop": [""]}, openai.BadRequestError, "stop"),
        ({"prompt": "x" * 30_000}, openai.APIStatusError, "20000 bytes"),
    ],
)
def test_what_cannot_be_done_is_said(client, change, error, says):
    with pytest.raises(error, match=says) as caught:
        client.completions.create(**({"model": MODEL, "prompt": "x", "max_tokens": 1} | change))
    assert caught.value.body["message"]
    assert caught.value.body["type"] == "invalid_request_error"


def test_what_does_not_fit_a_client_can_tell_by_code(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 900}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )  # fmt: skip


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_pages(server, metrics, stream):
    before = metrics("requests_finished_total", reason="abort")

    async def leave():
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0) as client:
            call = client.completions.create(model=MODEL, prompt="x", max_tokens=390, stream=stream)
            if stream:
                answer = await call
                await anext(aiter(answer))
                assert metrics("cache_usage_ratio") > 0
                await answer.close()
            else:
                with pytest.raises((openai.APITimeoutError, TimeoutError)):
                    await asyncio.wait_for(call, 0.1)

    asyncio.run(leave())
    wait_until(lambda: metrics("requests_finished_total", reason="abort") == before + 1)
    wait_until(lambda: metrics("cache_usage_ratio") == 0 and metrics("requests_running") == 0)


def test_more_than_the_server_takes_on_is_told_to_come_again(server, metrics):
    """8 places (4 computed, 4 waiting) and a cache too small for 4 long requests: it preempts, and all are answered."""

    async def storm():
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0, timeout=120) as client:
            calls = [
                client.completions.create(
                    model=MODEL, prompt=[i + 1] * 20, max_tokens=300, extra_body={"ignore_eos": True}
                )
                for i in range(20)
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(storm())
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    served = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(refused) == 12
    assert len(served) == 8
    assert all(answer.usage.completion_tokens == 300 for answer in served)
    assert refused[0].response.headers["retry-after"] == "1"
    assert metrics("preemptions_total") > 0
    assert metrics("requests_refused_total", reason="overloaded") >= 12
    assert metrics("cache_usage_ratio") == 0


def test_load_tools_find_what_they_look_for(http, metrics):
    """The requests that vLLM's bench and guidellm make, as they make them."""
    assert http.get("/health").status_code == 200
    [card] = http.get("/v1/models").json()["data"]
    assert card["max_model_len"] == 400
    body = {
        "model": MODEL, "prompt": "hello", "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 5,
        "logprobs": None, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip
    before = metrics("generation_tokens_total")
    with http.stream("POST", "/v1/completions", json=body, headers={"Authorization": "Bearer x"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert '"completion_tokens":5' in lines[-2]
    assert metrics("generation_tokens_total") == before + 5
    for name in (
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
        "request_duration_seconds_count",
    ):
        assert metrics(name) > 0


def test_errors_have_one_shape_on_every_route(http):
    answers = [
        http.get("/v1/nothing"), http.get("/v1/completions"), http.post("/v1/completions", content=b"{"),
        http.post("/v1/chat/completions", json={"model": MODEL, "messages": []}),
        http.post("/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "x"}}]}]}),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [404, 405, 400, 400, 400]
    for answer in answers:
        assert {"message", "type", "param", "code"} == answer.json()["error"].keys()
