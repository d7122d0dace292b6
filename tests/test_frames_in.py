"""The door for pictures: every form with one meaning gives the same picture, and every other one a line that helps."""

from typing import Any

import numpy as np
import pytest
import torch

from lewm.data.fit import FrameFit, FrameFitter
from lewm.families.family import WorldModel, encoder_input, make_model
from lewm.frames_in import pictures_in
from lewm.plan import LatentController, action_space
from tiny import IMAGE, tiny

B = 2
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (B, IMAGE, IMAGE, 3), dtype=np.uint8)

FORMS = {
    "as it is": lambda x: x,
    "float32 of 0 to 1": lambda x: x.astype(np.float32) / 255,
    "float16 of 0 to 1": lambda x: (x / 255).astype(np.float16),
    "float64 of 0 to 255": lambda x: x.astype(np.float64),
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: x.astype(np.uint16),
    "channels first": lambda x: np.moveaxis(x, -1, -3),
    "list": list,
    "nested lists": lambda x: x.tolist(),
    "tensor": torch.tensor,
    "tensor of bfloat16": lambda x: torch.tensor(x).bfloat16(),
    "float tensor, channels first": lambda x: torch.tensor(x).movedim(-1, -3).float() / 255,
    "tensor with a gradient": lambda x: (torch.tensor(x) / 255).requires_grad_(),
    "list of tensors": lambda x: [torch.tensor(frame) for frame in x],
    "upside down view": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "twice as large": lambda x: x.repeat(2, axis=-3).repeat(2, axis=-2),
}


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return make_model(tiny()).eval()


@pytest.mark.parametrize("form", FORMS)
def test_forms_with_one_meaning(form: str) -> None:
    frames = FRAMES // 16 * 16  # what bfloat16 holds exactly
    for batch in (None, B):
        taken = pictures_in("frames", FORMS[form](frames), size=IMAGE, batch=batch)
        assert taken.dtype == np.uint8
        np.testing.assert_array_equal(taken, frames)
    one = pictures_in("frames", FORMS[form](frames[:1])[0], size=IMAGE, batch=1)
    np.testing.assert_array_equal(one, frames[:1])
    steps = np.stack([frames, 255 - frames], axis=1)[:, :1]  # (B, m=1, height, width, 3)
    np.testing.assert_array_equal(pictures_in("frames", FORMS[form](steps), size=IMAGE, batch=B, steps=True), steps)


def test_a_dark_picture_keeps_its_levels() -> None:
    dark = np.zeros_like(FRAMES)
    dark[:, 3, 4] = 7
    np.testing.assert_array_equal(pictures_in("frames", dark.astype(np.float32), size=IMAGE), dark)
    np.testing.assert_array_equal(pictures_in("frames", dark.astype(np.int32) // 7, size=IMAGE), dark // 7)


def test_another_size_is_scaled_as_the_store_was() -> None:
    frames = RNG.integers(0, 256, (B, 90, 90, 3), dtype=np.uint8)
    fitter = FrameFitter(FrameFit(image_size=IMAGE))
    np.testing.assert_array_equal(pictures_in("frames", frames, size=IMAGE), np.stack([*map(fitter, frames)]))


def changed(place: tuple[int, ...], value: float, scale: float = 1.0) -> np.ndarray:
    frames = scale * FRAMES / 255
    frames[place] = value
    return frames


REFUSED: list[tuple[Any, str]] = [
    (3.7 * FRAMES / 255, "got float64 of 0 to 3.7, and pictures are 0 to 1 or 0 to 255; give uint8"),
    (2.0 * FRAMES / 255 - 1, "got float64 of -1 to 1, and"),
    (changed((0, 0, 0, 0), np.nan), "got float64 of nan to nan, and"),
    (changed((0, 0, 0, 0), np.inf), "got float64 of 0 to inf, and"),
    (256 * FRAMES.astype(np.int64), "got int64 of 0 to 65280, and"),
    (-FRAMES.astype(np.int64), "got int64 of -255 to 0, and"),
    (FRAMES > 9, "got bool(2, 32, 32, 3), must be pictures"),
    (FRAMES[..., :1], "got uint8(2, 32, 32, 1), must be (2, height, width, 3) with three channels; repeat the grey"),
    (FRAMES[..., 0], "got uint8(2, 32, 32), must be (2, height, width, 3) with three channels; stack red"),
    (FRAMES[0, ..., 0], "got uint8(32, 32), must be pictures"),
    (np.concatenate([FRAMES, FRAMES[..., :1]], -1), "got uint8(2, 32, 32, 4), must be (2, height, width, 3) with"),
    (FRAMES[:, :20], "got pictures of 32x20, and the model takes 32x32; fit them as the data's were"),
    (FRAMES[:1], "got uint8(1, 32, 32, 3), must be pictures of 2 environments; stack one picture each, or"),
    (FRAMES[0], "got uint8(1, 32, 32, 3), must be pictures of 2 environments"),
    ([FRAMES[0], FRAMES[1, :9]], "got 2 parts of different shapes; give pictures of one size"),
    (FRAMES[:0], "got uint8(0, 32, 32, 3), must be pictures"),
    (None, "got NoneType, must be pictures (height, width, 3); give uint8 arrays of 0 to 255"),
    ("frame:0:3", "got str, must be pictures"),
    ([], "got 0 parts"),
]


@pytest.mark.parametrize(("frames", "told"), REFUSED, ids=range(len(REFUSED)))
def test_refuses_in_one_line_with_a_remedy(frames: Any, told: str, model: WorldModel) -> None:
    with pytest.raises(ValueError, match=r"^frames: ") as error:
        pictures_in("frames", frames, size=IMAGE, batch=B)
    message = str(error.value)
    assert message.startswith(f"frames: {told}")
    assert len(message) <= 300
    assert "\n" not in message
    assert ";" in message  # and a remedy


def test_what_is_ready_is_not_copied() -> None:
    ready = torch.from_numpy(FRAMES)
    assert encoder_input(ready, size=IMAGE, device=torch.device("cpu")) is ready


@torch.no_grad()
def test_encode_takes_every_form(model: WorldModel) -> None:
    expected = model.encode(torch.from_numpy(FRAMES))
    for form in ("as it is", "float32 of 0 to 1", "float tensor, channels first", "list", "twice as large"):
        assert torch.equal(model.encode(FORMS[form](FRAMES)), expected), form
    assert torch.equal(model.encode(FRAMES[0]), model.encode(FRAMES[:1]))
    readonly = FRAMES.copy()
    readonly.setflags(write=False)
    assert torch.equal(model.encode(readonly), expected)
    with pytest.raises(ValueError, match=r"^frames: got float32 of -?\d"):
        model.encode(torch.randn(B, IMAGE, IMAGE, 3))


def test_controller_takes_every_form(model: WorldModel) -> None:
    config = tiny(plan__candidates=8, plan__elites=2, plan__iterations=1)
    space = action_space(config, device="cpu")

    def actions(goal: Any, frames: Any, batch: int) -> np.ndarray:
        drive = LatentController(model, config, space, batch=batch, generator=torch.Generator().manual_seed(0))
        drive.reset(goal)
        return drive.act(frames)

    expected = actions(255 - FRAMES, FRAMES, B)
    for form in ("float32 of 0 to 1", "channels first", "list of tensors"):
        np.testing.assert_array_equal(actions(FORMS[form](255 - FRAMES), FORMS[form](FRAMES), B), expected)
    alone = actions(255 - FRAMES[:1], FRAMES[:1], 1)
    assert alone.shape == (1, 1, 2)  # the batch axis stays
    np.testing.assert_array_equal(actions(255 - FRAMES[0], FRAMES[0], 1), alone)
    for goal, frames, name in ((FRAMES[0], FRAMES, "goal"), (FRAMES, FRAMES[0], "frames"), (FRAMES, None, "frames")):
        with pytest.raises(ValueError, match=f"^{name}: got "):
            actions(goal, frames, B)
