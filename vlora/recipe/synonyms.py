"""Names that other trainers have for keys and values of a recipe, and what is written here instead. Pure.

A name stands here if people write it elsewhere: TRL and transformers, PEFT, Axolotl, LLaMA-Factory, ms-swift, mlx-lm.
Misspelt names need no entry; `vlora.recipe.converter` finds the nearest.
"""

from collections.abc import Iterable

from .meanings import normal, strip_affixes

NAMES = {
    "model.path": "model model_name model_name_or_path model_id model_path base_model pretrained checkpoint",
    "model.revision": "model_revision",
    "model.full_finetune": "full full_finetuning full_fine_tune full_training",
    "model.train_vision": "freeze_vision freeze_vision_tower freeze_vit unfreeze_vision tune_vision train_vit",
    "model.adapter_path": "adapter lora_path lora_model_dir adapter_name_or_path adapters init_adapter",
    "model.quantize_bits": "load_in_4bit load_in_8bit quantization quantization_bit quantization_config quant_bits",
    "model.quantize_group_size": "group_size q_group_size",
    "model.add_tokens": "new_tokens additional_special_tokens special_tokens new_special_tokens added_tokens",
    "data.streaming": "stream use_streaming iterable",
    "data.shuffle_buffer": "buffer_size shuffle_buffer_size",
    "data.path": "dataset dataset_name dataset_path train_file train_path train_data data_path data_files datasets",
    "data.sources": "mixture dataset_mixture dataset_mixer interleave_probs interleave_prob mix_strategy data_mixture "
    "mix interleave interleave_datasets probabilities sampling_probabilities dataset_weights mixing_weights",
    "data.split": "dataset_split train_split",
    "data.config": "dataset_config dataset_config_name subset",
    "data.image_resize_shape": "image_size resolution image_resize resize resize_shape",
    "data.max_pixels": "image_max_pixels max_image_pixels",
    "data.custom_prompt_format": "prompt_template prompt_format formatting_func",
    "data.columns": "column_mapping dataset_text_field field_mapping",
    "data.image_root": "image_dir image_folder media_dir images_dir image_base_path",
    "data.system": "system_prompt system_message",
    "data.max_seq_length": "max_length max_seq_len max_tokens cutoff_len model_max_length sequence_len context_length "
    "max_prompt_length",
    "data.on_long_row": "truncation truncation_strategy overflow_strategy",
    "data.train_on_completions": "train_on_inputs mask_prompt mask_inputs completion_only completion_only_loss "
    "assistant_only_loss train_on_responses_only response_only",
    "data.valid_path": "valid_file validation_file eval_dataset valid_data val_dataset eval_file",
    "data.valid_split": "eval_split validation_split val_split",
    "data.valid_fraction": "test_size val_set_size val_size eval_ratio valid_ratio val_ratio split_dataset_ratio",
    "data.chat_template": "template chat_template_path conversation_template",
    "data.workers": "num_workers dataloader_num_workers num_proc dataset_num_proc preprocessing_num_workers n_workers",
    "data.prefetch": "prefetch_factor dataloader_prefetch_factor",
    "lora.rank": "r lora_r lora_rank",
    "lora.alpha": "lora_alpha scale lora_scale",
    "lora.dropout": "lora_dropout",
    "lora.targets": "target_modules lora_target lora_target_modules lora_keys modules",
    "lora.last_layers": "num_layers lora_layers layers_to_transform n_layers",
    "lora.method": "use_dora dora peft_type finetuning_type fine_tune_type",
    "lora.rslora": "use_rslora rs_lora",
    "lora.init": "init_lora_weights pissa pissa_init",
    "lora.train_embeddings": "modules_to_save embed_tokens additional_target train_embedding",
    "optim.name": "optimizer optim optimizer_name optimizer_type",
    "optim.learning_rate": "lr rate base_lr peak_lr max_lr lora_lr",
    "optim.lora_plus_ratio": "loraplus_lr_ratio lora_plus_lr_ratio lorap_lr_ratio",
    "optim.connector_rate": "projector_lr mm_projector_lr merger_lr aligner_lr",
    "optim.vision_rate": "vision_lr vision_tower_lr vit_lr",
    "optim.weight_decay": "wd decay",
    "optim.betas": "beta1 beta2 adam_beta1 adam_beta2 momentum",
    "optim.eps": "epsilon adam_epsilon",
    "optim.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay_style",
    "optim.warmup_steps": "warmup num_warmup_steps warmup_iters",
    "optim.grad_clip": "max_grad_norm clip clip_grad gradient_clip gradient_clipping gradient_clip_val grad_clip_norm",
    "train.objective": "loss_type rlhf_type stage",
    "train.batch_size": "batch bs batchsize micro_batch_size train_batch_size per_device_train_batch_size",
    "train.batching": "packing sample_packing group_by_length pack",
    "train.pack_length": "packing_length max_packed_length",
    "train.iters": "max_steps steps n_steps num_steps total_steps train_steps iterations num_iters max_iters",
    "train.epochs": "num_train_epochs num_epochs n_epochs epoch max_epochs train_epochs",
    "train.gradient_accumulation_steps": "grad_accum grad_accumulation accumulation_steps gradient_accumulation "
    "accumulate_grad_batches grad_accum_steps accum_steps",
    "train.grad_checkpoint": "gradient_checkpointing activation_checkpointing recompute checkpointing use_reentrant",
    "train.seed": "random_seed data_seed",
    "train.steps_per_report": "logging_steps log_every log_interval report_every log_steps",
    "train.steps_per_eval": "eval_steps eval_every eval_interval val_interval valid_every",
    "train.steps_per_save": "save_steps save_every save_interval checkpoint_steps save_freq",
    "train.early_stopping_patience": "patience early_stopping early_stop",
    "train.early_stopping_min_delta": "min_delta early_stopping_threshold",
    "train.val_batches": "eval_batches max_eval_batches limit_val_batches",
    "preference.loss": "dpo_loss_type dpo_loss pref_loss",
    "preference.weights": "loss_weights",
    "preference.beta": "dpo_beta pref_beta simpo_beta orpo_lambda tau",
    "preference.label_smoothing": "dpo_label_smoothing label_smoothing_factor",
    "preference.gamma": "simpo_gamma gamma_beta_ratio",
    "preference.dpop": "dpop_lambda delta",
    "preference.nll_weight": "cpo_alpha pref_ftx rpo_alpha sft_alpha",
    "preference.precompute": "precompute_ref_log_probs cache_reference",
    "eval.max_new_tokens": "max_completion_length generation_max_length",
    "eval.answer_rows": "predict_with_generate eval_samples max_eval_samples num_eval_samples",
    "eval.metrics": "compute_metrics metric",
    "features.cache": "cache_features cache_latents",
    "memory.limit_gb": "max_memory memory_limit memory_limit_gb gpu_memory_limit",
    "output.path": "output_dir out out_dir save_dir save_path adapter_file output_path output_folder logging_dir",
    "output.keep_last": "save_total_limit keep_checkpoints max_checkpoints",
    "output.keep_best": "load_best_model_at_end metric_for_best_model save_best",
    "output.trackers": "report_to wandb tensorboard mlflow trackio logger loggers",
    "output.project": "wandb_project project_name tracking_project run_name",
}
"""Of each key the names that others have for it, in lower case and with underscores."""

_TYPE = (
    "there is no such key, since weights keep the type of the checkpoint; name one in bf16 or float32 as model.path, "
    "and model.quantize_bits trains on fewer bits"
)
_DEVICE = "there is no such key, since vlora trains on the device that MLX takes by default"
_DEVICES = (
    "there is no such key; --devices N behind the command trains on N devices, and train.shard = 'params' divides the "
    "frozen weights among them"
)
OF_LISTS = {"loss_type": "preference.loss"}
"""Keys of names that mean another one where their value is a list: TRL adds up several losses."""

WORDS = {
    "bf16 fp16 half dtype torch_dtype precision mixed_precision tf32 compute_dtype": _TYPE,
    "device use_cpu no_cuda": _DEVICE,
    "device_map deepspeed fsdp ddp distributed num_gpus gpus n_gpu n_devices num_devices devices local_rank": _DEVICES,
    "warmup_ratio warmup_percent warmup_fraction": "write optim.warmup_steps, which counts steps",
    "resume resume_from_checkpoint resume_from auto_resume": "write --resume behind the command instead",
    "ref_model reference_model ref_model_path ref_adapters sync_ref_model reference ref": "there is no such "
    "key, since answers are compared with the model that training starts from, which is not loaded twice",
    "reference_free": "there is no such key; train.objective = 'cpo' has no reference",
    "push_to_hub hub_model_id hub_token hub_strategy": "there is no such key; `python -m vlora push` uploads what was "
    "trained",
    "per_device_eval_batch_size eval_batch_size": "a validation takes train.batch_size, and answers eval.batch_size",
    "min_lr lr_end min_learning_rate": "there is no such key, since optim.schedule falls to 0",
    "attn_implementation flash_attention use_flash_attention flash_attn use_liger_kernel": "there is no such key; "
    "attention and the loss have kernels of their own",
    "lr_scheduler_kwargs optim_args": "there is no such key; [optim] has what there is to set",
    "remove_unused_columns": "there is no such key; data.columns says what becomes of each column",
    "bias lora_bias": "there is no such key; adapters have no bias",
    "task_type": "there is no such key; leave it out",
}
"""Of names without a key of their own what is to be done."""

SECTIONS = {
    "extends": "extend inherit inherits include base base_recipe",
    "data": "datasets dataset_args data_args",
    "lora": "peft peft_config lora_config lora_parameters adapter_config",
    "optim": "optimizer optimiser optimization lr_scheduler",
    "train": "training trainer training_args training_arguments sft sft_config",
    "preference": "dpo dpo_config dpo_args kto kto_config orpo orpo_config cpo cpo_config simpo rlhf",
    "eval": "evaluation validation generation",
    "features": "cache",
    "output": "logging checkpoint checkpoints save",
}
"""Of each section, and of `extends`, the names that others have for it."""

VALUES = {
    "cosine": "cosine_with_warmup cosine_with_restarts cosine_decay cosine_with_min_lr",
    "constant": "constant_with_warmup none",
    "linear": "linear_with_warmup linear_decay polynomial",
    "skip": "drop delete ignore filter",
    "cut": "truncate truncation_right right",
    "raise": "error fail strict",
    "packed": "packing pack sample_packing ffd bfd true",
    "grouped": "group group_by_length length length_grouped",
    "shuffled": "none random shuffle padded padding default false",
    "dora": "weight_decomposed use_dora",
    "default": "kaiming gaussian true",
    "layer": "all full attention attn self_attn decoder block",
}
"""Of each value the words that others have for it."""


def _invert(table: dict[str, str]) -> dict[str, str]:
    return {name: target for target, names in table.items() for name in names.split()}


_KEYS, _SECTIONS = _invert(NAMES), _invert(SECTIONS)
_WORDS = {name: words for names, words in WORDS.items() for name in names.split()}


def explain_name(name: str) -> str | None:
    """Say what is done about a name that other trainers have and that has no key here; None where that is not known.

    Args:
        name: Without its section, in any case, with dashes or underscores.
    """
    return _WORDS.get(normal(name))


def find_key(name: str, known: Iterable[str], *, is_list: bool = False) -> str | None:
    """Give the key, dotted, that other trainers have another name for.

    Args:
        name: Without its section, in any case, with dashes or underscores.
        known: All keys, dotted; a key that there is not yet is no answer.
        is_list: Whether its value is a list.
    """
    word = normal(name)
    found = (OF_LISTS.get(word) if is_list else None) or _KEYS.get(word)
    return found if found is not None and found in known else None


def explain_section(name: str) -> str | None:
    """Point to the section that other trainers have another name for."""
    found = _SECTIONS.get(normal(name))
    return None if found is None else f"did you mean {found}?"


def find_value(value: str, choices: Iterable[str]) -> str | None:
    """Give the one of the choices that is meant by a word of other trainers, or by another case of its own."""
    by_case = {normal(choice): choice for choice in choices}
    for word in (normal(value), strip_affixes(value)):
        # A word may be another name of values of several keys, as "none" is.
        named = [choice for choice in by_case.values() if word in VALUES.get(choice, "").split()]
        if word in by_case or named:
            return by_case.get(word) or named[0]
    return None
