#include "dataplane/node/selftest.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/file.h"
#include "dataplane/route/select.h"
#include "dataplane/route/table.h"
#include "proto/wire.h"
#include <sys/resource.h>

#define FRAME_HEAD_BYTES 5u
#define ROUTE_ARENA_MAX  (16u << 20)

enum err selftest_frame(enum object_kind kind, struct span bytes, struct buf *out)
{
    const char head[FRAME_HEAD_BYTES] = { (char)kind, (char)(bytes.len >> 24), (char)(bytes.len >> 16),
                                          (char)(bytes.len >> 8), (char)bytes.len };
    if (bytes.len > UINT32_MAX)
        return ERR_TOO_LARGE;
    if (buf_room(out) < sizeof(head) + bytes.len)
        return ERR_FULL;
    enum err err = buf_append(out, span_of(head, sizeof(head)));
    return err ? err : buf_append(out, bytes);
}

struct objects {
    struct span head, evidence, teams;
    struct span artifacts[ARTIFACTS_KEPT];
    uint32_t artifact_count;
};

static enum err take_frame(struct span *frames, struct objects *objects)
{
    const unsigned char *p = (const unsigned char *)frames->ptr;
    if (frames->len < FRAME_HEAD_BYTES)
        return ERR_SYNTAX;
    const size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (len > frames->len - FRAME_HEAD_BYTES)
        return ERR_SYNTAX;
    const struct span bytes = span_of(frames->ptr + FRAME_HEAD_BYTES, len);
    switch (p[0]) {
    case OBJECT_HEAD:
        objects->head = bytes;
        break;
    case OBJECT_EVIDENCE:
        objects->evidence = bytes;
        break;
    case OBJECT_DIRECTORY:
        objects->teams = bytes;
        break;
    case OBJECT_ARTIFACT:
        if (objects->artifact_count == ARRAY_LEN(objects->artifacts))
            return ERR_TOO_MANY;
        objects->artifacts[objects->artifact_count++] = bytes;
        break;
    default:
        return ERR_SYNTAX;
    }
    *frames = span_skip(*frames, FRAME_HEAD_BYTES + len);
    return OK;
}

static uint32_t no_label(UNUSED void *user, UNUSED unsigned kind, UNUSED struct span name)
{
    return 0;
}

static void all_is_well(UNUSED void *user, UNUSED uint32_t model, struct select_live *ret)
{
    *ret = (struct select_live){ .breaker = 0 };
}

/* That no model can serve is an operator's choice (all drained), not a fault of the table. */
static enum err decide(const struct table *table, const struct arm_view *arm, uint32_t route, struct prng *prng)
{
    struct arena arena;
    struct plan plan;
    const struct ask ask = { .endpoint = ENDPOINT_CHAT };
    const int64_t wall_ms = clock_wall_ms();
    const struct select_input input = { .arm = arm,
                                        .target = { .route = &arm->compiled->artifact->routes[route] },
                                        .ask = &ask,
                                        .evidence_valid = table_evidence_valid(table, wall_ms),
                                        .wall_ms = wall_ms,
                                        .now_ms = clock_ms(),
                                        .source = { .live = all_is_well } };
    arena_init(&arena, ROUTE_ARENA_MAX);
    enum err err = select_plan(&arena, &input, prng, &plan);
    if (err == OK && (plan.count == 0 || plan.count > ATTEMPTS_MAX))
        err = ERR_INVALID;
    arena_release(&arena);
    return err == ERR_NO_CANDIDATE ? OK : err;
}

static enum err decide_some(const struct table *table)
{
    struct prng prng;
    enum err err = OK;
    prng_seed(&prng, 1);
    for (uint32_t i = 0; i < table->head->arm_count && !err; i++) {
        const struct arm_view *arm = &table->arms[i];
        const uint32_t count = arm->compiled->artifact->route_count;
        const uint32_t step = count / SELFTEST_ROUTES_MAX + 1; /* spread over all of them */
        for (uint32_t route = 0; route < count && !err; route += step)
            err = decide(table, arm, route, &prng);
    }
    return err;
}

static enum err compile_arms(const struct objects *objects, const struct head *head, struct compiled **compiled,
                             const char **ret_why)
{
    const struct table_labels labels = { .find = no_label };
    for (uint32_t i = 0; i < head->arm_count; i++) {
        enum err err = ERR_NOT_FOUND;
        for (uint32_t k = 0; k < objects->artifact_count && err == ERR_NOT_FOUND; k++) {
            const struct sha256 hash = sha256_of(objects->artifacts[k]);
            if (sha256_eq(&hash, &head->arms[i].artifact))
                err = compiled_new(objects->artifacts[k], &labels, &compiled[i], ret_why);
        }
        if (err)
            return err;
    }
    return OK;
}

static enum err build_and_decide(const struct objects *objects, const struct head *head, const char **ret_why)
{
    const struct table_labels labels = { .find = no_label };
    const struct table_version version = { .epoch = head->epoch, .generation = head->generation };
    struct compiled *compiled[ARTIFACTS_KEPT] = { NULL };
    struct teams_view *teams = NULL;
    struct table *table = NULL;
    struct buf none = BUF_INIT(4096);
    struct span teams_bytes = objects->teams;
    enum err err = compile_arms(objects, head, compiled, ret_why);
    if (!err && span_empty(teams_bytes)) {
        err = wire_encode_teams(&(struct teams){ .epoch = 0 }, &none);
        teams_bytes = buf_span(&none);
    }
    if (!err)
        err = teams_view_new(teams_bytes, &labels, &teams, ret_why);
    if (!err)
        err = table_new(objects->head, objects->evidence, compiled, head->arm_count, teams, &version, &table, ret_why);
    if (!err) {
        err = decide_some(table);
        if (err)
            *ret_why = "a route's decision failed";
    }
    table_unref(table);
    if (teams)
        teams_view_unref(teams);
    for (size_t i = 0; i < ARRAY_LEN(compiled); i++) {
        if (compiled[i])
            compiled_unref(compiled[i]);
    }
    buf_release(&none);
    return err;
}

enum err selftest_judge(struct span frames, const char **ret_why)
{
    static char text[256];
    struct objects objects = { .artifact_count = 0 };
    struct arena arena;
    struct head *head = NULL;
    const char *why = NULL;
    enum err err = OK;
    arena_init(&arena, SELFTEST_BYTES_MAX);
    while (!err && frames.len > 0)
        err = take_frame(&frames, &objects);
    if (!err && !objects.head.ptr)
        err = ERR_SYNTAX;
    if (!err)
        err = wire_decode_head(&arena, objects.head, &head, &why);
    if (!err && head->arm_count > ARTIFACTS_KEPT)
        err = ERR_TOO_MANY;
    if (!err)
        err = build_and_decide(&objects, head, &why);
    (void)snprintf(text, sizeof(text), "%s%s%s", err_name(err), why ? ": " : "", why ? why : "");
    if (ret_why)
        *ret_why = text;
    arena_release(&arena);
    return err;
}

int selftest_main(void)
{
    const struct rlimit cpu = { .rlim_cur = 2 * SELFTEST_TIMEOUT_MS / 1000,
                                .rlim_max = 2 * SELFTEST_TIMEOUT_MS / 1000 };
    const struct rlimit core = { .rlim_cur = 0, .rlim_max = 0 };
    struct buf frames = BUF_INIT(SELFTEST_BYTES_MAX);
    const char *why = "";
    (void)setrlimit(RLIMIT_CPU, &cpu); /* should the master die before it ends us */
    (void)setrlimit(RLIMIT_CORE, &core);
    enum err err = file_read("-", SELFTEST_BYTES_MAX, &frames);
    if (err)
        why = err_name(err);
    else
        err = selftest_judge(buf_span(&frames), &why);
    if (err)
        printf("%s\n", why);
    buf_release(&frames);
    return err ? 1 : 0;
}
