#include "dataplane/account/usage.h"

struct count {
    bool known;
    uint64_t value;
};

/* A count that cannot be is marked and, where it is huge, clamped; where it is no count at all, it is absent. */
static struct count count_of(const struct json_index *ix, uint32_t object, struct span name, bool *suspect)
{
    uint32_t token = json_get(ix, object, name);
    if (token == JSON_NONE || json_kind(ix, token) == JSON_NULL)
        return (struct count){ .known = false };
    struct count count = { .known = true };
    enum err err = json_u64(ix, token, &count.value);
    if (err == ERR_TOO_LARGE && json_raw(ix, token).ptr[0] == '-')
        err = ERR_INVALID;
    if (err == ERR_TOO_LARGE || (!err && count.value > USAGE_TOKENS_MAX)) {
        *suspect = true;
        count.value = USAGE_TOKENS_MAX;
    } else if (err) {
        *suspect = true;
        count = (struct count){ .known = false };
    }
    return count;
}

static struct count first_known(struct count a, struct count b)
{
    return a.known ? a : b;
}

static uint64_t at_most(uint64_t value, uint64_t most, bool *suspect)
{
    if (value <= most)
        return value;
    *suspect = true;
    return most;
}

static void usage_check(struct usage *u)
{
    u->input = at_most(u->input, USAGE_TOKENS_MAX, &u->suspect);
    u->output = at_most(u->output, USAGE_TOKENS_MAX, &u->suspect);
    u->cached = at_most(u->cached, u->input, &u->suspect);
    u->cache_write = at_most(u->cache_write, u->input - u->cached, &u->suspect);
    u->reasoning = at_most(u->reasoning, u->output, &u->suspect);
}

void usage_read(const struct json_index *ix, uint32_t token, struct usage *ret)
{
    *ret = (struct usage){ .known = false };
    if (token == JSON_NONE || json_kind(ix, token) != JSON_OBJECT)
        return;
    struct usage u = { .known = false };
    bool *suspect = &u.suspect;
    uint32_t in_details = json_get(ix, token, SPAN("prompt_tokens_details"));
    uint32_t out_details = json_get(ix, token, SPAN("completion_tokens_details"));
    struct count none = { .known = false };
    struct count prompt = count_of(ix, token, SPAN("prompt_tokens"), suspect);
    struct count completion = count_of(ix, token, SPAN("completion_tokens"), suspect);
    struct count total = count_of(ix, token, SPAN("total_tokens"), suspect);
    struct count input = count_of(ix, token, SPAN("input_tokens"), suspect);
    struct count output = count_of(ix, token, SPAN("output_tokens"), suspect);
    struct count cached =
        first_known(in_details == JSON_NONE ? none : count_of(ix, in_details, SPAN("cached_tokens"), suspect),
                    first_known(count_of(ix, token, SPAN("prompt_cache_hit_tokens"), suspect),
                                count_of(ix, token, SPAN("cache_read_input_tokens"), suspect)));
    struct count written = count_of(ix, token, SPAN("cache_creation_input_tokens"), suspect);
    struct count reasoning =
        out_details == JSON_NONE ? none : count_of(ix, out_details, SPAN("reasoning_tokens"), suspect);

    u.known = prompt.known || completion.known || input.known || output.known;
    u.cached = cached.value;
    u.cache_write = written.value;
    u.reasoning = reasoning.value;
    u.input = prompt.known ? prompt.value : input.value + (input.known ? cached.value + written.value : 0);
    u.output = first_known(completion, output).value;
    if (total.known && reasoning.value > 0 && total.value == u.input + u.output + reasoning.value)
        u.output += reasoning.value;
    if (u.known)
        usage_check(&u);
    *ret = u;
}

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void usage_merge(struct usage *into, const struct usage *from)
{
    into->suspect |= from->suspect;
    if (!from->known)
        return;
    into->known = true;
    into->estimated = false;
    into->input = greater(into->input, from->input);
    into->output = greater(into->output, from->output);
    into->cached = greater(into->cached, from->cached);
    into->cache_write = greater(into->cache_write, from->cache_write);
    into->reasoning = greater(into->reasoning, from->reasoning);
    usage_check(into);
}

uint64_t usage_tokens_of_bytes(uint64_t bytes)
{
    return bytes / USAGE_BYTES_PER_TOKEN + (bytes % USAGE_BYTES_PER_TOKEN != 0);
}

struct usage usage_settle(const struct usage *told, uint64_t input_bytes, uint64_t content_bytes)
{
    struct usage u = *told;
    if (told->known && (told->output > 0 || content_bytes == 0))
        return u;
    if (!told->known)
        u = (struct usage){ .known = true, .suspect = told->suspect, .input = usage_tokens_of_bytes(input_bytes) };
    u.output = usage_tokens_of_bytes(content_bytes);
    u.estimated = true;
    usage_check(&u);
    return u;
}
