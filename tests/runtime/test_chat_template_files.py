"""Where a chat template comes from, and what is refused: files, messages, tools, templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate

USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("config", "tools", "expected"),
    [
        ({"chat_template": "one"}, None, "one"),
        ({"chat_template": [{"name": "other", "template": "o"}, {"name": "default", "template": "d"}]}, None, "d"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}, None, "d"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}, [], "t"),
        ({"chat_template": "{{ eos_token }}", "eos_token": {"content": "</s>", "special": True}}, None, "</s>"),
        ({"chat_template": "{{ bos_token is defined }}", "bos_token": None}, None, "False"),
    ],
)
def test_the_config_as_source(tmp_path, config, tools, expected):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.load(tmp_path).render([USER], tools) == expected


def test_the_file_comes_before_the_config(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config", "eos_token": "E"}))
    (tmp_path / "chat_template.jinja").write_text("file\u00e9{{ eos_token }}", encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([USER]) == "file\u00e9E"


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        {"role": "user", "content": "a"},
        ["hello"],
        [{"content": "a"}],
        [{"role": None, "content": "a"}],
        [{"role": 1, "content": "a"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [5]}],
        [{"role": "user", "content": b"a"}],
        [{"role": "assistant", "tool_calls": []}],
        [{"role": "user", "content": "a", "extra": object()}],
        [USER, 3],
    ],
)
def test_bad_messages(messages):
    with pytest.raises(BadInputError, match="message"):
        ChatTemplate("x", {}).render(messages)


@pytest.mark.parametrize("tools", ["a", [1], {"name": "a"}, [print]])
def test_bad_tools(tools):
    with pytest.raises(BadInputError, match="tools"):
        ChatTemplate("x", {}).render([USER], tools)


def test_too_deep_messages():
    deep: Any = "a"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(BadInputError, match="nested"):
        ChatTemplate("x", {}).render([{"role": "user", "content": [{"deep": deep}]}])


def test_a_missing_template(tmp_path):
    with pytest.raises(BadInputError, match="use generate"):
        ChatTemplate.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "tool_use", "template": "x"}]}')
    with pytest.raises(BadInputError, match="use generate"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", b"\xff\xfe"),
        ("chat_template.jinja", b"{% for %}"),
        ("chat_template.jinja", b"{% if true %}"),
        ("chat_template.jinja", b"{{ 1|nofilter }}"),
        ("chat_template.jinja", b"{{ " + b"9" * 5000 + b" }}"),
        ("chat_template.jinja", b"{{ " + b"(" * 3000 + b")" * 3000 + b" }}"),
        ("chat_template.jinja", b"{% for x in y %}" * 60 + b"{% endfor %}" * 60),
        ("chat_template.jinja", b"x" * (2 << 20)),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("tokenizer_config.json", b'{"chat_template": ["a"]}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}'),
        ("tokenizer_config.json", b'{"chat_template": "x", "bos_token": 5}'),
        ("tokenizer_config.json", b"[" * 100_000),
    ],
)
def test_unusable_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        ChatTemplate.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_file_s_place(tmp_path):
    (tmp_path / "chat_template.jinja").mkdir()
    with pytest.raises(BadInputError, match="chat_template"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.nothing.at_all }}", "nothing"),
        ("{{ 1 / 0 }}", "zero"),
        ("{{ 'a' + 1 }}", "must be str|concatenate"),
        ("{{ none() }}", "not callable"),
        ("{{ 'a'|int(base=99) + messages|sum }}", "."),
        ("{% include 'x' %}", "loader"),
        ("{% for x in 5 %}{% endfor %}", "iterable"),
        ("{{ '%d' % 'a' }}", "number"),
        ("{{ [1][messages] }}{{ {}[[]] }}{{ tools|tojson(indent={}) }}", "."),
    ],
)
def test_errors_of_the_template(source, message):
    with pytest.raises(BadInputError, match=message):
        ChatTemplate(source, {}).render([USER])
