"""Loading errors: each message says what failed, why, and what to do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaModel, dynamic_module_utils

from hart_studio.errors import ModelError
from hart_studio.models import loading
from hart_studio.models.families import FAMILIES
from hart_studio.models.loading import get_family, load_model, unwrap_model

# peft asks transformers in a way that transformers is about to retire.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def broken(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A private copy of a tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_folder("qwen3_vl"), tmp_path / "model"))


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./missing", "tiny", "", "~no-such-user/model", "a\0b", "x" * 5000]
)
def test_a_name_that_is_nothing(name: str) -> None:
    with pytest.raises(ModelError, match=r"not found: there is no such folder. Give a folder or a Hub id such as"):
        load_model(name)


@pytest.mark.parametrize(
    "name",
    [
        "https://hub.example/owner/model", "http://127.0.0.1:9/x", " https://hub.example/x", "file:///srv/model",
        "git+ssh://git@hub.example/x.git", "hf://owner/model", "\\\\host\\share", "//host/share",
        "https://" + "x" * 5000,
    ],
    ids=lambda name: name[:20],
)  # fmt: skip
def test_an_address_is_refused_before_any_access(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def never(*_: object, **__: object) -> str:
        raise AssertionError("it was accessed")

    for use in ("snapshot_download", "_local_folder"):
        monkeypatch.setattr(loading, use, never)
    words = r"Cannot load a model from the URL .*Give a Hub id such as .*, or download the model"
    with pytest.raises(ModelError, match=words) as refused:
        load_model(name)
    assert len(str(refused.value)) < 600


def test_an_address_stays_one_where_a_folder_is_called_so(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_folder("qwen3_vl"), tmp_path / "https:" / "host" / "x")
    shutil.copytree(tiny_folder("qwen3_vl"), tmp_path / "step:3")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="Cannot load a model from the URL 'https://host/x'"):
        load_model("https://host/x")
    assert load_model("step:3").family.key == "qwen3_vl", "a colon alone makes no address"


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"contains no config.json and no adapter_config.json.*save_pretrained"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config.json is not valid JSON"),
        ("[1]", r"must contain a JSON object, got list"),
        ("\ufffe", r"is not valid JSON"),
        ("{}", r"model_type None. Use one of Qwen2.5-VL"),
        ('{"model_type": "qwen3_vl", "text_config": 3}', r"config.json of .* is invalid: .*'text_config'"),
        (
            '{"model_type": "llama"}',
            r"unsupported model_type 'llama'. Use one of .*Qwen3-VL \(Qwen/Qwen3-VL-8B-Instruct\)",
        ),
        ('{"model_type": "internvl_chat"}', r"needs remote code.*suffix -hf, such as OpenGVLab/InternVL3-8B-hf"),
    ],
)
def test_a_config_that_is_not_supported(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path))


def test_pickled_weights_are_never_loaded(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04never read")
    with pytest.raises(ModelError, match=r"contains no model\*.safetensors, found pytorch_model.bin"):
        load_model(str(broken))


def test_no_weights(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="found no weights"):
        load_model(str(broken))


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"do not match config\.json"):
        load_model(str(broken))


def test_missing_weights_are_not_filled_with_noise(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"1 weights are missing in .*, such as model.language_model.layers.1.mlp.up_proj"
    ):
        load_model(str(broken))


def test_weights_of_another_shape(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 40
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"do not match config\.json"):
        load_model(str(broken))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("processor_config.json", None),
        ("processor_config.json", "{"),
        ("tokenizer.json", None),
        ("tokenizer.json", "{}"),
    ],
)
def test_a_damaged_processor(broken: Path, file: str, content: str | None) -> None:
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_text(content)
    words = (
        "processor_config.json is not valid JSON"
        if content == "{" and file != "tokenizer.json"
        else ("Cannot load the processor .*Save the processor in the folder of the model")
    )
    with pytest.raises(ModelError, match=words):
        load_model(str(broken))


def test_a_processor_of_another_model(broken: Path, tiny_folder: Callable[[str], Path]) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder("qwen2_vl") / file, broken / file)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "image_token_id": 7}))
    with pytest.raises(ModelError, match=r"is 7, of its processor .*belong to different models"):
        load_model(str(broken))


def test_a_processor_without_chat_template(broken: Path) -> None:
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no image processor or no chat template"):
        load_model(str(broken))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA, so asking for it is no error")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_on_a_machine_without_it(broken: Path, device: str) -> None:
    with pytest.raises(ModelError, match=r"machine has 0 CUDA devices\. Use device='cpu'"):
        load_model(str(broken), device=device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:0", "CUDA", ""])
def test_an_unknown_device(broken: Path, device: str) -> None:
    with pytest.raises(ModelError, match="use auto, cpu, cuda, cuda:N or mps"):
        load_model(str(broken), device=device)


def test_an_unknown_dtype(broken: Path) -> None:
    with pytest.raises(ModelError, match="Invalid dtype 'int3': use auto, float32, bfloat16, float16"):
        load_model(str(broken), dtype="int3")


RESPONSE = httpx.Response(401, request=httpx.Request("GET", "https://hub.example/api"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("gated", response=RESPONSE), r"Accept its terms on its Hub page"),
        (RepositoryNotFoundError("404", response=RESPONSE), r"Model 'owner/model' not found.*Check the spelling"),
        (LocalEntryNotFoundError("offline"), r"local folder nor in the local cache, and the Hub cannot be reached"),
        (HfHubHTTPError("502", response=RESPONSE), r"the Hub cannot be reached"),
        (ConnectionError("refused"), r"the Hub cannot be reached. Connect to the network once"),
    ],
)
def test_hub_failures(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(loading, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message):
        load_model("owner/model")


def test_downloads_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="local cache, and downloads are disabled"):
        load_model("owner/model-that-no-one-has", allow_download=False)


def test_a_hub_model_is_checked_before_its_weights_are_fetched(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fetch(_: str, allow_patterns: list[str], **__: object) -> str:
        asked.append(allow_patterns)
        return str(tiny_folder("qwen2_vl"))

    monkeypatch.setattr(loading, "snapshot_download", fetch)
    model = load_model("owner/model")
    assert (model.name, model.family.key) == ("owner/model", "qwen2_vl")
    assert asked == [loading.CONFIG_FILE_PATTERNS, loading.CONFIG_FILE_PATTERNS + loading.WEIGHT_FILE_PATTERNS]
    assert not any(pattern.endswith((".py", ".bin", "*")) for patterns in asked for pattern in patterns)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_never_run(broken: Path, file: str) -> None:
    marker = broken / "ran"
    (broken / "evil.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\nclass Evil: ...\n")
    classes = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
    _change(broken / file, auto_map=dict.fromkeys(classes, "evil.Evil"))
    with pytest.raises(ModelError, match=rf"{file} of .* something else to open: auto_map .*remote code is never run"):
        load_model(str(broken))
    assert not marker.exists()


def test_no_one_is_asked_about_remote_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers asks on the terminal where an inner call does not say whether remote code may run."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        dynamic_module_utils.resolve_trust_remote_code(None, str(tmp_path), has_local_code=False, has_remote_code=True)


@pytest.fixture
def outside(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """Another whole model, whose weights are a pickle, too."""
    folder = Path(shutil.copytree(tiny_folder("qwen2_vl"), tmp_path / "outside"))
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def opened() -> Iterator[Callable[[Path], set[str]]]:
    """``opened(folder)``: the files of a folder that were opened since the test began."""
    paths: list[str] = []
    is_over = False

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and not is_over:
            paths.append(str(arguments[0]))

    sys.addaudithook(note)  # it can never be taken away again
    yield lambda folder: {path for path in paths if path.startswith(f"{folder}/")}
    is_over = True


def _change(path: Path, **entries: object) -> None:
    """Add entries to a JSON file, which may be missing."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **entries}))


@pytest.mark.parametrize("in_own_file", [False, True])
@pytest.mark.parametrize("kind", ["AutoModelForImageTextToText", "AutoTokenizer", "RagTokenizer"])
def test_an_audio_tokenizer_is_never_opened(
    broken: Path, outside: Path, opened: Callable[[Path], set[str]], kind: str, in_own_file: bool
) -> None:
    second = {"audio_tokenizer_class": kind, "audio_tokenizer_name_or_path": str(outside)}
    if in_own_file:
        _change(broken / "audio_tokenizer_config.json", **second)
    else:
        _change(broken / "processor_config.json", audio_tokenizer=second)
    with pytest.raises(ModelError, match=r"audio_tokenizer.*[Rr]emove the (entry|file) if you trust the rest"):
        load_model(str(broken))
    assert not opened(outside)


def test_the_processor_beside_an_adapter_and_its_base_are_checked_too(
    adapter: Path, broken: Path, outside: Path, opened: Callable[[Path], set[str]]
) -> None:
    second = {"audio_tokenizer_class": "AutoTokenizer", "audio_tokenizer_name_or_path": str(outside)}
    _change(adapter / "processor_config.json", processor_class="Qwen3VLProcessor", audio_tokenizer=second)
    with pytest.raises(ModelError, match="names something else to open: audio_tokenizer"):
        load_model(str(adapter))
    (adapter / "processor_config.json").unlink()
    _change(adapter / "adapter_config.json", base_model_name_or_path=str(broken))
    _change(broken / "processor_config.json", audio_tokenizer=second)
    with pytest.raises(ModelError, match="names something else to open: audio_tokenizer"):
        load_model(str(adapter))
    assert not opened(outside)


def test_where_a_model_was_saved_first_is_not_opened(
    broken: Path, outside: Path, opened: Callable[[Path], set[str]]
) -> None:
    """Published checkpoints have these entries, so they load; merging an adapter reads the first one."""
    config = json.loads((broken / "config.json").read_text())
    parts = {part: {**config[part], "_name_or_path": str(outside)} for part in ("text_config", "vision_config")}
    _change(broken / "config.json", _name_or_path=str(outside), **parts)
    _change(broken / "tokenizer_config.json", name_or_path=str(outside), special_tokens_map_file=str(outside / "a"))
    assert load_model(str(broken)).model.config._name_or_path == str(broken)
    assert not opened(outside)


def test_a_hub_model_that_changes_while_it_is_fetched_is_checked_again(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_: str, allow_patterns: list[str], **__: object) -> str:
        if loading.WEIGHT_FILE_PATTERNS[0] in allow_patterns:
            _change(broken / "config.json", transformers_weights="adapter_model.bin")
        return str(broken)

    monkeypatch.setattr(loading, "snapshot_download", fetch)
    with pytest.raises(ModelError, match=r"config\.json of owner/model names something else to open"):
        load_model("owner/model")


def test_shards_are_never_pickles(broken: Path, outside: Path, opened: Callable[[Path], set[str]]) -> None:
    names = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").rename(broken / "model-1.safetensors")
    shards = dict.fromkeys(names, str(outside / "pytorch_model.bin"))
    _change(broken / "model.safetensors.index.json", metadata={}, weight_map=shards)
    with pytest.raises(ModelError, match=r"must name \.safetensors files in the same folder"):
        load_model(str(broken))
    assert not opened(outside)


def test_bfloat16_weights_are_upcast_on_the_cpu(broken: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in load_file(broken / "model.safetensors").items()}
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(broken), device="cpu").model.dtype == torch.float32
    assert load_model(str(broken), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_loaded_model_is_ready_to_answer(tiny_folder: Callable[[str], Path]) -> None:
    model = load_model(str(tiny_folder("internvl")))
    assert not model.model.training
    assert model.processor.tokenizer.padding_side == "left"
    assert model.model.config._attn_implementation == "sdpa"


@pytest.fixture
def adapter(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A LoRA adapter with non-zero weights on the tiny Qwen3-VL."""
    base = AutoModelForImageTextToText.from_pretrained(tiny_folder("qwen3_vl"))
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q|v)_proj", init_lora_weights=False)
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_into_its_base(adapter: Path, tiny_folder: Callable[[str], Path]) -> None:
    merged = load_model(str(adapter)).model.state_dict()
    base = load_model(str(tiny_folder("qwen3_vl"))).model.state_dict()
    assert merged.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    layers = ("layers.0.self_attn", "layers.1.self_attn")
    assert changed == {f"model.language_model.{layer}.{part}_proj.weight" for layer in layers for part in "qv"}
    lora = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    # Delta W = (alpha / r) B A, with peft's default alpha 8 and r 4.
    expected = 2 * lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
    weight = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(merged[weight] - base[weight], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, r"is not a LoRA adapter .*'PROMPT_TUNING'"),
        ({"base_model_name_or_path": None}, r"is not a LoRA adapter with a base model"),
        ({"base_model_name_or_path": "/moved/away"}, r"Model '/moved/away' not found: there is no such folder"),
        (
            {"base_model_name_or_path": "http://127.0.0.1:9/x"},
            r"Cannot load a model from the URL 'http://127.0.0.1:9/x'",
        ),
    ],
)
def test_an_adapter_without_its_base(adapter: Path, change: dict[str, str | None], message: str) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=message):
        load_model(str(adapter))


@pytest.mark.parametrize("decoy", [None, "adapter_model_x.safetensors", "adapter_model.safetensors"])
def test_an_adapter_with_pickled_weights(
    adapter: Path, decoy: str | None, opened: Callable[[Path], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    weights = adapter / "adapter_model.safetensors"
    (adapter / "adapter_model.bin").hardlink_to(weights)
    weights.rename(adapter / (decoy or "other"))
    with pytest.raises(
        ModelError, match=r"must contain adapter_model.safetensors and no pickled weights, .*adapter_model.b"
    ):
        load_model(str(adapter))
    assert not {path for path in opened(adapter) if path.endswith(".bin")}


def test_an_adapter_on_an_adapter(adapter: Path, tiny_folder: Callable[[str], Path]) -> None:
    shutil.copytree(tiny_folder("qwen3_vl"), adapter, dirs_exist_ok=True)
    _change(adapter / "adapter_config.json", base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="is itself an adapter"):
        load_model(str(adapter))


def test_the_model_inside_its_wrappers(adapter: Path, tiny_folder: Callable[[str], Path]) -> None:
    base = AutoModelForImageTextToText.from_pretrained(tiny_folder("qwen3_vl"))
    assert unwrap_model(base) is base
    adapted = PeftModel.from_pretrained(base, adapter)
    assert unwrap_model(adapted) is base
    assert unwrap_model(torch.nn.DataParallel(adapted)) is base
    assert unwrap_model(torch.compile(adapted)) is base
    assert get_family(base) is FAMILIES["qwen3_vl"]


def test_what_is_no_model_of_the_project() -> None:
    with pytest.raises(ModelError, match="expected a transformers model or a wrapper of one, got Linear around Linear"):
        unwrap_model(torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="got DataParallel around Linear"):
        unwrap_model(torch.nn.DataParallel(torch.nn.Linear(1, 1)))
    with pytest.raises(ModelError, match=r"LlamaModel has the unsupported model_type 'llama'\. Use one of Qwen2\.5"):
        tiny = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
        get_family(LlamaModel(tiny))
