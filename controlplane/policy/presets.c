#include "controlplane/policy/presets.h"

/* Facts, with the public source of each before its row: pages as stored in 2026, threads and files with their date.
 * What nothing confirms says so and has the safe value.
 *
 * .stream_usage  True where the provider is known to take stream_options.include_usage. Elsewhere false: some refuse
 *                unknown fields, and those who send usage unasked need no asking. A policy may say otherwise.
 * .book_prefix   litellm_provider of LiteLLM's catalog (github.com/BerriAI/litellm model_prices_and_context_window.json
 *                of 2026-08-01), where presets_test.c counts the models that each preset finds.
 * .key_env       What the provider's own examples or client read, unless said otherwise. */
static const struct policy_preset presets[] = {
    /* platform.openai.com/docs/api-reference/chat/create (stream_options), /models/list */
    { .name = "openai",
      .base_url = "https://api.openai.com/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "OPENAI_API_KEY",
      .book_prefix = "openai",
      .book_bare = true,
      .about = "OpenAI" },
    /* learn.microsoft.com/azure/ai-services/openai/reference: api-key header, deployments in the path, latest GA
     * api-version of the dated kind. learn.microsoft.com/rest/api/azureopenai/models/list: GET /openai/models on the
     * resource. stream_options is not in that version's specification, but works: github.com/griptape-ai/griptape issue
     * 1640 (2025-02-04). */
    { .name = "azure",
      .base_url = "",
      .auth = AUTH_SCHEME_API_KEY,
      .path_style = PATH_STYLE_AZURE,
      .query = "api-version=2024-10-21",
      .stream_usage = true,
      .key_env = "AZURE_OPENAI_API_KEY",
      .book_prefix = "azure",
      .about = "Azure OpenAI; base_url is the resource, a model's `sends` the deployment" },
    /* console.groq.com/docs/openai; usage comes only to who asks, tried by github.com/withceleste/celeste-python pull
     * 351 (2026-08-27) */
    { .name = "groq",
      .base_url = "https://api.groq.com/openai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "GROQ_API_KEY",
      .book_prefix = "groq",
      .about = "Groq" },
    /* docs.mistral.ai/api; stream_options is refused with 422: github.com/openai/openai-agents-python issue 442,
     * github.com/avante-corp/avante.nvim issue 2347 (2025-06-27); usage comes unasked: github.com/dnakov/anon-kode
     * issue 53 (2025-03-14) */
    { .name = "mistral",
      .base_url = "https://api.mistral.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "MISTRAL_API_KEY",
      .book_prefix = "mistral",
      .about = "Mistral AI" },
    /* api-docs.deepseek.com: the address no longer has the /v1 of older versions of that page; usage comes only to who
     * asks: github.com/infiniflow/ragflow pull 17756 (2026-08-04) */
    { .name = "deepseek",
      .base_url = "https://api.deepseek.com",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "DEEPSEEK_API_KEY",
      .book_prefix = "deepseek",
      .book_bare = true,
      .about = "DeepSeek" },
    /* docs.x.ai/api; stream_options was refused in 2025-04 (github.com/RooCodeInc/Roo-Code pull 2449) and is sent by
     * github.com/vercel/ai packages/xai/src/xai-chat-language-model.ts since */
    { .name = "xai",
      .base_url = "https://api.x.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "XAI_API_KEY",
      .book_prefix = "xai",
      .about = "xAI" },
    /* docs.together.ai/docs/inference/openai-compatibility; some models send usage only when asked:
     * github.com/vercel/ai pull 17986 (2026-07-27) */
    { .name = "together",
      .base_url = "https://api.together.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "TOGETHER_API_KEY",
      .book_prefix = "together_ai",
      .about = "Together AI" },
    /* docs.fireworks.ai/tools-sdks/openai-compatibility; it says that usage comes unasked, which some models break:
     * github.com/vercel/ai pull 16090 (2026-06-12) */
    { .name = "fireworks",
      .base_url = "https://api.fireworks.ai/inference/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "FIREWORKS_API_KEY",
      .book_prefix = "fireworks_ai",
      .about = "Fireworks AI" },
    /* openrouter.ai/docs/api-reference/overview; openrouter.ai/docs/use-cases/usage-accounting: usage always comes with
     * the last event, stream_options has no effect */
    { .name = "openrouter",
      .base_url = "https://openrouter.ai/api/v1",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "OPENROUTER_API_KEY",
      .book_prefix = "openrouter",
      .about = "OpenRouter" },
    /* docs.cohere.com/docs/compatibility-api; stream_options is refused: strandsagents.com/docs/user-guide/concepts/
     * model-providers/cohere. No list of models under /compatibility: not confirmed, so only a connection is probed. */
    { .name = "cohere",
      .base_url = "https://api.cohere.ai/compatibility/v1",
      .auth = AUTH_SCHEME_BEARER,
      .probe = PROBE_HOW_CONNECT,
      .key_env = "COHERE_API_KEY",
      .book_prefix = "cohere",
      .about = "Cohere, through its OpenAI-compatible API" },
    /* ai.google.dev/gemini-api/docs/openai; takes stream_options and sends usage, growing, with each event:
     * github.com/ogx-ai/ogx issue 5122 (2026-03-12) */
    { .name = "gemini",
      .base_url = "https://generativelanguage.googleapis.com/v1beta/openai",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "GEMINI_API_KEY",
      .book_prefix = "gemini",
      .about = "Google Gemini, through its OpenAI-compatible endpoint" },
    /* docs.perplexity.ai/docs/sonar/openai-compatibility: no /v1. Usage comes, growing, with each event:
     * github.com/langchain-ai/langchain pull 39924 (2026-08-26); stream_options is no parameter of
     * github.com/perplexityai/perplexity-py src/perplexity/types/chat/completion_create_params.py. No list of models:
     * docs.getbifrost.ai/providers/supported-providers/perplexity. The catalog has no prices of its searches. */
    { .name = "perplexity",
      .base_url = "https://api.perplexity.ai",
      .auth = AUTH_SCHEME_BEARER,
      .probe = PROBE_HOW_CONNECT,
      .key_env = "PERPLEXITY_API_KEY",
      .book_prefix = "perplexity",
      .about = "Perplexity; its fees for searches are not in catalogs" },
    /* inference-docs.cerebras.ai/resources/openai; github.com/Cerebras/cerebras-cloud-sdk-python
     * src/cerebras/cloud/sdk/types/chat/completion_create_params.py (StreamOptions) */
    { .name = "cerebras",
      .base_url = "https://api.cerebras.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "CEREBRAS_API_KEY",
      .book_prefix = "cerebras",
      .about = "Cerebras" },
    /* docs.sambanova.ai/docs/api-reference (servers, security); github.com/sambanova/sambanova-python
     * src/sambanova/types/chat/completion_create_params.py (stream_options) */
    { .name = "sambanova",
      .base_url = "https://api.sambanova.ai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "SAMBANOVA_API_KEY",
      .book_prefix = "sambanova",
      .about = "SambaNova" },
    /* docs.deepinfra.com/chat/streaming: usage comes unasked with the last event; stream_options: not confirmed. The
     * variable is that of LiteLLM and of github.com/vercel/ai packages/deepinfra; its own pages say DEEPINFRA_TOKEN. */
    { .name = "deepinfra",
      .base_url = "https://api.deepinfra.com/v1/openai",
      .auth = AUTH_SCHEME_BEARER,
      .key_env = "DEEPINFRA_API_KEY",
      .book_prefix = "deepinfra",
      .about = "DeepInfra" },
    /* github.com/novitalabs/novita-skills skills/novita-ai/references/quick-start.md (2026-02-09);
     * docs.litellm.ai/docs/providers/novita (2026-10-03: stream_options) */
    { .name = "novita",
      .base_url = "https://api.novita.ai/openai/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .key_env = "NOVITA_API_KEY",
      .book_prefix = "novita",
      .about = "Novita AI" },
    /* docs.vllm.ai/en/latest/serving/openai_compatible_server.html; github.com/vllm-project/vllm
     * vllm/entrypoints/openai/protocol.py (StreamOptions) */
    { .name = "vllm",
      .base_url = "http://127.0.0.1:8000/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "vLLM server of your own" },
    /* docs.sglang.io/docs/basic_usage/send_request; github.com/sgl-project/sglang
     * python/sglang/srt/entrypoints/openai/protocol.py (StreamOptions) */
    { .name = "sglang",
      .base_url = "http://127.0.0.1:30000/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "SGLang server of your own" },
    /* docs.ollama.com/api/openai-compatibility (stream_options, include_usage) */
    { .name = "ollama",
      .base_url = "http://127.0.0.1:11434/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "Ollama on this machine" },
    /* lmstudio.ai/docs/developer/openai-compat; lmstudio.ai/docs/app/api-changelog (stream_options since 0.3.18,
     * 2025-07-10) */
    { .name = "lmstudio",
      .base_url = "http://127.0.0.1:1234/v1",
      .auth = AUTH_SCHEME_BEARER,
      .stream_usage = true,
      .local = true,
      .about = "LM Studio on this machine" },
    /* github.com/ggml-org/llama.cpp tools/server/README.md (--port), issue 16048 (2025-09-17: include_usage) */
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
