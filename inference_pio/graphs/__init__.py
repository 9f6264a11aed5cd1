"""ONNX graphs: architectures build the canonical graph, targets lower it. No torch, no transformers.

Glossary of the dimension letters that end a tensor's name (`q_BSHD`):

B batch, S new positions, P past positions, T = P + S all positions, H query heads, G key/value heads,
D size of a head, C channels of the residual stream, F channels inside the MLP, V vocabulary,
N output features and K input features of a linear layer. Latent attention: L channels of the key/value latent, R
rotated channels of a head, U the others, W = L + R of a cached row. Vision: I images (or frames) of one size, P patches
of each, M tokens of each, Q channels of a token's patches side by side.
"""
