"""The original model: transformers itself in float32, streamed. The only package that imports torch and transformers.

The model's own forward runs, once, over all windows. Only four kinds of module get another forward: the embedding
looks its rows up in the file, a decoder layer loads its weights, runs and forgets them, experts are loaded one at a
time, and the head works through its rows in chunks. Masks, rotary tables, norms, routers, attention and dense MLPs are
transformers' own.
"""

from inference_pio.verify.reference.rounding import round_activations
from inference_pio.verify.reference.streaming import write_logits
from inference_pio.verify.reference.tokens import tokenize, versions

__all__ = ["round_activations", "tokenize", "versions", "write_logits"]
