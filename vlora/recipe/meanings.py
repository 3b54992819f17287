"""Words that people write as values, known from papers and other trainers, and what is written here for them. Pure.

Words that are another name of a choice need no entry here (`vlora.recipe.synonyms.VALUES`): these are carried out by
other keys, or not at all. A hint names keys and values as they are written in a recipe.
"""

import re
from collections.abc import Mapping


def _loss(objective: str, loss: str, more: str = "") -> str:
    return (
        f'it is a loss of "{objective}": write train.objective = "{objective}" and preference.loss = ["{loss}"]{more}'
    )


_FROM_PROMPTS = (
    "no objective learns from answers that the model writes while it trains; those that learn from written answers "
    'compare two ("dpo", "orpo", "cpo") or mark one ("kto")'
)
_NO_REWARDS = 'no reward model is trained; rows of two answers are learned with train.objective = "dpo"'
_SFT = 'write train.objective = "sft"'
_ADAMW = 'there is no such optimizer; optim.name = "adamw" is the usual one'
_DEVICES = "several devices need no key: --devices N behind the command starts as many processes"
_NO_METHOD = 'there is no such method; lora.method = "lora" and "dora" are those that there are'

Table = Mapping[str, str]
"""Words that are separated by blanks, to their hint."""

OBJECTIVES: Table = {
    "simpo": _loss("cpo", "simpo", ", with preference.nll_weight = 0 as in its paper"),
    "cpo_simpo": _loss("cpo", "simpo"),
    "ipo": _loss("dpo", "ipo"),
    "hinge slic slic_hf rso": _loss("dpo", "hinge"),
    "sigmoid": _loss("dpo", "sigmoid"),
    "sigmoid_norm": _loss("dpo", "sigmoid_norm"),
    "cdpo conservative_dpo": _loss("dpo", "sigmoid", " and preference.label_smoothing = 0.1"),
    "robust rdpo robust_dpo": _loss("dpo", "robust", " and preference.label_smoothing = 0.1"),
    "dpop dpo_positive dpo_p": _loss("dpo", "sigmoid", " and preference.dpop = 50"),
    "apo apo_zero": _loss("dpo", "apo_zero"),
    "apo_down": _loss("dpo", "apo_down"),
    "apo_zero_unpaired": _loss("kto", "apo_zero_unpaired"),
    "bco bco_pair": _loss("dpo", "bco_pair"),
    "nca nca_pair": _loss("dpo", "nca_pair"),
    "sppo sppo_hard": _loss("dpo", "sppo_hard"),
    "rpo": 'it is a sum of losses: write train.objective = "dpo" and preference.loss = ["sigmoid", "sft"]',
    "mpo": 'it is a sum of losses: write train.objective = "dpo", preference.loss = ["sigmoid", "bco_pair", "sft"] and '
    "preference.weights = [0.8, 0.2, 1.0]",
    "kto_pair": 'write train.objective = "kto"; a row of two answers is two rows of it',
    "nll ce cross_entropy crossentropy likelihood clm causal_lm lm language_modeling supervised finetune": _SFT,
    "pt pretrain pretraining": f"{_SFT} and data.train_on_completions = false, with which all text is learned",
    "preference preferences rlhf contrastive alignment": 'write train.objective = "dpo", "orpo", "cpo" or "kto"',
    "rm reward reward_model reward_modeling prm": _NO_REWARDS,
    "grpo ppo rloo gspo dapo gkd reinforce reinforce++ online_dpo xpo nash_md remax r1 dr_grpo": _FROM_PROMPTS,
}

OPTIMIZERS: Table = {
    "sgd_momentum momentum nesterov": 'write optim.name = "sgd"; the first of optim.betas is its momentum',
    "rmsprop adagrad adadelta adamax nadam radam lamb lars sophia prodigy ademamix came shampoo soap apollo "
    "stable_adamw galore galore_adamw lomo adalomo dadaptation dadapt_adam schedule_free schedulefree "
    "schedule_free_adamw grokadamw schedule_free_sgd rprop lbfgs adopt": _ADAMW,
}

SCHEDULES: Table = {
    "wsd warmup_stable_decay inverse_sqrt one_cycle onecycle step multistep exponential rex piecewise_constant "
    "reduce_on_plateau reduce_lr_on_plateau plateau": "there is no such schedule; "
    'optim.schedule = "cosine" or "linear" falls to 0, and optim.warmup_steps rises before any',
}

METHODS: Table = {
    "qlora": 'write lora.method = "lora" and model.quantize_bits = 4',
    "qdora": 'write lora.method = "dora" and model.quantize_bits = 4',
    "rslora rs_lora": "write lora.rslora = true",
    "pissa": 'write lora.init = "pissa"',
    "loraplus lora_plus lora+": "write optim.lora_plus_ratio = 16",
    "full full_finetune full_finetuning fft none freeze": "write model.full_finetune = true",
    "vera adalora loha lokr oft boft ia3 prefix prefix_tuning prompt_tuning p_tuning lisa reft fourierft": _NO_METHOD,
}

INITS: Table = {
    "olora loftq eva corda orthogonal lora_ga milora": "there is no such beginning; "
    'lora.init = "pissa" begins with the largest parts of the weights',
}

SHARDS: Table = {
    "fsdp fsdp2 zero3 zero_3 stage3 full full_shard": 'write train.shard = "params" and train.grad_checkpoint = true',
    "ddp dp data zero1 zero2 zero_1 zero_2 replicated": _DEVICES,
    "tensor tp tensor_parallel pipeline pp sequence context": "only frozen weights are divided, layer by layer: write "
    'train.shard = "params" and train.grad_checkpoint = true',
}

KEPT: Table = {
    "loss eval_loss val_loss validation_loss": 'write output.keep_best = "valid_loss"',
    "accuracy acc eval_accuracy": 'write output.keep_best = "exact_match"',
}

OF_KEYS: Mapping[str, Table] = {
    "train.objective": OBJECTIVES,
    "optim.name": OPTIMIZERS,
    "optim.schedule": SCHEDULES,
    "lora.method": METHODS,
    "lora.init": INITS,
    "train.shard": SHARDS,
    "output.keep_best": KEPT,
}
"""Of each key that such words are known for, the words and their hints."""

_AFFIX = re.compile(
    r"^(paged|torch|hf|bnb|mlx|apex)_|_(torch|fused|foreach|hf|bnb|apex|npu|xla|anyprecision|paged)$|_?(4|8|16|32)_?bit$"
)
"""What other trainers write around the name of an optimizer to say whose program carries it out."""


def explain_value(key: str, value: str) -> str | None:
    """Say what is written for a word that is no value of a key; None where that is not known.

    Args:
        key: Dotted.
        value: The word, in any case, with dashes or underscores.
    """
    word = normal(value)
    found = (hint for words, hint in OF_KEYS.get(key, {}).items() if word in words.split())
    return next(found, None)


def strip_affixes(value: str) -> str:
    """Leave the optimizer of a name that also says whose program, and of how many bits, it is."""
    word = normal(value)
    while (shorter := _AFFIX.sub("", word)) != word:
        word = shorter
    return word


def normal(name: str) -> str:
    """Write a name in lower case and with underscores."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")
