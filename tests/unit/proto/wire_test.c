#include "proto/wire.h"
#include "common/fault.h"
#include "tests/unit/proto/wire_sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

/* Each message as one shape, so that every property below is held against all of them. */
typedef enum err encode_fn(const void *plain, struct buf *out);
typedef enum err decode_fn(struct arena *arena, struct span bytes, void **ret, const char **why);
typedef void *sample_fn(struct arena *arena, struct prng *prng);

struct message {
    const char *name;
    encode_fn *encode;
    decode_fn *decode;
    sample_fn *sample;
};

#define OBJECT(name, type)                                                                                             \
    static enum err encode_##name(const void *plain, struct buf *out)                                                  \
    {                                                                                                                  \
        return wire_encode_##name(plain, out);                                                                         \
    }                                                                                                                  \
    static enum err decode_##name(struct arena *arena, struct span bytes, void **ret, const char **why)                \
    {                                                                                                                  \
        struct type *plain = *ret;                                                                                     \
        enum err err = wire_decode_##name(arena, bytes, &plain, why);                                                  \
        *ret = plain;                                                                                                  \
        return err;                                                                                                    \
    }                                                                                                                  \
    static void *sample_##name(struct arena *arena, struct prng *prng)                                                 \
    {                                                                                                                  \
        return wire_sample_##name(arena, prng);                                                                        \
    }
#define LINK(name)                                                                                                     \
    static enum err encode_##name(const void *plain, struct buf *out)                                                  \
    {                                                                                                                  \
        return wire_encode_##name(plain, out);                                                                         \
    }                                                                                                                  \
    static enum err decode_##name(struct arena *arena, struct span bytes, void **ret, const char **why)                \
    {                                                                                                                  \
        struct name *plain = *ret;                                                                                     \
        enum err err = wire_decode_##name(arena, bytes, &plain);                                                       \
        *ret = plain;                                                                                                  \
        *why = err_name(err);                                                                                          \
        return err;                                                                                                    \
    }                                                                                                                  \
    static void *sample_##name(struct arena *arena, struct prng *prng)                                                 \
    {                                                                                                                  \
        return wire_sample_##name(arena, prng);                                                                        \
    }
OBJECT(artifact, artifact)
OBJECT(head, head)
OBJECT(evidence, evidence)
OBJECT(teams, teams)
OBJECT(key, key_record)
OBJECT(directory_delta, directory_delta)
LINK(fetch_request)
LINK(fetch_reply)
LINK(evidence_report)
LINK(evidence_reply)
LINK(admin_request)
LINK(admin_reply)

#define MESSAGE(name)                                                                                                  \
    {                                                                                                                  \
#name, encode_##name, decode_##name, sample_##name                                                             \
    }
static const struct message messages[] = {
    MESSAGE(artifact),       MESSAGE(head),          MESSAGE(evidence),
    MESSAGE(teams),          MESSAGE(key),           MESSAGE(directory_delta),
    MESSAGE(fetch_request),  MESSAGE(fetch_reply),   MESSAGE(evidence_report),
    MESSAGE(evidence_reply), MESSAGE(admin_request), MESSAGE(admin_reply),
};

struct bench {
    struct arena arena;
    struct prng prng;
    struct buf buf;
    const char *why;
};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));
    arena_init(&b->arena, (size_t)1 << 30);
    prng_seed(&b->prng, 7);
    buf_init(&b->buf, FRAME_BYTES_MAX);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    fault_disarm_all();
    arena_release(&b->arena);
    buf_release(&b->buf);
    free(b);
    return 0;
}

/* Encoded, decoded and encoded again gives the same bytes: with the coverage test of wire_table_test.c, nothing is
 * lost. */
static void every_message_survives_the_round_trip(void **state)
{
    struct bench *b = *state;
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        for (unsigned round = 0; round < 200; round++) {
            arena_reset(&b->arena);
            buf_clear(&b->buf);
            void *plain = messages[i].sample(&b->arena, &b->prng), *back = NULL;
            assert_int_equal(messages[i].encode(plain, &b->buf), OK);
            enum err err = messages[i].decode(&b->arena, buf_span(&b->buf), &back, &b->why);
            if (err)
                fail_msg("%s: %s: %s", messages[i].name, err_name(err), b->why);
            struct buf again = BUF_INIT(FRAME_BYTES_MAX);
            assert_int_equal(messages[i].encode(back, &again), OK);
            assert_true(span_eq(buf_span(&b->buf), buf_span(&again)));
            buf_release(&again);
        }
    }
}

/* No prefix, no flipped bit and no noise crashes a decoder, and what it accepts it can write again. */
static void judge(struct bench *b, const struct message *message, struct span bytes)
{
    struct arena arena;
    arena_init(&arena, 64u << 20);
    void *plain = &arena, *untouched = plain;
    char *copy = malloc(bytes.len ? bytes.len : 1); /* its own block: an overrun is seen by the sanitizer */
    if (bytes.len)
        memcpy(copy, bytes.ptr, bytes.len);
    b->why = NULL;
    enum err err = message->decode(&arena, span_of(copy, bytes.len), &plain, &b->why);
    free(copy); /* what was decoded does not borrow from the input */
    if (err) {
        assert_ptr_equal(plain, untouched);
        assert_non_null(b->why);
    } else {
        struct buf again = BUF_INIT(FRAME_BYTES_MAX);
        assert_int_equal(message->encode(plain, &again), OK);
        buf_release(&again);
    }
    arena_release(&arena);
}

static void damaged_bytes_are_refused_or_harmless(void **state)
{
    struct bench *b = *state;
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        arena_reset(&b->arena);
        buf_clear(&b->buf);
        assert_int_equal(messages[i].encode(messages[i].sample(&b->arena, &b->prng), &b->buf), OK);
        struct span bytes = buf_span(&b->buf);
        for (size_t cut = 0; cut < size_min(bytes.len, 1500); cut++)
            judge(b, &messages[i], span_head(bytes, cut));
        for (unsigned round = 0; round < 1500; round++) {
            size_t at = (size_t)(prng_u64(&b->prng) % bytes.len);
            char kept = b->buf.data[b->buf.start + at];
            b->buf.data[b->buf.start + at] = (char)(kept ^ (1 << prng_u64(&b->prng) % 8));
            judge(b, &messages[i], bytes);
            b->buf.data[b->buf.start + at] = kept;
        }
        char noise[64];
        for (unsigned round = 0; round < 500; round++) {
            for (size_t n = 0; n < sizeof(noise); n++)
                noise[n] = (char)prng_u64(&b->prng);
            judge(b, &messages[i], span_of(noise, sizeof(noise)));
        }
        judge(b, &messages[i], SPAN(""));
    }
}

static void every_failed_allocation_is_an_error(void **state)
{
    struct bench *b = *state;
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        arena_reset(&b->arena);
        buf_clear(&b->buf);
        void *plain = messages[i].sample(&b->arena, &b->prng);
        assert_int_equal(messages[i].encode(plain, &b->buf), OK);
        enum err err = ERR_NOMEM;
        for (unsigned after = 0; err; after++) {
            struct buf out = BUF_INIT(FRAME_BYTES_MAX);
            fault_arm(FAULT_ALLOC, after, 1);
            err = messages[i].encode(plain, &out);
            fault_disarm_all();
            assert_true(err == OK || err == ERR_NOMEM);
            buf_release(&out);
        }
        err = ERR_NOMEM;
        for (unsigned after = 0; err; after++) {
            struct arena arena;
            arena_init(&arena, 64u << 20);
            void *back = NULL;
            fault_arm(FAULT_ALLOC, after, 1);
            err = messages[i].decode(&arena, buf_span(&b->buf), &back, &b->why);
            fault_disarm_all();
            assert_true(err == OK || err == ERR_NOMEM);
            arena_release(&arena);
        }
    }
}

/* ---- invariants ---- */

static struct artifact *sample(struct bench *b)
{
    return wire_sample_artifact(&b->arena, &b->prng);
}

static enum err pass_artifact(struct bench *b, const struct artifact *a)
{
    struct artifact *back;
    buf_clear(&b->buf);
    b->why = "";
    assert_int_equal(wire_encode_artifact(a, &b->buf), OK);
    return wire_decode_artifact(&b->arena, buf_span(&b->buf), &back, &b->why);
}

#define REFUSED(b, a, expected, text)                                                                                  \
    do {                                                                                                               \
        assert_int_equal(pass_artifact((b), (a)), (expected));                                                         \
        if (!strstr((b)->why, (text)))                                                                                 \
            fail_msg("'%s' lacks '%s'", (b)->why, (text));                                                             \
    } while (0)

static void an_artifact_knows_its_hash(void **state)
{
    struct bench *b = *state;
    struct artifact *back;
    assert_int_equal(wire_encode_artifact(sample(b), &b->buf), OK);
    assert_int_equal(wire_decode_artifact(&b->arena, buf_span(&b->buf), &back, NULL), OK);
    struct sha256 hash = sha256_of(buf_span(&b->buf));
    assert_true(sha256_eq(&hash, &back->hash));
    assert_int_equal(back->routes[0].name.ptr[back->routes[0].name.len], '\0');
}

static void an_artifact_from_another_time_is_refused(void **state)
{
    struct bench *b = *state;
    struct artifact *a = sample(b);
    a->schema = TABLE_SCHEMA + 1;
    REFUSED(b, a, ERR_UNSUPPORTED, "version 2");
    a->schema = 0;
    REFUSED(b, a, ERR_UNSUPPORTED, "version 0");
    a->schema = TABLE_SCHEMA;
    a->requires = 4;
    REFUSED(b, a, ERR_UNSUPPORTED, "0x4");
}

static void an_artifact_with_a_broken_promise_is_refused(void **state)
{
    struct bench *b = *state;
    struct artifact *a = sample(b);
    a->models[1].provider = a->provider_count;
    REFUSED(b, a, ERR_INVALID, "a model names no provider");

    a = sample(b);
    struct model swapped = a->models[0];
    a->models[0] = a->models[1];
    a->models[1] = swapped;
    REFUSED(b, a, ERR_INVALID, "models are not sorted");

    a = sample(b);
    a->routes[1].name = a->routes[0].name;
    REFUSED(b, a, ERR_INVALID, "routes are not sorted or not unique");

    a = sample(b);
    a->aliases[1].name = a->aliases[0].name;
    REFUSED(b, a, ERR_INVALID, "aliases");

    static const struct span teams[] = { { "b", 1 }, { "a", 1 } };
    a = sample(b);
    a->content.teams = (struct span_list){ .items = teams, .count = 2 };
    REFUSED(b, a, ERR_INVALID, "teams are not sorted");
    a->content.teams.count = 1;
    a->content.share_ppm = 1000001;
    REFUSED(b, a, ERR_INVALID, "a share of more than everything");
    a->content.share_ppm = 1;
    a->content.bytes = CONTENT_BYTES_MAX + 1;
    REFUSED(b, a, ERR_INVALID, "more bytes than a record holds");

    a = sample(b);
    a->routes[1].tiers[0].members[0].model = a->model_count;
    REFUSED(b, a, ERR_INVALID, "names no model");

    a = sample(b);
    a->routes[1].tiers[0].members[0].weight_ppm++;
    REFUSED(b, a, ERR_INVALID, "routes[1] tiers[0] tier: weights do not sum");

    a = sample(b);
    a->routes[0].tier_count = 0;
    REFUSED(b, a, ERR_INVALID, "no tiers");

    a = sample(b);
    a->routes[0].attempts = ATTEMPTS_MAX + 1;
    REFUSED(b, a, ERR_INVALID, "attempts");
    a->routes[0].attempts = 0;
    REFUSED(b, a, ERR_INVALID, "attempts");

    a = sample(b);
    a->providers[0].auth = (enum auth_scheme)9;
    REFUSED(b, a, ERR_INVALID, "providers[0] provider.auth");

    a = sample(b);
    a->models[0].price.input = -1;
    REFUSED(b, a, ERR_INVALID, "negative");
    a->models[0].price.input = 0;
    a->models[0].price.known |= 1u << 30;
    REFUSED(b, a, ERR_INVALID, "not known");
}

static void names_are_held_to_their_limits(void **state)
{
    struct bench *b = *state;
    static char longest[NAME_BYTES_MAX + 1];
    memset(longest, 'z', sizeof(longest));
    struct artifact *a = sample(b);
    a->routes[a->route_count - 1].name = span_of(longest, NAME_BYTES_MAX);
    assert_int_equal(pass_artifact(b, a), OK);
    a->routes[a->route_count - 1].name = span_of(longest, NAME_BYTES_MAX + 1);
    REFUSED(b, a, ERR_INVALID, "too long");
    a->routes[a->route_count - 1].name = SPAN("zz\0z");
    REFUSED(b, a, ERR_INVALID, "a NUL inside");
    a->routes[0].name = SPAN("");
    REFUSED(b, a, ERR_INVALID, "empty");
}

static void too_many_is_too_many_on_both_sides(void **state)
{
    struct bench *b = *state;
    struct artifact *a = sample(b);
    a->routes[0].tier_count = TIERS_MAX + 1;
    assert_int_equal(wire_encode_artifact(a, &b->buf), ERR_TOO_MANY);
    a = sample(b);
    struct tier *tier = &a->routes[0].tiers[0];
    tier->member_count = TIER_MEMBERS_MAX + 1;
    tier->members = ARENA_ARRAY(&b->arena, tier->member_count, struct tier_member);
    assert_int_equal(wire_encode_artifact(a, &b->buf), ERR_TOO_MANY);

    /* Written by somebody else: schema 1, epoch 0, then more overrides than allowed. */
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    assert_int_equal(buf_append(&bytes, SPAN("\x08\x01")), OK);
    for (unsigned i = 0; i <= OVERRIDES_MAX; i++)
        assert_int_equal(buf_append(&bytes, SPAN("\x4a\x03\x12\x01x")), OK);
    struct head *head;
    assert_int_equal(wire_decode_head(&b->arena, buf_span(&bytes), &head, &b->why), ERR_TOO_MANY);
    assert_non_null(strstr(b->why, "head.overrides"));
    buf_truncate(&bytes, bytes.len - 5);
    assert_int_equal(wire_decode_head(&b->arena, buf_span(&bytes), &head, &b->why), OK);
    assert_int_equal(head->override_count, OVERRIDES_MAX);
    buf_release(&bytes);
}

static void a_small_message_cannot_stand_for_gigabytes(void **state)
{
    struct bench *b = *state;
    struct buf bytes = BUF_INIT(ARTIFACT_BYTES_MAX);
    assert_int_equal(buf_append(&bytes, SPAN("\x08\x01")), OK);
    for (unsigned i = 0; i < 2000000; i++)
        assert_int_equal(buf_append(&bytes, SPAN("\x2a\x00")), OK); /* an empty provider */
    struct artifact *a;
    assert_int_equal(wire_decode_artifact(&b->arena, buf_span(&bytes), &a, &b->why), ERR_TOO_LARGE);
    buf_release(&bytes);

    char *huge = calloc(1, HEAD_BYTES_MAX + 1);
    struct head *head;
    assert_int_equal(wire_decode_head(&b->arena, span_of(huge, HEAD_BYTES_MAX + 1), &head, &b->why), ERR_TOO_LARGE);
    free(huge);
}

static void unknown_fields_are_ignored(void **state)
{
    struct bench *b = *state;
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        buf_clear(&b->buf);
        void *back = NULL;
        assert_int_equal(messages[i].encode(messages[i].sample(&b->arena, &b->prng), &b->buf), OK);
        assert_int_equal(buf_append(&b->buf, SPAN("\xfa\x3e\x03"
                                                  "abc")),
                         OK); /* field 1007, three bytes */
        assert_int_equal(messages[i].decode(&b->arena, buf_span(&b->buf), &back, &b->why), OK);
    }
}

/* A head in which everything is there: two arms, two assignments of two ranges each, two shadows. */
struct head_parts {
    struct arm arms[2];
    struct bucket_range ranges[2][2];
    struct span routes[2][2];
    struct assignment assignments[2];
    struct shadow shadows[2];
    struct head head;
};

static struct head *fill_head(struct head_parts *p)
{
    *p = (struct head_parts){
        .arms = { { .name = SPAN("stable") }, { .name = SPAN("canary") } },
        .ranges = { { { 1, 0, 100 }, { 1, 100, 9900 } }, { { 1, 9999, 1 } } },
        .routes = { { SPAN("bulk"), SPAN("chat") }, { SPAN("private") } },
        .shadows = { { .id = SPAN("shadow-3"), .arm = 1, .share_ppm = 1000000 }, { .id = SPAN("shadow-4") } },
    };
    p->assignments[0] = (struct assignment){ .id = SPAN("rollout-1"),
                                             .routes = { .items = p->routes[0], .count = 2 },
                                             .ranges = p->ranges[0],
                                             .range_count = 2 };
    p->assignments[1] = (struct assignment){ .id = SPAN("rollout-2"),
                                             .unit = UNIT_HEADER,
                                             .header = SPAN("x-tenant"),
                                             .routes = { .items = p->routes[1], .count = 1 },
                                             .ranges = p->ranges[1],
                                             .range_count = 1 };
    p->head = (struct head){ .arms = p->arms,
                             .arm_count = 2,
                             .assignments = p->assignments,
                             .assignment_count = 2,
                             .shadows = p->shadows,
                             .shadow_count = 2 };
    return &p->head;
}

static enum err pass_head(struct bench *b, const struct head *head, struct head **ret)
{
    buf_clear(&b->buf);
    b->why = "";
    assert_int_equal(wire_encode_head(head, &b->buf), OK);
    return wire_decode_head(&b->arena, buf_span(&b->buf), ret, &b->why);
}

#define HEAD_REFUSED(b, p, text)                                                                                       \
    do {                                                                                                               \
        struct head *refused_;                                                                                         \
        assert_int_equal(pass_head((b), &(p)->head, &refused_), ERR_INVALID);                                          \
        if (!strstr((b)->why, (text)))                                                                                 \
            fail_msg("'%s' lacks '%s'", (b)->why, (text));                                                             \
        (void)fill_head(p);                                                                                            \
    } while (0)

static void a_head_with_a_broken_promise_is_refused(void **state)
{
    struct bench *b = *state;
    struct head_parts p;
    struct head *back;
    assert_int_equal(pass_head(b, fill_head(&p), &back), OK);
    assert_int_equal(back->requires, FEATURE_ARMS);

    p.ranges[0][1] = (struct bucket_range){ 1, 100, 9901 };
    HEAD_REFUSED(b, &p, "outside the buckets");
    p.ranges[0][1] = (struct bucket_range){ 1, UINT32_MAX, 2 };
    HEAD_REFUSED(b, &p, "outside the buckets");
    p.ranges[0][1] = (struct bucket_range){ 1, 10000, 1 };
    HEAD_REFUSED(b, &p, "outside the buckets");
    p.ranges[0][1].count = 0;
    HEAD_REFUSED(b, &p, "outside the buckets");
    p.ranges[0][1].first = 99;
    HEAD_REFUSED(b, &p, "overlap");
    p.ranges[1][0].arm = 2;
    HEAD_REFUSED(b, &p, "names no arm");
    p.ranges[1][0].arm = 0;
    HEAD_REFUSED(b, &p, "names no arm");
    p.shadows[1].arm = 2;
    HEAD_REFUSED(b, &p, "a shadow names no arm");
    p.shadows[0].share_ppm++;
    HEAD_REFUSED(b, &p, "more than everything");
    p.shadows[0].budget_nano = -1;
    HEAD_REFUSED(b, &p, "negative");
    p.arms[1].name = SPAN("stable");
    HEAD_REFUSED(b, &p, "two arms");
    p.shadows[1].id = SPAN("rollout-1");
    HEAD_REFUSED(b, &p, "of one id");
    p.assignments[1].id = SPAN("rollout-1");
    HEAD_REFUSED(b, &p, "of one id");
    p.routes[1][0] = SPAN("chat");
    HEAD_REFUSED(b, &p, "a route in two");
    p.routes[0][1] = SPAN("bulk");
    HEAD_REFUSED(b, &p, "not sorted");
    p.assignments[1].routes.count = 0;
    HEAD_REFUSED(b, &p, "not the only one");
    p.assignments[0].header = SPAN("x-tenant");
    HEAD_REFUSED(b, &p, "no unit is taken");
    p.assignments[1].header = SPAN("X-Tenant");
    HEAD_REFUSED(b, &p, "lower case");
    p.assignments[1].header = SPAN("");
    HEAD_REFUSED(b, &p, "lower case");
}

/* An older build must not take the head for one without arms: `requires` says so, and nobody can forget it. */
static void arms_ask_for_their_feature(void **state)
{
    struct bench *b = *state;
    struct head_parts p;
    struct head *back;
    struct head *head = fill_head(&p);
    head->assignment_count = head->shadow_count = 0;
    assert_int_equal(pass_head(b, head, &back), OK);
    assert_int_equal(back->requires, FEATURE_ARMS);
    head->arm_count = 1;
    head->requires = FEATURE_ARMS; /* left over from a head that needed it */
    assert_int_equal(pass_head(b, head, &back), OK);
    assert_int_equal(back->requires, 0);
    head->shadow_count = 1;
    p.shadows[0].arm = 0;
    assert_int_equal(pass_head(b, head, &back), OK);
    assert_int_equal(back->requires, FEATURE_ARMS);
    head->arm_count = head->shadow_count = 0; /* before the first push */
    assert_int_equal(pass_head(b, head, &back), OK);

    /* Written by somebody else: schema 1, one shadow, and no feature asked for. */
    static const char bytes[] = "\x08\x01\x42\x25\x0a\x01s\x1a\x20"
                                "01234567890123456789012345678901"
                                "\x5a\x03\x0a\x01x";
    assert_int_equal(wire_decode_head(&b->arena, span_of(bytes, sizeof bytes - 1), &back, &b->why), ERR_INVALID);
    assert_non_null(strstr(b->why, "without the feature"));
}

static void evidence_with_a_broken_promise_is_refused(void **state)
{
    struct bench *b = *state;
    struct evidence *e = wire_sample_evidence(&b->arena, &b->prng), *back;
    e->weights[0].weights_ppm[0]++;
    assert_int_equal(wire_encode_evidence(e, &b->buf), OK);
    assert_int_equal(wire_decode_evidence(&b->arena, buf_span(&b->buf), &back, &b->why), ERR_INVALID);
    assert_non_null(strstr(b->why, "weights[0] weights: weights do not sum"));
    buf_clear(&b->buf);
    e = wire_sample_evidence(&b->arena, &b->prng);
    e->models[1].name = e->models[0].name;
    assert_int_equal(wire_encode_evidence(e, &b->buf), OK);
    assert_int_equal(wire_decode_evidence(&b->arena, buf_span(&b->buf), &back, &b->why), ERR_INVALID);
}

static void a_delta_makes_sense(void **state)
{
    struct bench *b = *state;
    struct directory_delta wrong[] = {
        { .from_seq = 5, .to_seq = 4 },
        { .from_seq = 5, .to_seq = 6, .full = true },
        { .to_seq = 6, .more = true },
        { .to_seq = 6, .teams = { .items = &(struct team){ .name = SPAN("hr") }, .count = 1 } },
    };
    struct directory_delta *back, right = { .from_seq = 5, .to_seq = 6 };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        buf_clear(&b->buf);
        assert_int_equal(wire_encode_directory_delta(&wrong[i], &b->buf), OK);
        assert_int_equal(wire_decode_directory_delta(&b->arena, buf_span(&b->buf), &back, &b->why), ERR_INVALID);
    }
    buf_clear(&b->buf);
    assert_int_equal(wire_encode_directory_delta(&right, &b->buf), OK);
    assert_int_equal(wire_decode_directory_delta(&b->arena, buf_span(&b->buf), &back, &b->why), OK);
}

static void a_full_buffer_is_an_ordinary_answer(void **state)
{
    struct bench *b = *state;
    struct buf tiny = BUF_INIT(10);
    assert_int_equal(wire_encode_artifact(sample(b), &tiny), ERR_FULL);
    assert_int_equal(tiny.len, 0);
    buf_release(&tiny);
}

static void an_object_is_checked_before_it_is_read(void **state)
{
    (void)state;
    char bytes[] = "some bytes";
    struct object object = wire_object(OBJECT_HEAD, 3, span_of(bytes, sizeof(bytes)));
    assert_int_equal(object.seq, 3);
    assert_int_equal(wire_check_object(&object), OK);
    bytes[0] ^= 1;
    assert_int_equal(wire_check_object(&object), ERR_CORRUPT);
    bytes[0] ^= 1;
    object.schema = TABLE_SCHEMA + 1;
    assert_int_equal(wire_check_object(&object), ERR_UNSUPPORTED);
    object.schema = TABLE_SCHEMA;
    object.bytes.len = HEAD_BYTES_MAX + 1;
    assert_int_equal(wire_check_object(&object), ERR_TOO_LARGE);
    object.kind = (enum object_kind)77;
    assert_int_equal(wire_check_object(&object), ERR_TOO_LARGE);
}

/* 100,000 routes: the size the limits were chosen for. Ten times the routes may cost some ten times the time. */
static double decode_seconds(struct bench *b, uint32_t routes)
{
    arena_reset(&b->arena);
    struct artifact *a = sample(b), *back;
    struct route first = a->routes[0];
    a->routes = ARENA_ARRAY(&b->arena, routes, struct route);
    a->route_count = routes;
    for (uint32_t i = 0; i < routes; i++) {
        a->routes[i] = first;
        a->routes[i].name = span_cstr(arena_printf(&b->arena, "r%07u", i));
    }
    buf_clear(&b->buf);
    assert_int_equal(wire_encode_artifact(a, &b->buf), OK);
    struct timespec begin, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    assert_int_equal(wire_decode_artifact(&b->arena, buf_span(&b->buf), &back, &b->why), OK);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    assert_int_equal(back->route_count, routes);
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
}

static void a_hundred_thousand_routes_decode_in_linear_time(void **state)
{
    struct bench *b = *state;
    double few = decode_seconds(b, 10000), many = decode_seconds(b, 100000);
    print_message("10,000 routes: %.3f s, 100,000: %.3f s, %zu bytes\n", few, many, b->buf.len);
    assert_true(many < few * 60 + 0.5);
}

/* "proto.wire_test FOLDER" writes seeds for the fuzzers: FOLDER/wire_<message>/1 and so on. */
static int write_seeds(const char *folder)
{
    struct prng prng;
    prng_seed(&prng, 11);
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        char path[4096];
        (void)snprintf(path, sizeof(path), "%s/wire_%s", folder, messages[i].name);
        (void)mkdir(path, 0755);
        for (unsigned seed = 1; seed <= 3; seed++) {
            struct arena arena;
            struct buf out = BUF_INIT(FRAME_BYTES_MAX);
            arena_init(&arena, 64u << 20);
            (void)snprintf(path, sizeof(path), "%s/wire_%s/%u", folder, messages[i].name, seed);
            FILE *file = fopen(path, "wb");
            if (!file || messages[i].encode(messages[i].sample(&arena, &prng), &out) != OK ||
                fwrite(buf_span(&out).ptr, 1, out.len, file) != out.len || fclose(file) != 0)
                return 1;
            buf_release(&out);
            arena_release(&arena);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return write_seeds(argv[1]);
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(every_message_survives_the_round_trip),
        T(damaged_bytes_are_refused_or_harmless),
        T(every_failed_allocation_is_an_error),
        T(an_artifact_knows_its_hash),
        T(an_artifact_from_another_time_is_refused),
        T(an_artifact_with_a_broken_promise_is_refused),
        T(names_are_held_to_their_limits),
        T(too_many_is_too_many_on_both_sides),
        T(a_small_message_cannot_stand_for_gigabytes),
        T(unknown_fields_are_ignored),
        T(a_head_with_a_broken_promise_is_refused),
        T(arms_ask_for_their_feature),
        T(evidence_with_a_broken_promise_is_refused),
        T(a_delta_makes_sense),
        T(a_full_buffer_is_an_ordinary_answer),
        T(an_object_is_checked_before_it_is_read),
        T(a_hundred_thousand_routes_decode_in_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
