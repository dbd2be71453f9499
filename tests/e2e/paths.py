# SPDX-License-Identifier: Apache-2.0
"""The paths through the library that whole runs take: the flags of each, and families that the tiny model can be."""
EVALUATED = ["--eval_strategy", "steps", "--eval_steps", "3"]
LORA = ["--use_peft", "--lora_r", "4", "--lora_dropout", "0.1", "--disable_dropout", "False", "--lora_target_modules", "all-linear"]
CONFIGURATIONS = {
    "full": EVALUATED,
    "padded": ["--collator", "padded", *EVALUATED],
    "prompts not shared": ["--share_prompt", "False"],
    "accumulation": ["--gradient_accumulation_steps", "2", "--kl_scope", "window"],
    "window of tokens": ["--max_tokens_per_batch", "200"],
    "recomputed": ["--gradient_checkpointing"],
    "bf16": ["--bf16", *EVALUATED],
    "weights in bfloat16": ["--dtype", "bfloat16"],
    "aten": ["--matmul", "aten"],
    "lora": [*LORA, *EVALUATED],
    "dora": [*LORA, "--use_dora", "--gradient_checkpointing"],
    "rslora with saved modules": [*LORA, "--use_rslora", "--lora_modules_to_save", "embed_tokens"],
    "adapter": ["--adapter_name_or_path", "ADAPTER", "--merge_and_unload"],
    "precomputed": ["--precompute_ref_log_probs", *EVALUATED],
    "another reference": ["--ref_model_name_or_path", "OTHER"],
    "tr-dpo": ["--sync_ref_model", "--ref_model_sync_steps", "2"],
    "ema": ["--ref_model_ema_decay", "0.8"],
    "apo": ["--loss_type", "apo_zero_unpaired"],
    "8 bits": ["--optim", "adamw_8bit"],
    "in the backward pass": ["--optim_in_backward", "--max_grad_norm", "0"],
    "adafactor": ["--optim", "adafactor"],
    "neftune": ["--neftune_noise_alpha", "5"],
    "streamed": ["--dataset_streaming"],
    "cut": ["--max_length", "24", "--truncation_mode", "keep_start"],
    "generation": ["--generate_during_eval", "--generation_max_new_tokens", "8", *EVALUATED],
    "best": ["--load_best_model_at_end", "--save_steps", "3", *EVALUATED],
}
FAMILIES = {
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 8},
    "window": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 6},
    "untied": {"tie_word_embeddings": False},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, "max_position_embeddings": 100},
}
