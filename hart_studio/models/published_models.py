"""Catalog of published instruct models of the supported families, from 2B parameters. No torch.

The sizes are those of the models' ``config.json``; a test builds each model from them and counts its weights.
A license is stated only where it is known for sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hart_studio.models.memory import Architecture

_OTHER_FILES_BYTES: Final = 12_000_000
"""Tokenizer and settings, roughly."""


@dataclass(frozen=True)
class PublishedModel:
    """One row of the catalog.

    Attributes:
        name: Short name for commands, in lower case.
        hub_id: Id on the Hub.
        license: License identifier; empty = not known for sure, see the card.
        architecture: Sizes.
    """

    name: str
    hub_id: str
    license: str
    architecture: Architecture

    @property
    def download_bytes(self) -> int:
        """Size of the files to download, computed from the bfloat16 weights; the Hub states the exact size."""
        return 2 * self.architecture.parameters + _OTHER_FILES_BYTES


def _row(hub_id: str, license_id: str, family: str, *sizes: int) -> PublishedModel:
    parameters, layers, heads, kv_heads, hidden, intermediate, vision, vision_intermediate = sizes
    architecture = Architecture(
        family, parameters, layers, heads, kv_heads, 128, hidden, intermediate, vision, vision_intermediate
    )
    name = hub_id.split("/")[1].removesuffix("-Instruct").removesuffix("-hf").lower()
    return PublishedModel(name, hub_id, license_id, architecture)


# Parameters; layers, heads, key-value heads, width and MLP width of the language model; the same widths of the vision
# tower. All heads have 128 values.
PUBLISHED_MODELS: Final = (
    _row("Qwen/Qwen2.5-VL-3B-Instruct", "qwen-research", "qwen2_5_vl",
         3_754_622_976, 36, 16, 2, 2048, 11008, 1280, 3420),
    _row("Qwen/Qwen2.5-VL-7B-Instruct", "apache-2.0", "qwen2_5_vl",
         8_292_166_656, 28, 28, 4, 3584, 18944, 1280, 3420),
    _row("Qwen/Qwen2.5-VL-32B-Instruct", "apache-2.0", "qwen2_5_vl",
         33_452_718_336, 64, 40, 8, 5120, 27648, 1280, 3456),
    _row("Qwen/Qwen2.5-VL-72B-Instruct", "qwen", "qwen2_5_vl",
         73_410_777_344, 80, 64, 8, 8192, 29568, 1280, 3456),
    _row("Qwen/Qwen3-VL-2B-Instruct", "apache-2.0", "qwen3_vl",
         2_127_532_032, 28, 16, 8, 2048, 6144, 1024, 4096),
    _row("Qwen/Qwen3-VL-4B-Instruct", "apache-2.0", "qwen3_vl",
         4_437_815_808, 36, 32, 8, 2560, 9728, 1024, 4096),
    _row("Qwen/Qwen3-VL-8B-Instruct", "apache-2.0", "qwen3_vl",
         8_767_123_696, 36, 32, 8, 4096, 12288, 1152, 4304),
    _row("Qwen/Qwen3-VL-32B-Instruct", "apache-2.0", "qwen3_vl",
         33_357_390_064, 64, 64, 8, 5120, 25600, 1152, 4304),
    _row("Qwen/Qwen2-VL-2B-Instruct", "apache-2.0", "qwen2_vl",
         2_208_985_600, 28, 12, 2, 1536, 8960, 1280, 5120),
    _row("Qwen/Qwen2-VL-7B-Instruct", "apache-2.0", "qwen2_vl",
         8_291_375_616, 28, 28, 4, 3584, 18944, 1280, 5120),
    _row("Qwen/Qwen2-VL-72B-Instruct", "tongyi-qianwen", "qwen2_vl",
         73_405_560_320, 80, 64, 8, 8192, 29568, 1280, 5120),
    _row("OpenGVLab/InternVL3-2B-hf", "", "internvl",
         2_088_957_440, 28, 12, 2, 1536, 8960, 1024, 4096),
    _row("OpenGVLab/InternVL3-8B-hf", "", "internvl",
         7_944_373_760, 28, 28, 4, 3584, 18944, 1024, 4096),
    _row("OpenGVLab/InternVL3-14B-hf", "", "internvl",
         15_117_256_704, 48, 40, 8, 5120, 13824, 1024, 4096),
    _row("OpenGVLab/InternVL3-38B-hf", "", "internvl",
         38_388_164_992, 64, 40, 8, 5120, 27648, 3200, 12800),
    _row("OpenGVLab/InternVL3-78B-hf", "", "internvl",
         78_408_318_336, 80, 64, 8, 8192, 29568, 3200, 12800),
    _row("llava-hf/llava-onevision-qwen2-7b-ov-hf", "apache-2.0", "llava_onevision",
         8_030_348_832, 28, 28, 4, 3584, 18944, 1152, 4304),
)  # fmt: skip
"""The catalog."""


def find_published(name: str) -> PublishedModel | None:
    """Find a row by its short name or Hub id, in any case."""
    return next((row for row in PUBLISHED_MODELS if name.lower() in {row.name, row.hub_id.lower()}), None)
