"""A pretrained encoder in an ONNX file: frames in, tokens out. A file is known by its SHA-256."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.families.frozen.settings import FrozenSettings

_BLOCK = 2**20


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class OnnxEncoder(nn.Module):
    """Represent frames by an ONNX model, which has no weights here and is never trained.

    Args:
        settings: The file, how frames are brought to it, and which of its output is taken.

    Raises:
        ValueError: The file is missing, is no ONNX model of one picture input, or is another than the settings name.
    """

    def __init__(self, settings: FrozenSettings) -> None:
        super().__init__()
        self._settings = settings
        path = Path(settings.encoder_file)
        where = f"model.encoder_file={settings.encoder_file}"
        if not settings.encoder_file or not path.is_file():
            raise ValueError(f"{where}: no such file; give the ONNX file of an encoder, --model.encoder-file FILE")
        digest = sha256(path)
        if settings.encoder_sha256 not in ("", digest):
            raise ValueError(
                f"{where}: its SHA-256 is {digest[:12]}..., and this run was trained with "
                f"{settings.encoder_sha256[:12]}...; give that file"
            )
        self.digest = digest
        self._session: Any = _open(path, where)
        inputs, outputs = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if len(inputs) != 1:
            raise ValueError(f"{where}: has {len(inputs)} inputs; give an encoder of one picture input")
        if settings.encoder_output and settings.encoder_output not in outputs:
            raise ValueError(
                f"model.encoder_output={settings.encoder_output}: is no output of it; use one of {', '.join(outputs)}"
            )
        self._input, self._output = inputs[0].name, settings.encoder_output or outputs[0]
        self._one_by_one = inputs[0].shape[0] == 1  # exported for one picture at a time

    @torch.no_grad()
    def forward(self, frame: Tensor) -> Tensor:
        """Encode frames (B, height, width, 3) uint8 as tokens (B, N, D) float32 on the same device."""
        s, device = self._settings, frame.device
        planes = frame.cpu().permute(0, 3, 1, 2).float() / 255
        size = (s.encoder_size, s.encoder_size)
        planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(value)[:, None, None] for value in (s.encoder_mean, s.encoder_std))
        planes = (planes - mean) / std
        batches = planes.split(1) if self._one_by_one else (planes,)
        return torch.cat([self._tokens(batch) for batch in batches]).to(device)

    def _tokens(self, planes: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of planes (B, 3, size, size)."""
        try:
            (output,) = self._session.run([self._output], {self._input: planes.numpy()})
        except Exception as error:  # of the runtime, which has many kinds and no common one
            raise ValueError(
                f"model.encoder_file={self._settings.encoder_file}: takes no pictures of "
                f"{self._settings.encoder_size} px ({str(error).splitlines()[0]}); set --model.encoder-size"
            ) from None
        tokens = torch.from_numpy(output).float()
        if tokens.ndim == 4:  # (B, D, rows, columns)
            return self._pooled(tokens)
        if tokens.ndim == 2:  # (B, D)
            return tokens[:, None]
        tokens = tokens[:, self._settings.skip_tokens :]
        side = round(tokens.shape[1] ** 0.5)
        if self._settings.pool and side**2 == tokens.shape[1]:
            return self._pooled(tokens.transpose(1, 2).unflatten(2, (side, side)))
        return tokens

    def _pooled(self, grid: Tensor) -> Tensor:
        pool = self._settings.pool
        grid = F.adaptive_avg_pool2d(grid, pool) if pool and pool < grid.shape[-1] else grid
        return grid.flatten(2).transpose(1, 2)


def _open(path: Path, where: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"{where}: needs onnxruntime; install it with the extra `onnx`") from None
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # of the runtime, which has many kinds and no common one
        raise ValueError(f"{where}: is no ONNX model ({str(error).splitlines()[0]}); give another file") from None
