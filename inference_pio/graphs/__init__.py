"""ONNX graphs: architectures build the canonical graph, targets lower it. No torch, no transformers.

Glossary of the dimension letters that end a tensor's name (`q_BSHD`):

B batch, S new positions, P past positions, T = P + S all positions, H query heads, G key/value heads,
D size of a head, C channels of the residual stream, F channels inside the MLP, V vocabulary,
N output features and K input features of a linear layer; in a vision tower also I images (or frames) of one size,
P patches of each, M = P / merge_size^2 tokens of each, Q channels of the tokens' patches side by side.
"""
