"""Stream an answer, stop it early, and see what the prefix cache saved.

usage: python examples/stream.py ARTIFACT
"""

from __future__ import annotations

import sys

from inference_pio.runtime import Engine, SamplingParams


def main(artifact: str) -> None:
    prompt = "def parse(text):\n    " * 40
    params = SamplingParams(max_new_tokens=40, stop=["\n\n"])
    with Engine.open(artifact) as engine:
        for round_number in (1, 2):
            for delta in engine.stream(prompt, params):
                print(delta.text, end="", flush=True)
                if delta.result is not None:
                    usage = delta.result.usage
                    print(f"\n-- {round_number}: {usage.cached_tokens} of {usage.prompt_tokens} tokens were cached")


if __name__ == "__main__":
    main(sys.argv[1])
