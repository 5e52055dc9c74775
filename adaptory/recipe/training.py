"""The training part of a recipe: what trains, how long, at which rate, and what it may cost."""

from typing import Any, Literal

from pydantic import Field, JsonValue

from adaptory.frozen import Frozen, Name, Share
from adaptory.recipe.data import Task

Method = Literal["auto", "lora", "rslora", "dora", "pissa", "qlora", "ia3", "prompt_tuning", "full", "freeze", "head"]
ADAPTERS: tuple[Method, ...] = ("lora", "rslora", "dora", "pissa", "qlora", "ia3", "prompt_tuning")
ROW_TASKS: tuple[Task, ...] = ("classification", "pair_classification", "regression")


class Training(Frozen):
    """How a candidate is made from the base: what of it trains, in which order, at which rate."""

    method: Method = "lora"
    """`full` network; `freeze` all but the top blocks (or named layers); `head` only; an adapter on the frozen base; or `auto`:
    several are tried on a third of the rows, and the cheapest of those as good as the best is taken."""
    objective: Literal["dpo", "reward"] = "dpo"
    """What is learned from preferences: to answer like the chosen one (`dpo`), or to score answers (`reward`)."""
    start: Name | None = None
    """Another recipe on the same base whose champion's adapter this one starts from; null: a fresh one."""
    sources: tuple[Name, ...] = ()
    """Learn (and validate) only from rows of these sources; empty: all. The evaluation reads all of them."""
    max_rows: int | None = Field(default=None, ge=1)
    """Learn from at most this many rows, the same ones every time; null: all."""
    rank: int = Field(default=16, ge=1, le=512)
    """Width of the adapters (LoRA and its kin): more learns more and costs little."""
    alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by alpha / rank (rslora: alpha / sqrt(rank))."""
    dropout: Share = 0.0
    """Share of the adapters' inputs dropped while training."""
    peft: dict[str, JsonValue] = Field(default={})
    """Further keys of peft's configuration for this method, passed through; an unknown one is refused."""
    top_layers: int | None = Field(default=None, ge=1)
    """Train or adapt only the top blocks (fewer cost less time); null: all."""
    layers: tuple[str, ...] = ()
    """Method `freeze`: train the parameters whose names contain one of these, instead of the top blocks."""
    epochs: int = Field(default=2, ge=1, le=100)
    """Passes over the training rows; the best by validation is kept."""
    batch_rows: int = Field(default=32, ge=1)
    """Rows per optimizer step, however many devices share them."""
    micro_tokens: int | None = Field(default=None, ge=1)
    """Most tokens at once, padding included: bounds memory, and changes no gradient; null: 1,024 on a CPU, 4,096 on a GPU."""
    packing: bool = True
    """Computes a batch without padding, and what its rows begin with alike once (causal bases; exact, no row sees another);
    false: the same steps, padded."""
    cache_trunk: bool = False
    """Computes the frozen blocks below the trained ones once, keeps what they give, and reuses it over epochs and runs."""
    fused: bool = True
    """Computes in fewer steps and places what transformers and peft compute (the same mathematics, faster): a LoRA layer with its
    base, frozen norms, the head where a label stands; false: as they do."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak rate of AdamW."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt"] = "linear"
    """How the rate falls after the warm-up."""
    warmup: Share = 0.06
    """Share of the steps in which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay of matrices; biases and norms have none."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are shortened to it."""
    class_weights: Literal["balanced"] | None = None
    """`balanced`: every class counts the same in the loss, however rare."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better validation score; null: never."""
    beta: float = Field(default=0.1, gt=0)
    """DPO: how strongly the answers are held to the start's (larger: closer)."""
    masked: Share = 0.15
    """Share of the tokens that are hidden and guessed (task text on an encoder)."""
    max_tokens: int = Field(default=128, ge=8, le=32_768)
    """Texts are cut at this many tokens; a prompt with its response is never cut, but left out when longer."""
    system: str | None = None
    """A system message before every prompt, in training, evaluation and serving."""
    template: str | None = None
    """Jinja chat template; null: the tokenizer's own, or else the bare texts."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the device has units for it, else fp32. On a GPU it holds a frozen base and computes everything;
    on a CPU it is for the products of fused LoRA layers alone."""
    deadline: float | None = Field(default=None, gt=0)
    """Minutes the training may take, loading included; a plan that would take longer is refused before its first step."""
    memory: float | None = Field(default=None, gt=0)
    """Gigabytes the training may take; a plan that is measured to take more is refused before it starts."""
    seed: int = Field(default=0, ge=0)
    """Fixes heads, adapters and the order of rows."""

    def check(self, task: Task) -> None:
        """Raises ValueError for settings that cannot go together."""
        if self.layers and self.method not in ("freeze", "auto"):
            raise ValueError(f"training.layers names parameters for method 'freeze', but the method is {self.method!r}")
        if self.method == "freeze" and not (self.layers or self.top_layers):
            raise ValueError("method 'freeze' needs training.top_layers or training.layers: what may train")
        if self.method == "head" and task not in ROW_TASKS and not (task == "preference" and self.objective == "reward"):
            raise ValueError(f"method 'head' needs a task with a head of its own, and {task!r} has none")
        if self.peft and self.method not in (*ADAPTERS, "auto"):
            raise ValueError(f"training.peft configures adapters, but method {self.method!r} makes none")
        if self.method == "auto" and (self.peft or self.layers):
            raise ValueError("method 'auto' tries several methods; training.peft and training.layers are of one of them")
        if self.start and self.method not in ADAPTERS:
            raise ValueError(f"training.start goes on from an adapter, but method {self.method!r} makes none")
        if self.start and self.method in ("pissa", "prompt_tuning"):
            raise ValueError(f"training.start cannot go with method {self.method!r}: its adapter is tied to its own start")
        if self.class_weights and task not in ("classification", "pair_classification"):
            raise ValueError(f"training.class_weights needs classes, and task {task!r} has none")
        if self.cache_trunk and not (self.top_layers or self.method in ("head", "auto")):
            raise ValueError("training.cache_trunk needs training.top_layers: only blocks that never change can be cached")
        if task == "preference" and self.objective == "dpo" and self.method == "prompt_tuning":
            raise ValueError("method 'prompt_tuning' cannot go with DPO: its random start is no model to hold answers to")
        if self.cache_trunk and self.method == "prompt_tuning":
            raise ValueError("training.cache_trunk cannot go with prompt_tuning, which changes the input of every block")


def plain(settings: Training) -> dict[str, Any]:
    """The settings that change what is learned: not those that only bound time and memory."""
    return settings.model_dump(mode="json", exclude={"deadline", "memory"})
