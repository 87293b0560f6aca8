#include "common/json.h"
#include "controlplane/evidence/catalog_internal.h"

static const struct json_limits limits = { .bytes_max = CATALOG_BYTES_MAX, .depth_max = 32, .tokens_max = 16u << 20 };

/* ---- reading members ---- */

struct reader {
    struct catalog_build *build;
    struct json_index ix;
};

static uint32_t member(const struct reader *r, uint32_t object, const char *name)
{
    return json_get(&r->ix, object, span_cstr(name));
}

/* A number, or a string that holds one; null and absent are no figure. */
static enum catalog_figure figure(struct reader *r, uint32_t token, int scale, int64_t *ret)
{
    if (token == JSON_NONE || json_kind(&r->ix, token) == JSON_NULL)
        return CATALOG_FIGURE_NONE;
    struct span text = json_raw(&r->ix, token);
    if (json_kind(&r->ix, token) == JSON_STRING)
        text = span_of(text.ptr + 1, text.len - 2);
    return catalog_figure(r->build, text, scale, ret);
}

/* Reads one part of the price. False: the figure cannot be a price, and then the entry has none. */
static bool part(struct reader *r, uint32_t object, const char *name, int scale, enum price_part bit,
                 struct price *price, int64_t *ret)
{
    enum catalog_figure f = figure(r, member(r, object, name), scale, ret);
    if (f == CATALOG_FIGURE_KNOWN)
        price->known |= bit;
    return f != CATALOG_FIGURE_BAD;
}

static void tokens(const struct reader *r, uint32_t object, const char *name, uint64_t *ret)
{
    uint64_t value;
    uint32_t token = member(r, object, name);
    if (token != JSON_NONE && json_u64(&r->ix, token, &value) == OK && value > 0 && value <= CATALOG_TOKENS_MOST)
        *ret = value;
}

static bool list_has(const struct reader *r, uint32_t list, const char *text)
{
    if (list == JSON_NONE || json_kind(&r->ix, list) != JSON_ARRAY)
        return false;
    for (uint32_t t = json_first(&r->ix, list); t != JSON_NONE; t = json_next(&r->ix, list, t)) {
        if (json_kind(&r->ix, t) == JSON_STRING && json_string_eq(&r->ix, t, span_cstr(text)))
            return true;
    }
    return false;
}

static struct span text_of(struct reader *r, uint32_t object, const char *name)
{
    uint32_t token = member(r, object, name);
    struct span text;
    if (token == JSON_NONE || json_string(r->build->arena, &r->ix, token, &text) != OK)
        return SPAN("");
    return text;
}

/* ---- LiteLLM ---- */

#define PER_TOKEN 15 /* dollars per token -> nano-dollars per million tokens: 10^9 x 10^6 */
#define PER_CALL  9

/* "input_cost_per_token_above_200k_tokens" -> 200,000; 0: another key (batch, priority and flex tiers have a suffix).
 */
static uint64_t long_above(struct span key)
{
    static const char prefix[] = "input_cost_per_token_above_", suffix[] = "k_tokens";
    uint64_t thousands;
    if (!span_starts(key, span_cstr(prefix)) || !span_ends(key, span_cstr(suffix)) ||
        key.len <= sizeof prefix + sizeof suffix - 2)
        return 0;
    struct span digits = span_of(key.ptr + sizeof prefix - 1, key.len - (sizeof prefix - 1) - (sizeof suffix - 1));
    return span_to_u64(digits, &thousands) == OK && thousands <= CATALOG_TOKENS_MOST / 1000 ? thousands * 1000 : 0;
}

/* The least tier: one is all that a price holds. */
static bool litellm_long(struct reader *r, uint32_t object, struct price *price)
{
    uint64_t least = 0;
    for (uint32_t key = json_first(&r->ix, object); key != JSON_NONE;) {
        uint32_t value = json_next(&r->ix, object, key);
        struct span raw = json_raw(&r->ix, key);
        uint64_t above = long_above(span_of(raw.ptr + 1, raw.len - 2));
        if (above > 0 && (least == 0 || above < least) && json_kind(&r->ix, value) != JSON_NULL)
            least = above;
        key = json_next(&r->ix, object, value);
    }
    if (least == 0)
        return true;
    char name[80];
    unsigned thousands = (unsigned)(least / 1000);
    bool good = true;
    price->long_above = least;
    snprintf(name, sizeof name, "input_cost_per_token_above_%uk_tokens", thousands);
    good &= part(r, object, name, PER_TOKEN, PRICE_LONG, price, &price->long_input);
    snprintf(name, sizeof name, "output_cost_per_token_above_%uk_tokens", thousands);
    good &= part(r, object, name, PER_TOKEN, PRICE_LONG, price, &price->long_output);
    snprintf(name, sizeof name, "cache_read_input_token_cost_above_%uk_tokens", thousands);
    good &= part(r, object, name, PER_TOKEN, PRICE_LONG, price, &price->long_cache_read);
    return good;
}

static void litellm_price(struct reader *r, uint32_t object, bool embeds, struct price *price)
{
    bool good =
        part(r, object, "input_cost_per_token", PER_TOKEN, PRICE_INPUT, price, &price->input) &&
        part(r, object, "output_cost_per_token", PER_TOKEN, PRICE_OUTPUT, price, &price->output) &&
        part(r, object, "cache_read_input_token_cost", PER_TOKEN, PRICE_CACHE_READ, price, &price->cache_read) &&
        part(r, object, "cache_creation_input_token_cost", PER_TOKEN, PRICE_CACHE_WRITE, price, &price->cache_write) &&
        part(r, object, "output_cost_per_reasoning_token", PER_TOKEN, PRICE_REASONING, price, &price->reasoning) &&
        part(r, object, "input_cost_per_request", PER_CALL, PRICE_REQUEST, price, &price->request) &&
        litellm_long(r, object, price);
    bool has_tokens = price->known & (embeds ? PRICE_INPUT : PRICE_INPUT | PRICE_OUTPUT);
    if (!good || !has_tokens)
        *price = (struct price){ 0 };
}

/* supports_...: LiteLLM takes an absent one for false. */
static void litellm_flag(const struct reader *r, uint32_t object, const char *name, uint32_t bit, bool absent_is_false,
                         struct catalog_entry *entry)
{
    bool can;
    uint32_t token = member(r, object, name);
    if (token != JSON_NONE && json_bool(&r->ix, token, &can) == OK) {
        entry->capabilities_known |= bit;
        entry->capabilities |= can ? bit : 0;
    } else if (absent_is_false) {
        entry->capabilities_known |= bit;
    }
}

static void litellm_capabilities(struct reader *r, uint32_t object, struct catalog_entry *entry)
{
    struct span mode = text_of(r, object, "mode");
    if (mode.len == 0)
        return;
    entry->capabilities_known = CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS;
    if (span_eq(mode, SPAN("chat")) || list_has(r, member(r, object, "supported_endpoints"), "/v1/chat/completions"))
        entry->capabilities |= CAP_CHAT;
    if (span_eq(mode, SPAN("completion")) || list_has(r, member(r, object, "supported_endpoints"), "/v1/completions"))
        entry->capabilities |= CAP_COMPLETIONS;
    if (span_eq(mode, SPAN("embedding")))
        entry->capabilities |= CAP_EMBEDDINGS;
    bool chats = entry->capabilities & CAP_CHAT;
    litellm_flag(r, object, "supports_function_calling", CAP_TOOLS, chats, entry);
    litellm_flag(r, object, "supports_vision", CAP_IMAGES, chats, entry);
    /* Of structured output only the schema kind is told; JSON mode is older and wider, so "absent" says nothing. */
    litellm_flag(r, object, "supports_response_schema", CAP_JSON, false, entry);
    litellm_flag(r, object, "supports_audio_input", CAP_AUDIO, false, entry);
}

static void litellm_entry(struct reader *r, struct span name, uint32_t object)
{
    if (json_kind(&r->ix, object) != JSON_OBJECT || span_eq(name, SPAN("sample_spec")) ||
        member(r, object, "litellm_provider") == JSON_NONE) {
        r->build->skipped++;
        return;
    }
    struct catalog_draft *draft = catalog_add(r->build, name, text_of(r, object, "litellm_provider"));
    if (!draft)
        return;
    litellm_capabilities(r, object, &draft->entry);
    litellm_price(r, object, draft->entry.capabilities & CAP_EMBEDDINGS, &draft->entry.price);
    tokens(r, object, "max_input_tokens", &draft->entry.context_tokens);
    tokens(r, object, "max_output_tokens", &draft->entry.output_tokens_max);
    struct span date = text_of(r, object, "deprecation_date");
    if (date.len == 10)
        draft->entry.deprecated_on = arena_dup(r->build->arena, date);
}

static enum err litellm(struct reader *r)
{
    enum err err = catalog_room(r->build, r->ix.tokens[0].count);
    if (err)
        return err;
    for (uint32_t key = json_first(&r->ix, 0); key != JSON_NONE;) {
        uint32_t value = json_next(&r->ix, 0, key);
        struct span name;
        if (json_string(r->build->arena, &r->ix, key, &name) == OK)
            litellm_entry(r, name, value);
        else
            r->build->skipped++;
        key = json_next(&r->ix, 0, value);
    }
    return OK;
}

/* ---- OpenRouter ---- */

static void openrouter_long(struct reader *r, uint32_t pricing, struct price *price, bool *good)
{
    uint32_t list = member(r, pricing, "overrides"), best = JSON_NONE;
    uint64_t least = 0;
    if (list == JSON_NONE || json_kind(&r->ix, list) != JSON_ARRAY)
        return;
    for (uint32_t t = json_first(&r->ix, list); t != JSON_NONE; t = json_next(&r->ix, list, t)) {
        uint64_t from = 0;
        tokens(r, t, "min_prompt_tokens", &from);
        if (from > 0 && (best == JSON_NONE || from < least)) {
            best = t;
            least = from;
        }
    }
    if (best == JSON_NONE)
        return;
    price->long_above = least - 1; /* theirs is inclusive */
    *good &= part(r, best, "prompt", PER_TOKEN, PRICE_LONG, price, &price->long_input) &&
             part(r, best, "completion", PER_TOKEN, PRICE_LONG, price, &price->long_output) &&
             part(r, best, "input_cache_read", PER_TOKEN, PRICE_LONG, price, &price->long_cache_read);
}

static void openrouter_price(struct reader *r, uint32_t pricing, struct price *price)
{
    if (pricing == JSON_NONE || json_kind(&r->ix, pricing) != JSON_OBJECT)
        return;
    bool good = part(r, pricing, "prompt", PER_TOKEN, PRICE_INPUT, price, &price->input) &&
                part(r, pricing, "completion", PER_TOKEN, PRICE_OUTPUT, price, &price->output) &&
                part(r, pricing, "input_cache_read", PER_TOKEN, PRICE_CACHE_READ, price, &price->cache_read) &&
                part(r, pricing, "input_cache_write", PER_TOKEN, PRICE_CACHE_WRITE, price, &price->cache_write) &&
                part(r, pricing, "internal_reasoning", PER_TOKEN, PRICE_REASONING, price, &price->reasoning) &&
                part(r, pricing, "request", PER_CALL, PRICE_REQUEST, price, &price->request);
    if (good)
        openrouter_long(r, pricing, price, &good);
    if (!good || !(price->known & (PRICE_INPUT | PRICE_OUTPUT)))
        *price = (struct price){ 0 };
}

static void openrouter_capabilities(const struct reader *r, uint32_t object, struct catalog_entry *entry)
{
    uint32_t architecture = member(r, object, "architecture");
    uint32_t parameters = member(r, object, "supported_parameters");
    uint32_t in = architecture == JSON_NONE ? JSON_NONE : member(r, architecture, "input_modalities");
    uint32_t out = architecture == JSON_NONE ? JSON_NONE : member(r, architecture, "output_modalities");
    entry->capabilities_known = CAP_COMPLETIONS | CAP_EMBEDDINGS; /* their chat endpoint is what the list is about */
    if (out != JSON_NONE) {
        entry->capabilities_known |= CAP_CHAT;
        entry->capabilities |= list_has(r, out, "text") ? CAP_CHAT : 0;
    }
    if (in != JSON_NONE) {
        entry->capabilities_known |= CAP_IMAGES | CAP_AUDIO;
        entry->capabilities |= list_has(r, in, "image") ? CAP_IMAGES : 0;
        entry->capabilities |= list_has(r, in, "audio") ? CAP_AUDIO : 0;
    }
    if (parameters != JSON_NONE) {
        entry->capabilities_known |= CAP_TOOLS | CAP_JSON;
        entry->capabilities |= list_has(r, parameters, "tools") ? CAP_TOOLS : 0;
        entry->capabilities |= list_has(r, parameters, "response_format") ? CAP_JSON : 0;
    }
}

static void openrouter_entry(struct reader *r, uint32_t object)
{
    struct span id = json_kind(&r->ix, object) == JSON_OBJECT ? text_of(r, object, "id") : SPAN("");
    if (id.len == 0 || id.len > NAME_BYTES_MAX) {
        r->build->skipped++;
        return;
    }
    char name[NAME_BYTES_MAX + 16];
    snprintf(name, sizeof name, "openrouter/" SPAN_FMT, SPAN_ARG(id));
    struct catalog_draft *draft = catalog_add(r->build, span_cstr(name), SPAN(""));
    if (!draft)
        return;
    openrouter_price(r, member(r, object, "pricing"), &draft->entry.price);
    openrouter_capabilities(r, object, &draft->entry);
    tokens(r, object, "context_length", &draft->entry.context_tokens);
    uint32_t top = member(r, object, "top_provider");
    if (top != JSON_NONE)
        tokens(r, top, "max_completion_tokens", &draft->entry.output_tokens_max);
    struct span date = text_of(r, object, "expiration_date");
    if (date.len >= 10)
        draft->entry.deprecated_on = arena_dup(r->build->arena, span_head(date, 10));
}

static enum err openrouter(struct reader *r, uint32_t data)
{
    enum err err = catalog_room(r->build, r->ix.tokens[data].count);
    if (err)
        return err;
    for (uint32_t t = json_first(&r->ix, data); t != JSON_NONE; t = json_next(&r->ix, data, t))
        openrouter_entry(r, t);
    return OK;
}

/* ---- which of them ---- */

/* One entry that looks like LiteLLM's is enough; an object with none is something else ({"error": ...} of a proxy).
 * Empty counts as a catalog that has lost everything, so that it is judged by the quarantine and not taken for a fault
 * of the line. */
static bool looks_like_litellm(const struct reader *r)
{
    if (json_first(&r->ix, 0) == JSON_NONE)
        return true;
    for (uint32_t key = json_first(&r->ix, 0); key != JSON_NONE;) {
        uint32_t value = json_next(&r->ix, 0, key);
        if (member(r, value, "litellm_provider") != JSON_NONE)
            return true;
        key = json_next(&r->ix, 0, value);
    }
    return false;
}

enum err catalog_read_json(struct catalog_build *b, struct span text, enum catalog_form *ret_form)
{
    struct reader r = { .build = b };
    struct json_error error = { 0 };
    enum err err = json_index(b->arena, text, &limits, &r.ix, &error);
    if (err) {
        const char *why = err == ERR_SYNTAX ? arena_printf(b->arena, "line %u, column %u: %s", error.line, error.column,
                                                           error.message)
                                            : err_name(err);
        b->why = why ? why : "out of memory";
        return err;
    }
    uint32_t data = member(&r, 0, "data");
    if (member(&r, 0, "schema") != JSON_NONE && member(&r, 0, "prices") != JSON_NONE) {
        *ret_form = CATALOG_OURS;
        return catalog_read_yaml(b, text);
    }
    if (data != JSON_NONE && json_kind(&r.ix, data) == JSON_ARRAY) {
        *ret_form = CATALOG_OPENROUTER;
        return openrouter(&r, data);
    }
    if (json_kind(&r.ix, 0) == JSON_OBJECT && looks_like_litellm(&r)) {
        *ret_form = CATALOG_LITELLM;
        return litellm(&r);
    }
    b->why = "JSON, but neither LiteLLM's catalog (entries with litellm_provider) nor OpenRouter's (a list `data`)";
    return ERR_INVALID;
}
