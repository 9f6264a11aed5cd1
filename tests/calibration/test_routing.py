"""Which experts a token gets, and how they are mixed."""

import numpy as np
from routing_cases import small, tokens

from inference_pio.graphs.spec import Scoring


def test_a_bias_selects_and_does_not_mix():
    experts, arrays = small(Scoring.SIGMOID)
    x_TC = tokens()
    index_TK, weights_TK = experts.route(x_TC)
    scores_TE = 1 / (1 + np.exp(-(x_TC @ arrays["router"].T)))
    assert (np.sort(index_TK) != np.sort(np.argsort(-scores_TE)[:, :2])).any()
    plain = np.take_along_axis(scores_TE, index_TK, axis=1)
    np.testing.assert_allclose(weights_TK, plain / plain.sum(axis=1, keepdims=True), rtol=1e-5)
