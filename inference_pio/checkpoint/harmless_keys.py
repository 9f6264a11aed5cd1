"""Keys of config.json that cannot change the numbers a causal language model computes at inference.

Every name was judged on its own; what is not here and not read by an architecture is refused. Dropout and
initializers act in training only, labels and problem types belong to classifiers, sampling settings act
behind the logits, and implementation names choose among kernels of one meaning.
"""

from __future__ import annotations

_IDENTITY = (
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "auto_map",
    "finetuning_task",
    "keys_to_ignore_at_inference",
    "name_or_path",
    "processor_class",
    "task_specific_params",
    "tokenizer_class",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
)

# A padding index only stops gradients; its embedding row is stored like any other.
_TOKEN_IDS = (
    "bos_token_id",
    "cls_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "mask_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
)

# How weights were stored; the reader goes by the files' own dtypes.
_STORAGE = ("dtype", "torch_dtype", "use_bfloat16")

_IMPLEMENTATION = (
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "base_model_ep_plan",
    "base_model_fsdp_plan",
    "base_model_pp_plan",
    "base_model_tp_plan",
    # Splits a computation into pieces without changing what is computed.
    "chunk_size_feed_forward",
    "experts_implementation",
    # A causal language model is a decoder either way.
    "is_decoder",
    "pretraining_tp",
    "torchscript",
    "use_cache",
)

_OUTPUTS = (
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
    "tie_last_hidden_states",
    "use_return_dict",
)

_TRAINING = (
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout",
    "classifier_dropout_prob",
    "dropout",
    "embd_pdrop",
    "embedding_dropout",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_factor",
    "initializer_range",
    "resid_pdrop",
    "residual_dropout",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "tf_legacy_loss",
)

_LABELS = ("_num_labels", "id2label", "label2id", "num_labels", "problem_type")

# Generation settings that older files keep in config.json; they act on tokens and logits, not before them.
_GENERATION = (
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "cache_implementation",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
)

HARMLESS_KEYS = frozenset(
    _IDENTITY + _TOKEN_IDS + _STORAGE + _IMPLEMENTATION + _OUTPUTS + _TRAINING + _LABELS + _GENERATION
)
