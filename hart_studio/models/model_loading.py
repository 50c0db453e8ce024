"""Load a model in this process, or connect to a served model."""

from __future__ import annotations

from hart_studio.errors import ModelError
from hart_studio.models.chat import ChatModel
from hart_studio.models.served_settings import ServedSettings


def load_chat_model(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    served: ServedSettings | None = None,
    quantization: str = "none",
) -> ChatModel:
    """Load a model, or connect to a served model.

    Args:
        name: A local folder or a Hub id; ignored if the model is served.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ignored if the model is served.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``; ignored if the model is served.
        served: Settings of the served model; None = run in this process.
        quantization: ``none``, ``4bit`` or ``8bit``; must be ``none`` if the model is served.

    Raises:
        ModelError: If it cannot be loaded or reached.
    """
    if served is not None:
        if quantization != "none":
            raise ModelError("A served model cannot be quantized from here. Quantize it in its server.")
        from hart_studio.models.served import ServedChatModel  # noqa: PLC0415 - takes seconds; bad input fails before

        return ServedChatModel(served)
    from hart_studio.models.loading import load_model  # noqa: PLC0415 - as above

    return load_model(name, device=device, dtype=dtype, quantization=quantization)
