#include "controlplane/policy/presets.h"

/* Facts with their public sources. `stream_usage` is true only where the provider documents
 * stream_options.include_usage; the others send usage with the last event unasked, or a policy says `stream_usage:
 * true`. Book prefixes are the provider names of LiteLLM's catalog (model_prices_and_context_window.json). */
static const struct policy_preset presets[] = {
    /* platform.openai.com/docs/api-reference/chat/create (stream_options) and /models/list */
    { .name = "openai",
      .base_url = "https://api.openai.com/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "OPENAI_API_KEY",
      .book_prefix = "openai",
      .book_bare = true,
      .about = "OpenAI" },
    /* learn.microsoft.com/azure/ai-services/openai/reference: api-key header, deployments in the path, latest GA
     * api-version of the dated kind; .../models/list is served on the resource and bills nothing. */
    { .name = "azure",
      .base_url = "",
      .auth = AUTH_SCHEME_API_KEY,
      .path_style = PATH_STYLE_AZURE,
      .query = "api-version=2024-10-21",
      .stream_usage = true,
      .key_env = "AZURE_OPENAI_API_KEY",
      .book_prefix = "azure",
      .about = "Azure OpenAI; base_url is the resource, a model's `sends` the deployment" },
    /* console.groq.com/docs/openai and docs/api-reference (stream_options) */
    { .name = "groq",
      .base_url = "https://api.groq.com/openai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "GROQ_API_KEY",
      .book_prefix = "groq",
      .about = "Groq" },
    /* docs.mistral.ai/api: no stream_options, fields that it does not know are refused with 422; usage is in the last
       event */
    { .name = "mistral",
      .base_url = "https://api.mistral.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "MISTRAL_API_KEY",
      .book_prefix = "mistral",
      .about = "Mistral AI" },
    /* api-docs.deepseek.com: base URL with or without /v1; create-chat-completion lists stream_options */
    { .name = "deepseek",
      .base_url = "https://api.deepseek.com/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "DEEPSEEK_API_KEY",
      .book_prefix = "deepseek",
      .book_bare = true,
      .about = "DeepSeek" },
    /* docs.x.ai/docs/api-reference (chat completions: stream_options) */
    { .name = "xai",
      .base_url = "https://api.x.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "XAI_API_KEY",
      .book_prefix = "xai",
      .about = "xAI" },
    /* docs.together.ai/docs/openai-api-compatibility; usage comes with the last event */
    { .name = "together",
      .base_url = "https://api.together.xyz/v1",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "TOGETHER_API_KEY",
      .book_prefix = "together_ai",
      .about = "Together AI" },
    /* docs.fireworks.ai/tools-sdks/openai-compatibility: "usage is returned in the last chunk" without being asked */
    { .name = "fireworks",
      .base_url = "https://api.fireworks.ai/inference/v1",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "FIREWORKS_API_KEY",
      .book_prefix = "fireworks_ai",
      .about = "Fireworks AI" },
    /* openrouter.ai/docs/api-reference/overview; usage always comes with the last event
       (docs/use-cases/usage-accounting) */
    { .name = "openrouter",
      .base_url = "https://openrouter.ai/api/v1",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "OPENROUTER_API_KEY",
      .book_prefix = "openrouter",
      .about = "OpenRouter" },
    /* docs.cohere.com/docs/compatibility-api; no list of models is documented under /compatibility */
    { .name = "cohere",
      .base_url = "https://api.cohere.ai/compatibility/v1",
      .auth = AUTH_SCHEME_BEARER,
      .probe = PROBE_HOW_CONNECT,
      .key_env = "COHERE_API_KEY",
      .book_prefix = "cohere",
      .about = "Cohere, through its OpenAI-compatible API" },
    /* ai.google.dev/gemini-api/docs/openai (base URL, list of models, stream_options in the streaming example) */
    { .name = "gemini",
      .base_url = "https://generativelanguage.googleapis.com/v1beta/openai",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "GEMINI_API_KEY",
      .book_prefix = "gemini",
      .about = "Google Gemini, through its OpenAI-compatible endpoint" },
    /* docs.vllm.ai/en/latest/serving/openai_compatible_server.html; port 8000 */
    { .name = "vllm",
      .base_url = "http://127.0.0.1:8000/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "vLLM server of your own" },
    /* docs.sglang.ai/basic_usage/openai_api.html; port 30000 */
    { .name = "sglang",
      .base_url = "http://127.0.0.1:30000/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "SGLang server of your own" },
    /* docs.ollama.com/api/openai-compatibility (stream_options, include_usage); port 11434 */
    { .name = "ollama",
      .base_url = "http://127.0.0.1:11434/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "Ollama on this machine" },
    /* lmstudio.ai/docs/developer/openai-compat; port 1234 */
    { .name = "lmstudio",
      .base_url = "http://127.0.0.1:1234/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "LM Studio on this machine" },
    /* github.com/ggml-org/llama.cpp tools/server/README.md; port 8080 */
    { .name = "llamacpp",
      .base_url = "http://127.0.0.1:8080/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "llama.cpp server of your own" },
    /* Anything else that speaks the dialect; also what a provider without `preset` is. */
    { .name = "openai-compatible",
      .base_url = "",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "any other server that speaks OpenAI's API; base_url says where" },
};

const struct policy_preset *policy_preset_find(struct span name)
{
    for (size_t i = 0; i < ARRAY_LEN(presets); i++) {
        if (span_eq(name, span_cstr(presets[i].name)))
            return &presets[i];
    }
    return NULL;
}

const struct policy_preset *policy_preset_at(size_t i)
{
    return i < ARRAY_LEN(presets) ? &presets[i] : NULL;
}
