/* support.h - stores in temporary directories, and things to put in them, for the tests of this folder. */
#pragma once
#include "common/fault.h"
#include "controlplane/publish/versions.h"
#include "proto/links.h"
#include "proto/snapshot.h"
#include "proto/wire.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

struct store {
    char dir[64];
    struct versions *versions;
    struct arena arena;
};

static inline void store_open(struct store *s)
{
    assert_int_equal(versions_open(s->dir, &s->versions), OK);
}

static inline int store_set_up(void **state)
{
    struct store *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    snprintf(s->dir, sizeof(s->dir), "/tmp/fairlead-versions-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    arena_init(&s->arena, (size_t)1 << 30);
    store_open(s);
    *state = s;
    return 0;
}

static inline int store_tear_down(void **state)
{
    struct store *s = *state;
    char command[128];
    fault_disarm_all();
    versions_close(s->versions);
    arena_release(&s->arena);
    snprintf(command, sizeof(command), "rm -r %s", s->dir);
    free(s);
    return system(command);
}

static inline void begin(struct store *s, bool write)
{
    assert_int_equal(versions_begin(s->versions, write), OK);
}
static inline void commit(struct store *s)
{
    assert_int_equal(versions_commit(s->versions), OK);
}
static inline struct versions_numbers numbers(struct store *s)
{
    struct versions_numbers n;
    begin(s, false);
    assert_int_equal(versions_numbers(s->versions, &n), OK);
    versions_abort(s->versions);
    return n;
}

/* A version whose artifact is the text itself. */
static inline struct version_record record_of(struct store *s, const char *text)
{
    const struct sha256 hash = sha256_of(span_cstr(text));
    struct version_record r = { .state = VERSION_STORED,
                                .policy_hash = span_cstr(text),
                                .artifact = hash,
                                .author = SPAN("ann \"the\" admin"),
                                .message = SPAN("line\nand more"),
                                .created_at_ms = 1700000000000,
                                .book_version = 3,
                                .bundle = span_cstr(text) };
    assert_int_equal(versions_artifact_put(s->versions, &hash, span_cstr(text)), OK);
    assert_int_equal(versions_add(s->versions, &r), OK);
    return r;
}

static inline struct key_record key_of(char *id_bytes, unsigned number)
{
    snprintf(id_bytes, 32, "key_%u", number);
    const struct span id = span_cstr(id_bytes);
    return (struct key_record){
        .hash = sha256_of(id), .id = id, .team = SPAN("research"), .created_at_ms = 5, .hint = SPAN("abcd")
    };
}

static inline void put_key(struct store *s, unsigned number)
{
    char id[32];
    const struct key_record key = key_of(id, number);
    assert_int_equal(versions_key_put(s->versions, &key), OK);
}
