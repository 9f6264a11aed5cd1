"""Chat templates render as transformers renders them."""

from __future__ import annotations

import enum
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate

USER = {"role": "user", "content": "Hi <b>& 'you'</b> \u00e9\u4e2d\n{{ no }}"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'of a <place> & "time"',
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "enum": ["\u00c5", "b"]}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "\u00c5", "days": 3, "x": None}}}
TALK = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello.", "reasoning_content": None},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "sunny"},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "Both.", "reasoning": "why\nnot"},
    {"role": "user", "content": [{"type": "text", "text": "Thanks"}, {"type": "text", "text": " a lot"}]},
]

CHATML = """{{ bos_token }}{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | string + '<|im_end|>' + '\n' }}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# What Qwen3's published template does: tools, tool calls and answers, reasoning kept only after the last question.
QWEN_LIKE = r"""
{%- macro text_of(content) %}
    {%- if content is string %}{{- content }}
    {%- elif content is iterable and content is not mapping %}
        {%- for part in content %}{%- if 'text' in part %}{{- part.text }}{%- endif %}{%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- text_of(messages[0].content) + '\n\n' }}{%- endif %}
    {{- "# Tools\n\nFunctions within <tools></tools>:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = text_of(message.content) %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set parts = content.split('</think>') %}
            {%- set reasoning = (parts | first).split('<think>')[-1].strip('\n') %}
            {%- set content = (parts | last).lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role }}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and reasoning)) %}
            {{- '\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- set function = call.function or call %}
                {%- set given = function.arguments %}
                {{- '\n' if content or not loop.first }}
                {{- '<tool_call>\n{"name": "' ~ function.name ~ '", "arguments": ' }}
                {{- given if given is string else given | tojson }}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""

# What Qwen3-Coder's published template uses beyond that: mappings as XML, previtem, safe, constants in lists.
XML_LIKE = r"""
{% macro item(key, value) -%}
{{ '\n<' ~ key ~ '>' ~ (value | tojson | safe if value is mapping or value is sequence and value is not string
   else value | string) ~ '</' ~ key ~ '>' }}
{%- endmacro %}
{%- for tool in tools or [] %}
    {%- for key, value in tool.function.items() if key not in ['type', 'name'] %}{{ item(key, value) }}{% endfor %}
    {%- for key, value in tool|dictsort %}{{ [key, value]|length }}{% endfor %}
{%- endfor %}
{%- for message in messages %}
    {%- if loop.previtem and loop.previtem.role == message.role %}+{% endif %}
    {%- if message.tool_calls is defined and message.tool_calls is iterable %}
        {%- for call in message.tool_calls %}
            {%- for name, value in call.function.arguments|items %}{{ item(name, value) }}{% endfor %}
        {%- endfor %}
    {%- else %}
        {%- if loop.index > 7 %}{% break %}{% endif %}
        {%- if message.role == 'tool' %}{% continue %}{% endif %}
        {{- (message.role|upper) ~ loop.cycle(1, 2) ~ loop.length ~ (message.content[:3] | trim) }}
    {%- endif %}
{%- endfor %}
"""

# Helpers, filters and tags one by one.
CORNERS = {
    "tojson": "{{ tools|tojson }}{{ tools|tojson(indent=2) }}{{ tools|tojson(ensure_ascii=True, sort_keys=True) }}",
    "separators": "{{ tools|tojson(separators=(',', ':')) }}",
    "generation": "{% for m in messages %}{% generation %}\n  {{ m.role }}{% endgeneration %}\n{% endfor %}x",
    "generation scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "whitespace": "  {% if true %}\n a \n  {% endif %}\n\n  {# note #}\nb\n",
    "concatenation": "{{ 1 ~ none ~ true ~ [1, 'a'] ~ {'k': 2.5} ~ undefined_name }}",
    "autoescape": "{% autoescape true %}{{ '<' ~ messages[1].content|safe }}{% endautoescape %}{{ '<'|e ~ '>' }}",
    "arithmetic": "{{ 7 % 3 }} {{ 2 ** 10 }} {{ 3 * 'ab' }} {{ [1] * 2 + [3] }} {{ '%s-%05d' % ('a', 7) }}",
    "format": "{{ '{:>5}|{}'.format('a', 2) }} {{ '%s %s'|format(1, 'b') }} {{ '{{}} {0}{0}'.format(1) }}",
    "strings": "{{ 'a,b'.split(',') }} {{ '-'.join(['a', 'b']) }} {{ 'aab'.replace('a', 'cc') }} {{ 'x'.center(5) }}",
    "slices": "{{ 'abcdef'[1:4] }}{{ [1, 2, 3][::-1] }}{{ messages[1:]|length }}{{ 'abc'[-1] }}",
    "comparisons": "{{ 1 < 2 < 3 }}{{ 'role' in messages[0] }}{{ [1, 2] == [1, 2] }}{{ 3 not in (1, 2) }}",
    "loops": "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{{ loop.last }}{% else %}none{% endfor %}",
    "empty loop": "{% for x in missing %}{{ x }}{% else %}none{% endfor %}",
    "filtered loop": "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.revindex }}{% endfor %}",
    "recursive loop": "{% for x in [[1, [2, 3]], [4]] recursive %}({{ loop(x) if x is iterable else x }}){% endfor %}",
    "generators": "{% for r in messages|map(attribute='role')|unique %}{{ loop.length }}{{ r }}{% endfor %}",
    "selections": "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ [3, 1]|sort }}{{ [1, 2]|sum }}",
    "filters": "{{ range(3)|join('-') }}{{ 'a b'|title }}{{ 'a\nb'|indent(2) }}{{ none|default('d', true) }}",
    "macros": "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, c=4) }}",
    "caller": "{% macro f() %}[{{ caller(1) }}]{% endmacro %}{% call(x) f() %}{{ x }}y{% endcall %}",
    "set block": "{% set x %}a{{ 1 }}b{% endset %}{{ x|upper }}{% filter upper %}c{{ x }}{% endfilter %}",
    "namespace": "{% set n = namespace(a=[], self=1) %}{% set n.a = n.a + [2] %}{{ n.a }}{{ n.self }}",
    "dict": "{{ dict(a=1, b=dict([('c', 2)])) }}{{ dict.fromkeys('ab', 1) if dict.fromkeys else '' }}",
    "tests": "{{ 1 is number }}{{ 'a' is in ['a'] }}{{ x is not defined }}{{ none is none }}{{ 4 is divisibleby 2 }}",
    "conditional": "{{ 'a' if tools else 'b' }}{{ (messages|first).role }}{{ (messages|last)['role'] }}",
    "eos": "{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}",
    "reasoning": "{% for m in messages %}{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.reasoning }};{% endfor %}",
    "documents": "{{ documents is none }}{{ documents is defined }}",
}


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(tiny / "tokenizer.json"), bos_token="<s>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def both(
    tokenizer, source: str, messages: list, tools: Any = None, prompt: bool = True, **variables
) -> tuple[str, str]:
    """Our rendering and transformers'."""
    ours = ChatTemplate(source, tokenizer.special_tokens_map).render(messages, tools, prompt, variables)
    theirs = tokenizer.apply_chat_template(
        messages, tools, chat_template=source, add_generation_prompt=prompt, tokenize=False, **variables
    )
    return ours, theirs


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, [], [WEATHER], [WEATHER, {"name": "bare"}]])
@pytest.mark.parametrize("source", [CHATML, QWEN_LIKE], ids=["chatml", "qwen"])
def test_whole_conversations(tokenizer, source, tools, prompt):
    for length in range(1, len(TALK) + 1):
        ours, theirs = both(tokenizer, source, TALK[:length], tools, prompt, enable_thinking=length % 2 == 0)
        assert ours == theirs
        assert "<|im_start|>" in ours


def test_mappings_as_xml(tokenizer):
    ours, theirs = both(tokenizer, XML_LIKE, TALK, [WEATHER])
    assert ours == theirs and "<place>" in ours


@pytest.mark.parametrize("name", CORNERS)
def test_corners(tokenizer, name):
    ours, theirs = both(tokenizer, CORNERS[name], TALK, [WEATHER])
    assert ours == theirs


def test_the_bundled_template(tiny):
    messages = TALK[:2]
    theirs = PreTrainedTokenizerFast.from_pretrained(tiny).apply_chat_template(messages, tokenize=False)
    assert ChatTemplate.load(tiny).render(messages, add_generation_prompt=False) == theirs
    assert ChatTemplate.load(tiny).render(messages) == theirs + "<|im_start|>assistant\n"


def test_the_time(tokenizer):
    assert ChatTemplate("{{ strftime_now('%Y')|length }}", {}).render([USER]) == "4"


def test_variables_come_before_special_tokens():
    template = ChatTemplate("{{ bos_token }}{{ flag }}", {"bos_token": "<s>"})
    assert template.render([USER], variables={"flag": True}) == "<s>True"
    assert template.render([USER], variables={"bos_token": "x"}) == "x"
    for name in ("messages", "tools", "add_generation_prompt"):
        with pytest.raises(BadInputError, match=name):
            template.render([USER], variables={name: 1})


def test_enumerated_values_and_tuples_are_plain():
    class Role(str, enum.Enum):
        USER = "user"

    template = ChatTemplate("{{ messages[0].role }}{{ messages[0].content }}{{ messages[0].n }}", {})
    assert template.render(({"role": Role.USER, "content": "a", "n": (1, True)},)) == "usera(1, True)"


def test_the_messages_are_not_changed():
    messages = [{"role": "assistant", "content": "a", "reasoning": "b", "x": None}]
    before = json.dumps(messages)
    assert ChatTemplate("{{ messages[0].reasoning_content }}", {}).render(messages) == "b"
    assert json.dumps(messages) == before


def test_threads_share_a_template():
    template = ChatTemplate(QWEN_LIKE, {})
    conversations = [[{"role": "user", "content": f"{index}"}] * 50 for index in range(32)]
    expected = [template.render(messages) for messages in conversations]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(template.render, conversations)) == expected


def test_a_long_conversation_is_not_refused():
    messages = [{"role": role, "content": "word " * 400} for role in ("user", "assistant")] * 500
    assert len(ChatTemplate(QWEN_LIKE, {}).render(messages)) > 2_000_000
