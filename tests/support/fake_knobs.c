#include "tests/support/fake_knobs.h"

static const char *const fault_names[FAKE_FAULT_KINDS] = {
    [FAKE_FAULT_NONE] = "none",
    [FAKE_FAULT_REFUSE] = "refuse",
    [FAKE_FAULT_HANG] = "hang",
    [FAKE_FAULT_STATUS] = "status",
    [FAKE_FAULT_OVERLOAD200] = "overload200",
    [FAKE_FAULT_ERROR200] = "error200",
    [FAKE_FAULT_CUT] = "cut",
    [FAKE_FAULT_RESET] = "reset",
    [FAKE_FAULT_NODONE] = "nodone",
    [FAKE_FAULT_ERROREVENT] = "errorevent",
    [FAKE_FAULT_SILENT] = "silent",
    [FAKE_FAULT_EMPTY] = "empty",
    [FAKE_FAULT_GARBAGE] = "garbage",
    [FAKE_FAULT_SLOWHEAD] = "slowhead",
    [FAKE_FAULT_NOUSAGE] = "nousage",
    [FAKE_FAULT_REDIRECT] = "redirect",
    [FAKE_FAULT_SETCOOKIE] = "setcookie",
    [FAKE_FAULT_BIGHEAD] = "bighead",
    [FAKE_FAULT_HUGEEVENT] = "hugeevent",
    [FAKE_FAULT_DIE] = "die",
};

const char *fake_fault_name(enum fake_fault_kind kind)
{
    return fault_names[kind];
}

void fake_knobs_init(struct fake_knobs *knobs)
{
    *knobs = (struct fake_knobs){ .shape = { .tokens = 24 }, .models = "fake-small,fake-large", .keep = 16 };
    prng_seed(&knobs->prng, 1);
}

/* Milliseconds with at most three decimals. */
static enum err parse_ms(struct span text, uint64_t *ret_us)
{
    struct span whole;
    uint64_t ms = 0;
    uint64_t fraction_us = 0;
    struct span rest = text;
    bool has_fraction = span_find_byte(text, '.') != SIZE_MAX;
    if (!span_split(&rest, '.', &whole) || span_to_u64(whole, &ms) != OK || ms > FAKE_FOREVER_US / 1000)
        return ERR_INVALID;
    if (has_fraction) {
        if (rest.len < 1 || rest.len > 3 || span_to_u64(rest, &fraction_us) != OK)
            return ERR_INVALID;
        for (size_t i = rest.len; i < 3; i++)
            fraction_us *= 10;
    }
    *ret_us = ms * 1000 + fraction_us;
    return OK;
}

static enum err parse_range(struct span text, struct fake_range *ret)
{
    struct fake_range range;
    struct span low = text;
    size_t dash = span_find_byte(text, '-');
    if (dash != SIZE_MAX)
        low = span_head(text, dash);
    if (parse_ms(low, &range.low_us) != OK)
        return ERR_INVALID;
    range.high_us = range.low_us;
    if (dash != SIZE_MAX && parse_ms(span_skip(text, dash + 1), &range.high_us) != OK)
        return ERR_INVALID;
    if (range.high_us < range.low_us)
        return ERR_INVALID;
    *ret = range;
    return OK;
}

static enum err parse_count(struct span text, uint64_t max, uint64_t *ret)
{
    uint64_t value;
    if (span_to_u64(text, &value) != OK || value > max)
        return ERR_INVALID;
    *ret = value;
    return OK;
}

/* "0.25", "1", ".5" is refused. */
static enum err parse_probability(struct span text, double *ret)
{
    char copy[16];
    char *end;
    if (text.len == 0 || text.len >= sizeof(copy) || text.ptr[0] < '0' || text.ptr[0] > '9')
        return ERR_INVALID;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    double value = strtod(copy, &end);
    if (*end != '\0' || !(value >= 0 && value <= 1))
        return ERR_INVALID;
    *ret = value;
    return OK;
}

static enum err parse_kind(struct span name, struct fake_fault *fault)
{
    uint64_t status;
    if (name.len == 3 && span_to_u64(name, &status) == OK) {
        if (status < 400 || status > 599)
            return ERR_INVALID;
        fault->kind = FAKE_FAULT_STATUS;
        fault->status = (unsigned)status;
        return OK;
    }
    for (unsigned i = 0; i < FAKE_FAULT_KINDS; i++) {
        if (i != FAKE_FAULT_STATUS && span_eq(name, span_cstr(fault_names[i]))) {
            fault->kind = (enum fake_fault_kind)i;
            return OK;
        }
    }
    return ERR_INVALID;
}

enum err fake_fault_parse(struct span text, struct fake_fault *ret)
{
    struct fake_fault fault = { .probability = 1, .remaining = UINT64_MAX };
    size_t at = span_find_byte(text, 'x'); /* no fault's name has an x */
    if (at != SIZE_MAX) {
        if (parse_count(span_skip(text, at + 1), UINT32_MAX, &fault.remaining) != OK)
            return ERR_INVALID;
        text = span_head(text, at);
    }
    at = span_find_byte(text, '@');
    if (at != SIZE_MAX) {
        if (parse_probability(span_skip(text, at + 1), &fault.probability) != OK)
            return ERR_INVALID;
        text = span_head(text, at);
    }
    at = span_find_byte(text, ':');
    if (at != SIZE_MAX) {
        if (parse_count(span_skip(text, at + 1), FAKE_BYTES_MAX, &fault.arg) != OK)
            return ERR_INVALID;
        fault.has_arg = true;
        text = span_head(text, at);
    }
    enum err err = parse_kind(text, &fault);
    if (err == OK)
        *ret = fault;
    return err;
}

bool fake_fault_roll(struct fake_fault *fault, struct prng *prng)
{
    if (fault->kind == FAKE_FAULT_NONE || fault->remaining == 0)
        return false;
    if (fault->probability < 1 && prng_unit(prng) >= fault->probability)
        return false;
    if (fault->remaining != UINT64_MAX)
        fault->remaining--;
    return true;
}

uint64_t fake_range_draw(struct fake_range range, struct prng *prng)
{
    uint64_t width = range.high_us - range.low_us;
    return width == 0 ? range.low_us : range.low_us + prng_u64(prng) % (width + 1);
}

enum err fake_shape_set(struct fake_shape *shape, struct span key, struct span value)
{
    const struct {
        const char *key;
        struct fake_range *range;
        uint64_t *count;
    } rows[] = {
        { "ttft_ms", &shape->ttft, NULL },      { "token_ms", &shape->token, NULL },
        { "fault_ms", &shape->fault_ms, NULL }, { "tokens", NULL, &shape->tokens },
        { "cached", NULL, &shape->cached },     { "reasoning", NULL, &shape->reasoning },
        { "think", NULL, &shape->think },       { "prompt", NULL, &shape->prompt },
    };
    if (span_eq(key, SPAN("fault")))
        return fake_fault_parse(span_empty(value) ? SPAN("none") : value, &shape->fault);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!span_eq(key, span_cstr(rows[i].key)))
            continue;
        return rows[i].range ? parse_range(value, rows[i].range) : parse_count(value, FAKE_TOKENS_MAX, rows[i].count);
    }
    return ERR_NOT_FOUND;
}

static enum err set_text(char *out, size_t out_bytes, struct span value)
{
    if (value.len >= out_bytes || (value.len > 0 && memchr(value.ptr, '\0', value.len)))
        return ERR_INVALID;
    if (value.len > 0)
        memcpy(out, value.ptr, value.len);
    out[value.len] = '\0';
    return OK;
}

/* The name goes unescaped into JSON and headers. */
static enum err set_name(struct fake_knobs *knobs, struct span value)
{
    for (size_t i = 0; i < value.len; i++) {
        char c = value.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.", c);
        if (!plain)
            return ERR_INVALID;
    }
    return set_text(knobs->name, sizeof(knobs->name), value);
}

enum err fake_knobs_set(struct fake_knobs *knobs, struct span key, struct span value)
{
    char copy[32];
    uint64_t number;
    if (key.len >= sizeof(copy))
        return ERR_NOT_FOUND;
    for (size_t i = 0; i < key.len; i++)
        copy[i] = key.ptr[i] == '-' ? '_' : key.ptr[i];
    key = span_of(copy, key.len);
    if (span_eq(key, SPAN("name")))
        return set_name(knobs, value);
    if (span_eq(key, SPAN("models")))
        return set_text(knobs->models, sizeof(knobs->models), value);
    if (span_eq(key, SPAN("require_key")))
        return set_text(knobs->require_key, sizeof(knobs->require_key), value);
    if (span_eq(key, SPAN("keep")))
        return parse_count(value, 4096, &knobs->keep);
    if (span_eq(key, SPAN("strict_models"))) {
        knobs->strict_models = span_eq(value, SPAN("true")) || span_eq(value, SPAN("1"));
        return OK;
    }
    if (span_eq(key, SPAN("seed"))) {
        if (span_to_u64(value, &number) != OK)
            return ERR_INVALID;
        prng_seed(&knobs->prng, number);
        return OK;
    }
    return fake_shape_set(&knobs->shape, key, value);
}

static enum err apply_directive(struct fake_shape *shape, struct span words, struct span *ret_bad)
{
    struct span word;
    while (span_split(&words, ' ', &word)) {
        if (span_empty(word))
            continue;
        struct span value = word;
        struct span key;
        if (!span_split(&value, '=', &key) || fake_shape_set(shape, key, value) != OK) {
            *ret_bad = word;
            return ERR_INVALID;
        }
    }
    return OK;
}

enum err fake_shape_directives(struct fake_shape *shape, struct span text, struct span name, struct span model,
                               struct span *ret_bad)
{
    size_t at;
    while ((at = span_find(text, SPAN("[[fake"))) != SIZE_MAX) {
        text = span_skip(text, at + strlen("[[fake"));
        size_t end = span_find(text, SPAN("]]"));
        if (end == SIZE_MAX) {
            *ret_bad = span_head(text, 40);
            return ERR_INVALID;
        }
        struct span words = span_head(text, end);
        text = span_skip(text, end);
        if (words.len > 0 && words.ptr[0] == ':') {
            struct span who;
            words = span_skip(words, 1);
            if (!span_split(&words, ' ', &who) || (!span_eq(who, name) && !span_eq(who, model)))
                continue;
        }
        enum err err = apply_directive(shape, words, ret_bad);
        if (err != OK)
            return err;
    }
    return OK;
}
