"""Settings of a training run; the only place that defines their defaults.

Each field has a description and bounds, so forms are generated from the models. Text in files,
command lines and forms is parsed in ``runs.overrides``. Values that the paper does not state are project defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from hart_studio.algorithms.credit import RewardScaling
from hart_studio.algorithms.methods import DEFAULT_STAGES, KlEstimator, StageSequence
from hart_studio.algorithms.weighting import LossAggregation
from hart_studio.errors import InputError
from hart_studio.records import Record
from hart_studio.runs.layout import read_name
from hart_studio.runs.redaction import has_secret

Switch = Literal["auto", "on", "off"]
SampleColumn = Literal["id", "image", "question", "choices", "answer", "category", "gold_boxes"]
MAX_COUNT: Final = 1_000_000_000
"""Maximum number of samples, and of steps between two records. Not from the paper."""

LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA_TARGETS: Final[tuple[LoraTarget, ...]] = get_args(LoraTarget)
"""All linear layers of a language model, in order."""

Pixels = Annotated[int, Field(ge=28 * 28, le=100_000_000)]


class Section(Record):
    """Group of settings: frozen, unknown keys are errors, the docstring of a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_misread_values(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError("expected a number or text, got true or false")
        if isinstance(value, str) and has_secret(value):
            raise ValueError(
                "the value has the form of an access token; settings are saved to disk, "
                "so set it as an environment variable, such as HF_TOKEN"
            )
        return value


class ModelConfig(Section):
    """The model and its trainable part."""

    id: str = Field(default="", max_length=500)
    """Model folder or Hub id, such as owner/model. Empty = built-in, the base model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision (dtype) of the computation; trained weights are kept in float32. auto = bfloat16 on CUDA, otherwise
    float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device of the model. auto = CUDA if available, then MPS."""
    quantization: Literal["none", "4bit", "8bit"] = "none"
    """Load the language model, which stays frozen, with 4-bit (NF4) or 8-bit weights, and train LoRA adapters on it
    (QLoRA). Needs bitsandbytes. The paper does not quantize."""
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation. auto = default of transformers."""
    lora: Switch = "auto"
    """Train LoRA adapters instead of all weights. auto = for models with at least a billion weights. The
    paper uses LoRA for its 7B model (Table 8)."""
    lora_r: int = Field(default=16, ge=1, le=1024)
    """LoRA rank. Not from the paper."""
    lora_alpha: float = Field(default=32.0, gt=0, le=4096)
    """LoRA alpha: scale before division by the rank. Not from the paper."""
    lora_target_modules: tuple[LoraTarget, ...] = LORA_TARGETS
    """Linear layers of the language model that get adapters, as PEFT's target_modules. If the vision tower is not
    frozen, all linear layers of the whole model get them, and a selection is refused. Not from the paper."""
    freeze_vision_tower: bool = True
    """Train the language model only, by adapters or in full. Off = also the vision tower and its
    projector. Not from the paper."""
    gradient_checkpointing: Switch = "auto"
    """Recompute activations to save memory. auto = for models with at least a billion weights. Not from the paper."""

    @model_validator(mode="after")
    def _check_lora_targets(self) -> Self:
        if not self.lora_target_modules or len(set(self.lora_target_modules)) != len(self.lora_target_modules):
            raise ValueError(
                "expected lora_target_modules with each layer once, got "
                f"{', '.join(self.lora_target_modules) or 'none'}"
            )
        if not self.freeze_vision_tower and self.lora_target_modules != LORA_TARGETS:
            raise ValueError("lora_target_modules names layers of the language model only; set freeze_vision_tower")
        return self

    @model_validator(mode="after")
    def _check_quantization(self) -> Self:
        if self.quantization != "none" and self.lora == "off":
            raise ValueError(
                f"expected adapters with quantization={self.quantization}, because quantized weights cannot be "
                "trained, got lora=off; use lora=on, or quantization=none"
            )
        if self.quantization != "none" and not self.freeze_vision_tower:
            raise ValueError(f"expected freeze_vision_tower=true with quantization={self.quantization}; got false")
        if self.quantization != "none" and self.device == "mps":
            raise ValueError(f"quantization={self.quantization} needs CUDA or the CPU, got device=mps")
        return self

    @model_validator(mode="after")
    def _check_attn_implementation(self) -> Self:
        if self.attn_implementation == "flash_attention_2" and (self.dtype == "float32" or self.device == "cpu"):
            raise ValueError(
                "expected CUDA and bfloat16 for attn_implementation=flash_attention_2, "
                f"got device={self.device} and dtype={self.dtype}; use sdpa"
            )
        return self


class DataConfig(Section):
    """The samples, and their number in each stage (paper, Sec. 4.3)."""

    source: Literal["needle", "jsonl", "mme_realworld", "zwz_rl_vqa", "hf"] = "needle"
    """needle = synthetic scenes; jsonl = a file of samples; mme_realworld = the published folder of MME-RealWorld;
    zwz_rl_vqa = the published folder of ZwZ-RL-VQA; hf = a Hugging Face dataset, on the Hub or saved to disk."""
    path: str = Field(default="", max_length=1000)
    """File, folder or Hub id of the samples. Empty for needle only: scenes are then generated for the run."""
    rl_samples: int = Field(default=480, ge=0, le=MAX_COUNT)
    """Samples of the RL stage (paper: 10,000 of MME-RealWorld)."""
    sft_samples: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """Samples of the SFT stage, disjoint from the RL stage. Empty (None) = all remaining samples."""
    eval_samples: int = Field(default=200, ge=0, le=MAX_COUNT)
    """Held-out samples for evaluation. Not from the paper."""
    split_by_image: bool = False
    """Keep all questions about an image in one split. Otherwise splits are disjoint by question only. Not from
    the paper."""
    image_root: str = Field(default="", max_length=1000)
    """Base folder of image paths. Empty = folder of the sample file."""
    columns: dict[SampleColumn, str] = Field(default_factory=dict)
    """For hf: field of a sample -> column name, if they differ."""
    needle_samples: int = Field(default=1000, ge=1, le=1_000_000)
    """Number of questions, if scenes are generated for the run."""
    needle_seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed of the scenes."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.source != "needle" and not self.path:
            raise ValueError(f"source={self.source} needs a path; set data.path")
        if self.columns and self.source != "hf":
            raise ValueError(f"columns can be set for source=hf only, got source={self.source}; remove them")
        wanted = self.rl_samples + (self.sft_samples or 0) + self.eval_samples
        if self.source == "needle" and not self.path and wanted > self.needle_samples:
            raise ValueError(
                f"expected needle_samples of at least rl_samples + sft_samples + eval_samples = {wanted}, "
                f"got {self.needle_samples}; raise it or lower a part"
            )
        return self


class RolloutConfig(Section):
    """Grounding, cropping and answering during training."""

    group_size: int = Field(default=8, ge=2, le=256)
    """Rollouts per question, G in Eq. 1; advantages are relative to this group."""
    temperature: float = Field(default=1.0, gt=0, le=5)
    """Sampling temperature of both turns. Not from the paper."""
    max_grounding_tokens: int = Field(default=256, ge=1, le=32_768)
    """Token limit of the grounding turn. Not from the paper."""
    max_answer_tokens: int = Field(default=256, ge=1, le=32_768)
    """Token limit of the answer turn. Not from the paper."""
    overview_max_pixels: Pixels | None = None
    """Maximum area of the overview in pixels. Empty (None) = the model's default. Not from the paper."""
    crop_max_pixels: Pixels | None = None
    """Maximum area of one crop in the model input, pixels. Empty (None) = the model's default. Not from the paper."""
    padding: float = Field(default=0.0, ge=0, le=1)
    """Margin on each side of a box, as a share of its width or height. Not from the paper."""
    max_boxes: int = Field(default=4, ge=1, le=64)
    """Maximum number of crops per rollout, in output order. Not from the paper."""
    max_resampling_rounds: int = Field(default=0, ge=0, le=16)
    """Dynamic sampling: replace questions whose rollouts all have the same reward by other questions, in up to this
    many rounds per step. 0 = off. Not from the paper (DAPO)."""
    prefix_sharing: bool = True
    """Compute the shared prompt of a group once. The result is the same; off is slower."""


class MethodConfig(Section):
    """Stages and their objective (docs/concept.md, AP-GRPO)."""

    stages: StageSequence = DEFAULT_STAGES
    """Stages in order, joined by +. The paper's recipe is ap_grpo+sft (AP-GRPO, then SFT)."""
    preference_scale: float = Field(default=0.6, ge=0, lt=1)
    """k of Eq. 5 and 6 for AP-GRPO. 0 = no weighting (plain GRPO loss on crops); below 1, so that all weights stay
    positive."""
    beta: float = Field(default=0.04, ge=0, le=10)
    """Weight of the KL term in Eq. 2 and 4. Not from the paper."""
    clip_epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clip range of the probability ratio. Has an effect if schedule.num_iterations is above 1. Not from the paper."""
    clip_epsilon_high: Annotated[float, Field(gt=0, le=10)] | None = None
    """Upper clip range, if it differs (clip-higher). Empty (None) = clip_epsilon. Not from the paper (DAPO)."""
    kl_estimator: KlEstimator = "k3"
    """Estimator of the KL term: k3 = never negative, as in GRPO; k2 = half the squared log-ratio; k1 = the log-ratio,
    whose expected gradient is zero. Not from the paper."""
    scale_rewards: RewardScaling = "group"
    """group = divide advantages by the standard deviation of the group's rewards (Eq. 1); none = do not (Dr. GRPO)."""
    trained_turns: Literal["both", "grounding", "answer"] = "both"
    """Turns whose tokens carry the loss. Not from the paper."""
    loss_aggregation: LossAggregation = "turn"
    """turn = average each turn first, so both have the same weight; rollout = average over the tokens of both turns;
    step = average over all tokens of a step (DAPO); token_limit = sum over tokens, divided by the token limits of both
    turns (Dr. GRPO); sum = sum over the tokens of both turns, as Eq. 4 is written. Only sum is from the paper."""
    answer_format: Literal["auto", "boxed_letter", "option_text"] = "auto"
    """Format of the SFT answer to multiple-choice questions: boxed_letter = text of the option and its letter in a box
    of LaTeX; option_text = text of the option only, for models that answer with it. auto = option_text for the built-in
    model, otherwise boxed_letter. Not from the paper."""
    sft_target: Literal["answer", "grounded"] = "answer"
    """SFT target: answer = the answer, from the full image (Eq. 8); grounded = two turns,
    the boxes of accepted labels and then the answer from their crops only, for data with label_boxes. Not from
    the paper."""
    format_reward_weight: float = Field(default=0.0, ge=0, le=1)
    """Additional reward for valid boxes. Off in the paper."""
    area_penalty_weight: float = Field(default=0.0, ge=0, le=1)
    """Penalty on the share of the image that the boxes cover. Off in the paper."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages in order: ``("ap_grpo", "sft")``."""
        return tuple(self.stages.split("+"))


class OptimConfig(Section):
    """AdamW and its learning rate. Not from the paper."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Peak learning rate of an RL stage."""
    sft_learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Peak learning rate of an SFT stage."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay."""
    warmup_steps: int = Field(default=0, ge=0, le=100_000)
    """Warm-up steps of each stage, in which the learning rate rises from 0."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """LR schedule after the warm-up."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000)
    """Max grad norm: larger gradients are clipped to this norm."""
    max_nonfinite_steps: int = Field(default=3, ge=0, le=100_000)
    """Consecutive steps with a non-finite loss, gradient norm or weights after which the run fails. The update of such
    a step is skipped, and no checkpoint is saved. 0 = never."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the moment estimates (beta1, beta2)."""


class ScheduleConfig(Section):
    """Steps, batch sizes, and intervals of saving, recording and evaluation. 0 = never. Not from the paper."""

    rl_steps: int = Field(default=60, ge=1, le=1_000_000)
    """Optimizer steps of each RL stage."""
    sft_steps: int = Field(default=60, ge=1, le=1_000_000)
    """Optimizer steps of the SFT stage."""
    num_iterations: int = Field(default=1, ge=1, le=64)
    """Optimizer steps per batch of rollouts. Above 1, later steps use the probability ratio and its clip. rl_steps and
    save_steps must be multiples."""
    rl_batch_size: int = Field(default=8, ge=1, le=65_536)
    """Questions per RL step over all processes; each is rolled out group_size times."""
    rl_micro_batch_size: int = Field(default=1, ge=1, le=65_536)
    """RL micro-batch size of one process, in questions. Smaller needs less memory."""
    sft_batch_size: int = Field(default=16, ge=1, le=65_536)
    """SFT batch size over all processes."""
    sft_micro_batch_size: int = Field(default=2, ge=1, le=65_536)
    """SFT micro-batch size of one process, in samples. Smaller needs less memory."""
    save_steps: int = Field(default=50, ge=0, le=MAX_COUNT)
    """Steps between checkpoints. 0 = never, except at the end of every stage, which is always saved."""
    save_total_limit: int = Field(default=2, ge=1, le=1000)
    """Number of newest checkpoints to keep, in addition to the end of every stage."""
    rollout_log_steps: int = Field(default=5, ge=0, le=MAX_COUNT)
    """Steps between recorded rollouts with images. The first two steps of each RL stage are always recorded.
    0 = no records."""
    rollout_log_questions: int = Field(default=2, ge=1, le=64)
    """Training questions logged per recorded step. Each evaluation logs this many held-out questions, always the same
    ones."""
    rollout_image_mb: int = Field(default=256, ge=0, le=1_000_000)
    """Disk space for images of recorded rollouts, in MB. When it is full, recording continues without images."""
    eval_steps: int = Field(default=20, ge=0, le=MAX_COUNT)
    """Steps between evaluations on the held-out samples. 0 = never."""

    @model_validator(mode="after")
    def _check_batch_sizes(self) -> Self:
        problem = self._find_remainder(processes=1)
        if problem:
            raise ValueError(problem)
        for name in ("rl_steps", "save_steps"):
            if getattr(self, name) % self.num_iterations:
                raise ValueError(
                    f"expected {name} ({getattr(self, name)}) divisible by num_iterations ({self.num_iterations}), so "
                    "that a checkpoint has no unused rollouts"
                )
        return self

    def count_micro_batches(self, stage: str, processes: int = 1) -> int:
        """Micro-batches that each process runs per step of a stage: the steps of gradient accumulation.

        Args:
            stage: A stage of ``MethodConfig.stage_names``.
            processes: Processes that share a step, at least 1.

        Raises:
            InputError: If the step does not divide evenly.
        """
        problem = self._find_remainder(processes)
        if problem:
            raise InputError(problem)
        if stage == "sft":
            return self.sft_batch_size // (self.sft_micro_batch_size * processes)
        return self.rl_batch_size // (self.rl_micro_batch_size * processes)

    def _find_remainder(self, processes: int) -> str:
        for whole, part in (("rl_batch_size", "rl_micro_batch_size"), ("sft_batch_size", "sft_micro_batch_size")):
            portion = getattr(self, part) * processes
            if getattr(self, whole) % portion:
                shared = f" x {processes} processes" if processes > 1 else ""
                return f"{whole} ({getattr(self, whole)}) must be divisible by {part}{shared} ({portion})."
        return ""


class RunConfig(Section):
    """All settings of a training run; the defaults run on a small machine."""

    model: ModelConfig = ModelConfig()
    """The model."""
    data: DataConfig = DataConfig()
    """The samples."""
    rollout: RolloutConfig = RolloutConfig()
    """The closed loop."""
    method: MethodConfig = MethodConfig()
    """The objective."""
    optim: OptimConfig = OptimConfig()
    """The optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Steps, saving and recording."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the split, of sampling and of the order of samples."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Experiment trackers that also receive the metrics."""
    name: str = ""
    """Display name: up to 60 letters, digits, spaces, dots, hyphens and underscores."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return read_name(name)

    @model_validator(mode="after")
    def _check_stages_have_samples(self) -> Self:
        has_rl = any(stage != "sft" for stage in self.method.stage_names)
        if has_rl and self.data.rl_samples == 0:
            raise ValueError(f"expected data.rl_samples above 0 for the stages {self.method.stages}, got 0")
        if "sft" in self.method.stage_names and self.data.sft_samples == 0:
            raise ValueError(f"expected data.sft_samples above 0 or None for the stages {self.method.stages}, got 0")
        if len(set(self.trackers)) != len(self.trackers):
            raise ValueError(f"expected each tracker once, got {', '.join(self.trackers)}")
        return self

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages; steps are counted across stages."""
        return sum(
            self.schedule.sft_steps if stage == "sft" else self.schedule.rl_steps for stage in self.method.stage_names
        )

    @property
    def answer_format(self) -> Literal["boxed_letter", "option_text"]:
        """``method.answer_format`` without ``auto``."""
        if self.method.answer_format == "auto":
            return "boxed_letter" if self.model.id else "option_text"
        return self.method.answer_format

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about valid but probably unintended settings."""
        found = []
        if "ap_grpo" in self.method.stage_names and self.method.beta == 0:
            found.append("method.beta is 0: the KL weights of AP-GRPO (Eq. 6) then have no effect.")
        if "ap_grpo" in self.method.stage_names and self.method.preference_scale == 0:
            found.append(
                "method.preference_scale is 0: AP-GRPO is then plain GRPO on crops (Eq. 5 and 6 give 1 and beta)."
            )
        if self.method.clip_epsilon_high is not None and self.schedule.num_iterations == 1:
            found.append("schedule.num_iterations is 1: every ratio is 1, so method.clip_epsilon_high has no effect.")
        if self.schedule.eval_steps and not self.data.eval_samples:
            found.append("data.eval_samples is 0: nothing is held out, so nothing is evaluated.")
        if not self.model.id and self.data.source != "needle":
            found.append(
                "model.id is empty: the built-in model was trained only on synthetic needle scenes and cannot read "
                "photographs. Choose a model for your own images."
            )
        return tuple(found)
