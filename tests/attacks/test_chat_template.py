"""Templates of hostile checkpoints: no way out of the sandbox, no endless work, no text without end."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.runtime.template_limits import MAX_TEXT

MESSAGES = [{"role": "user", "content": "hello"}]

ESCAPES = [
    "{{ messages.__class__ }}",
    "{{ ().__class__.__base__.__subclasses__() }}",
    "{{ ''['__class__'] }}{{ ''|attr('__class__') }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ ('{0.__class__}'|attr('format'))(1) }}",
    "{{ ['{0.__class__}'.format]|map('string')|join }}{{ [1]|map('{0.__class__}'.format)|list }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['os'] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__class__.__mro__ }}",
    "{{ dict.fromkeys.__func__.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ range.__class__ }}",
    "{{ self.__init__ }}{{ self._TemplateReference__context }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% set ns = namespace(__init__=1) %}",
    "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "{% for x in [1] %}{{ loop._iterator.gi_frame }}{% endfor %}",
    "{{ (messages|map(attribute='role')).gi_frame.f_globals }}",
    "{{ messages.append({}) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{{ messages.sort() }}",
    "{{ messages[0].content.__len__() }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'base' %}",
    "{{ lipsum.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ environment.filters }}{{ context.environment }}{{ messages.environment.filters }}",
]

EXHAUSTION = [
    # Numbers and texts that one operation makes large.
    "{{ 'a' * 10**10 }}",
    "{{ 10000000000 * 'a' }}",
    "{{ [0] * 10**9 }}{{ (1, 2) * 999999999 }}",
    "{{ 10 ** 10000000000 }}",
    "{{ (10 ** 9999) * (10 ** 9999) }}",
    "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x * 2 %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "d(" * 40 + "'ab'" + ")" * 40 + " }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.center(width=9999999999) }}{{ 'a'.center(9999999999) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ ('\t' * 1000000).expandtabs(1000000) }}",
    "{{ ('a' * 10000000).replace('a', 'b' * 10000000) }}",
    "{{ ('a' * 10000000).replace('', 'b' * 10000000) }}",
    "{{ ('b' * 10000000).join('a' * 10000000) }}",
    "{{ ('b' * 10000000).join(range(90000)|map('string')) }}",
    "{{ ('a' * 10000000).translate({97: 'b' * 10000000}) }}",
    "{{ (5).to_bytes(10**10, 'big') }}",
    "{{ ('a' * 10000000).encode().replace('a'.encode(), ('a' * 10000000).encode()) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=9999999999) }}",
    "{{ ('{0}' * 1000000).format('a' * 10000000) }}",
    "{{ ('{x}' * 1000000).format_map({'x': 'a' * 10000000}) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (9999999999, 1) }}",
    "{{ '%.9999999999f' % 1 }}",
    "{{ '%9999999999d'|format(1) }}",
    "{{ ('%s' * 1000000) % ((('a' * 10000),) * 1000000) }}",
    "{{ 'a'|center(10000000000) }}",
    "{{ ('a\n' * 1000000)|indent(1000000) }}",
    "{{ ('a\n' * 1000000)|indent('x' * 1000000) }}",
    "{{ [1]|batch(1000000000, 0)|list }}{{ [1]|slice(1000000000)|list }}",
    "{{ 1.5|round(1000000000, 'ceil') }}",
    "{{ messages|tojson(indent=1000000000) }}",
    "{{ ('a' * 10000000)|replace('', 'b' * 10000000) }}",
    "{{ range(90000)|join('a' * 10000000) }}",
    "{{ messages|map('center', 10000000000)|list }}",
    "{{ lipsum(1000000) }}",
    "{{ 'a'|wordwrap(1, wrapstring='b' * 10000000) }}",
    # Small data that prints large.
    "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ ns.x == ns.x }}",
    "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}",
    "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% else %}{{ varargs }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% else %}{% if 1 in varargs %}{% endif %}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x]|tojson %}{% endfor %}",
    # Loops.
    "{% for i in range(10**10) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999)|map('string') %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = range(99999)|list|length %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = range(99999)|sum %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = ('a' * 10000000)[:9999999]|length %}{% endfor %}",
    "{% set a = 'a' * 10000000 %}{% for i in range(99999) %}{% if 'b' in a %}{% endif %}{% endfor %}",
    "{% set a = [1] * 1000000 %}{% for i in range(99999) %}{% if a == a[:] %}{% endif %}{% endfor %}",
    "{% set a = 'a' * 10000000 %}{% for i in range(99999) %}{% set b = a.count('b') %}{% endfor %}",
    "{% for x in range(99999) recursive %}{% if loop.depth == 1 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
    # Recursion.
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ caller() }}{% endmacro %}"
    "{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}{{ ns.x }}{% set ns.x = ns %}{{ ns.x.x.x + 1 }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    # Output.
    "{% set x = 'a' * 1000000 %}{% for i in range(20) %}{{ x }}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
]


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Two more gigabytes of address space than now, so that a miss fails here and not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(source: str) -> str:
    """What the template renders, or the one sentence that refuses it."""
    try:
        return ChatTemplate(source, {}).render(MESSAGES)
    except BadInputError as error:
        assert "\n" not in str(error)
        return f"refused: {error}"


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source):
    assert outcome(source).startswith("refused: the chat template")
    assert MESSAGES == [{"role": "user", "content": "hello"}]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", EXHAUSTION, ids=range(len(EXHAUSTION)))
def test_no_exhaustion(source):
    assert outcome(source).startswith("refused: the chat template")


def test_up_to_the_limit_is_fine():
    assert len(outcome("{{ 'a' * 16000000 }}")) == 16_000_000 <= MAX_TEXT
    assert outcome("{{ (2 ** 30000) > 0 }}") == "True"
    assert outcome("{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}ok") == "ok"


def test_a_refused_rendering_leaves_the_template_usable():
    template = ChatTemplate("{{ messages[0].content * 10000000 }}", {})
    with pytest.raises(BadInputError):
        template.render(MESSAGES)
    assert len(template.render([{"role": "user", "content": "a"}])) == 10_000_000


def test_messages_are_no_templates():
    content = "{{ ''.__class__ }}{% for x in range(9) %}"
    assert ChatTemplate("{{ messages[0].content }}", {}).render([{"role": "user", "content": content}]) == content
