"""Request fields whose way upstream is settled, so that no model's `pass_fields` can name them (R50)."""

API = frozenset(
    [
        "audio", "best_of", "dimensions", "echo", "encoding_format", "frequency_penalty", "function_call", "functions",
        "input", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "metadata", "modalities",
        "model", "moderation", "n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format",
        "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "suffix",
        "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
    ]
)  # fmt: skip
"""Fields of some call of the OpenAI API: read there, and passed on there alone (`wire.openai_fields` has their types)."""
OWNED = frozenset(
    [
        "add_generation_prompt",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "cache_prompt",
        "cache_salt",
        "continue_final_message",
        "data_parallel_rank",
        "id_slot",
        "kv_transfer_params",
        "n_cache_reuse",
        "n_predict",
        "priority",
        "request_id",
        "return_progress",
        "timings_per_token",
    ]
)
"""Fields of engines that the gateway sets itself, or that reach past it (to another slot, host or limit)."""
WITHHELD = frozenset(["metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "store"])
"""The API's own fields about keeping things upstream, where all projects share the gateway's account (R31)."""
