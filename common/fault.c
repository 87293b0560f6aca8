#include "common/fault.h"

#include <stdatomic.h>

#define FAULT_SPEC_KINDS_MAX 16 /* a longer list is a mistake in a test's environment */

struct fault_state {
    atomic_bool armed;
    _Atomic uint64_t seen;
    _Atomic uint64_t after;
    _Atomic uint64_t count;
};

static struct fault_state states[FAULT_KINDS];
bool fault_armed_any;

bool fault_hit_slow(enum fault_kind kind)
{
    struct fault_state *state = &states[kind];
    if (!atomic_load(&state->armed))
        return false;
    uint64_t index = atomic_fetch_add(&state->seen, 1);
    uint64_t after = atomic_load(&state->after);
    return index >= after && index - after < atomic_load(&state->count);
}

void fault_arm(enum fault_kind kind, uint64_t after, uint64_t count)
{
    struct fault_state *state = &states[kind];
    atomic_store(&state->armed, false);
    atomic_store(&state->seen, 0);
    atomic_store(&state->after, after);
    atomic_store(&state->count, count);
    atomic_store(&state->armed, true);
    __atomic_store_n(&fault_armed_any, true, __ATOMIC_RELEASE);
}

void fault_disarm_all(void)
{
    __atomic_store_n(&fault_armed_any, false, __ATOMIC_RELEASE);
    for (size_t i = 0; i < FAULT_KINDS; i++)
        atomic_store(&states[i].armed, false);
}

uint64_t fault_seen(enum fault_kind kind)
{
    return atomic_load(&states[kind].seen);
}

static bool kind_of(struct span name, enum fault_kind *ret)
{
    static const char *const names[FAULT_KINDS] = {
        [FAULT_ALLOC] = "alloc",
        [FAULT_READ] = "read",
        [FAULT_WRITE] = "write",
        [FAULT_CONNECT] = "connect",
        [FAULT_ACCEPT] = "accept",
        [FAULT_RESOLVE] = "resolve",
        [FAULT_COMMIT] = "commit",
        [FAULT_FSYNC] = "fsync",
        [FAULT_STORE] = "store",
        [FAULT_RECORD] = "record",
        [FAULT_CRASH_TABLE] = "crash_table",
        [FAULT_DRAIN] = "drain",
    };
    for (size_t i = 0; i < FAULT_KINDS; i++) {
        if (span_eq(name, span_cstr(names[i]))) {
            *ret = (enum fault_kind)i;
            return true;
        }
    }
    return false;
}

struct spec {
    enum fault_kind kind;
    uint64_t after, count;
};

static enum err parse_spec(struct span text, struct spec *ret)
{
    struct span name, after, count;
    if (!span_split(&text, ':', &name) || !kind_of(name, &ret->kind))
        return ERR_SYNTAX;
    if (!span_split(&text, ':', &after) || span_to_u64(after, &ret->after) != OK)
        return ERR_SYNTAX;
    ret->count = 1;
    if (span_split(&text, ':', &count) && span_to_u64(count, &ret->count) != OK)
        return ERR_SYNTAX;
    return span_split(&text, ':', &count) ? ERR_SYNTAX : OK;
}

enum err fault_from_env(void)
{
    const char *enable = getenv("FAIRLEAD_FAULT_ENABLE");
    const char *text = getenv("FAIRLEAD_FAULT");
    if (!enable || strcmp(enable, "1") != 0 || !text)
        return OK;
    struct spec specs[FAULT_SPEC_KINDS_MAX];
    size_t count = 0;
    struct span rest = span_cstr(text);
    for (struct span part; span_split(&rest, ',', &part); count++) {
        if (count == ARRAY_LEN(specs) || parse_spec(part, &specs[count]) != OK)
            return ERR_SYNTAX;
    }
    for (size_t i = 0; i < count; i++)
        fault_arm(specs[i].kind, specs[i].after, specs[i].count);
    return OK;
}

void *fault_malloc(size_t bytes)
{
    return fault_hit(FAULT_ALLOC) ? NULL : malloc(bytes);
}

void *fault_calloc(size_t count, size_t bytes)
{
    return fault_hit(FAULT_ALLOC) ? NULL : calloc(count, bytes);
}

void *fault_realloc(void *ptr, size_t bytes)
{
    return fault_hit(FAULT_ALLOC) ? NULL : realloc(ptr, bytes);
}
