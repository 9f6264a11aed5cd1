from pathlib import Path

import pytest

from inference_pio.checkpoint.ledger import Ledger, check_shape
from inference_pio.checkpoint.safetensors import TensorInfo
from inference_pio.errors import BadInputError


def test_every_tensor_used_once_adds_up() -> None:
    ledger = Ledger(["a", "b"])
    assert ledger.use("a")
    assert ledger.use("b")
    ledger.close()
    assert ledger.omitted == {}


def test_missing_unused_and_doubly_used_tensors_are_reported_together() -> None:
    ledger = Ledger(["a", "b", "c"])
    ledger.use("a")
    ledger.use("a")
    assert not ledger.use("z")
    with pytest.raises(BadInputError) as caught:
        ledger.close()
    message = str(caught.value)
    assert "lacks 'z' (1 in all)" in message
    assert "does not use: 'b', 'c' (2 in all)" in message
    assert "used twice: 'a' (1 in all)" in message


def test_a_missing_tensor_asked_for_twice_is_only_missing() -> None:
    ledger = Ledger(["a"])
    ledger.use("a")
    ledger.use("z")
    ledger.use("z")
    with pytest.raises(BadInputError) as caught:
        ledger.close()
    assert "twice" not in str(caught.value)


def test_long_lists_are_cut_and_counted() -> None:
    with pytest.raises(BadInputError, match=r"'t07' and 12 more \(20 in all\)"):
        Ledger([f"t{i:02}" for i in range(20)]).close()


def test_sharing_is_said_by_the_second_use() -> None:
    ledger = Ledger(["embedding"])
    ledger.use("embedding")
    ledger.use("embedding", shared=True)
    ledger.use("embedding", shared=True)
    ledger.close()
    careless = Ledger(["embedding"])
    careless.use("embedding", shared=True)
    careless.use("embedding")
    with pytest.raises(BadInputError, match="twice"):
        careless.close()


def test_declared_omissions_match_whole_names() -> None:
    ledger = Ledger(["layers.0.inv_freq", "layers.10.inv_freq", "lm_head.weight", "layers.0.inv_freq.x", "a+b"])
    ledger.declare_unused("layers.*.inv_freq", "recomputed")
    ledger.declare_unused("lm_head.weight", "tied")
    ledger.declare_unused("absent.*", "never there")
    ledger.declare_unused("a.b", "a dot is a dot")
    assert ledger.omitted == {
        **{"layers.0.inv_freq": "recomputed", "layers.10.inv_freq": "recomputed"},
        **{"lm_head.weight": "tied"},
    }
    with pytest.raises(BadInputError, match=r"does not use: 'a\+b', 'layers\.0\.inv_freq\.x' \(2 in all\)"):
        ledger.close()


def test_an_omission_does_not_excuse_a_missing_tensor() -> None:
    ledger = Ledger([])
    ledger.declare_unused("*", "anything")
    ledger.use("a")
    with pytest.raises(BadInputError, match="lacks 'a'"):
        ledger.close()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_shapes_and_dtypes_that_fit(dtype: str) -> None:
    check_shape(TensorInfo("t", dtype, (2, 3), Path("m"), 0, 1), [2, 3])


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInputError, match=r"'t' in 'm' has the shape .* implies \[2, 3\]"):
        check_shape(TensorInfo("t", "F32", shape, Path("m"), 0, 1), (2, 3))


@pytest.mark.parametrize("dtype", ["I64", "F64", "F8_E4M3", "BOOL"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(BadInputError, match=f"'t' in 'm' is {dtype}"):
        check_shape(TensorInfo("t", dtype, (2,), Path("m"), 0, 1), (2,))
