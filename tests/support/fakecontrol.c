/* fakecontrol - a control plane that says what it is told to, however wrong: it answers a node's fetches with good and bad
 * tables. Standard input: one line for each answer, "CASE GENERATION", given once, to the next poll. Standard output: one
 * JSON line for each fetch whose contents differ from the one before (what the node has, serves and refuses).
 *
 * The good table of generation N has one provider on --port, one model that is asked for "m-N", one route "chat", one team
 * and the key --key. Every other case is that table with one thing wrong. */
#include "common/arena.h"
#include "common/json.h"
#include "common/opts.h"
#include "proto/channel.h"
#include "proto/wire.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define HELD_MAX  16u
#define ARENA_MAX ((size_t)512 << 20)
#define LINE_MAX  256

static const struct opt options[] = {
    { "address", 0, OPT_TEXT, "ADDRESS", "where nodes fetch, e.g. ipc:///home/run/fetch.ipc" },
    { "port", 0, OPT_TEXT, "PORT", "where the provider listens on 127.0.0.1" },
    { "key", 0, OPT_TEXT, "TEXT", "the client key that is let in" },
};

struct fake {
    struct channel_server *server;
    struct channel_call *held[HELD_MAX];
    unsigned held_count;
    int woken; /* eventfd */
    uint16_t port;
    const char *key;
    struct buf next; /* the answer to give, when has_next */
    bool has_next;
    struct buf told; /* the last line printed */
};

/* One table, to be spoilt before and after it is encoded. */
struct tables {
    struct provider provider;
    struct model model;
    struct tier_member member;
    struct route route;
    struct artifact artifact;
    struct arm arm;
    struct bucket_range range;
    struct assignment assignment;
    struct head head;
    struct span any[1], any_model[1];
    struct team team;
    struct key_record key;
    struct directory_delta delta;
    struct evidence evidence;
    struct buf artifact_bytes, head_bytes, delta_bytes, evidence_bytes;
    char url[64], sends[32];
};

static void must(enum err err, const char *what)
{
    if (err) {
        fprintf(stderr, "fakecontrol: %s: %s\n", what, err_name(err));
        exit(1);
    }
}

static void fill(const struct fake *f, struct tables *t, uint64_t generation)
{
    *t = (struct tables){ .any = { SPAN("*") }, .any_model = { SPAN("*/*") } };
    (void)snprintf(t->url, sizeof(t->url), "http://127.0.0.1:%u/v1", f->port);
    (void)snprintf(t->sends, sizeof(t->sends), "m-%llu", (unsigned long long)generation);
    t->provider = (struct provider){ .name = SPAN("fake"),
                                     .base_url = span_cstr(t->url),
                                     .host = SPAN("127.0.0.1"),
                                     .port = f->port,
                                     .path = SPAN("/v1"),
                                     .auth = AUTH_SCHEME_NONE,
                                     .stream_usage = true,
                                     .probe = PROBE_HOW_NONE,
                                     .probe_every_ms = 1000 };
    t->model = (struct model){ .name = SPAN("fake/small"),
                               .sends = span_cstr(t->sends),
                               .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 1000000000, .output = 1 },
                               .price_source = PRICE_SOURCE_POLICY,
                               .capabilities = CAP_CHAT | CAP_STREAM,
                               .timeouts = {
                                   .connect_ms = 3000, .first_token_ms = 20000, .idle_ms = 30000, .hold_ms = 10000 } };
    t->member = (struct tier_member){ .weight_ppm = 1000000 };
    t->route = (struct route){ .name = SPAN("chat"),
                               .tiers = { { .prefer = PREFER_WEIGHTS, .members = &t->member, .member_count = 1 } },
                               .tier_count = 1,
                               .attempts = 1 };
    t->artifact = (struct artifact){ .schema = TABLE_SCHEMA,
                                     .policy_version = (uint32_t)generation,
                                     .providers = &t->provider,
                                     .provider_count = 1,
                                     .models = &t->model,
                                     .model_count = 1,
                                     .routes = &t->route,
                                     .route_count = 1 };
    t->arm = (struct arm){ .name = SPAN("stable"), .policy_version = (uint32_t)generation };
    t->head = (struct head){ .epoch = 1,
                             .generation = generation,
                             .why = SPAN("test"),
                             .by = SPAN("fakecontrol"),
                             .arms = &t->arm,
                             .arm_count = 1,
                             .assignments = &t->assignment };
    t->range = (struct bucket_range){ .arm = 1, .first = ASSIGNMENT_BUCKETS - 1, .count = 2 };
    t->assignment = (struct assignment){ .id = SPAN("too-much"), .ranges = &t->range, .range_count = 1 };
    t->team = (struct team){ .name = SPAN("t"),
                             .routes = { .items = t->any, .count = 1 },
                             .models = { .items = t->any_model, .count = 1 } };
    t->key = (struct key_record){ .hash = sha256_of(span_cstr(f->key)), .id = SPAN("key_test"), .team = SPAN("t") };
    t->delta = (struct directory_delta){ .epoch = 1,
                                         .to_seq = generation,
                                         .full = true,
                                         .has_teams = true,
                                         .teams = { .epoch = 1, .seq = generation, .items = &t->team, .count = 1 },
                                         .keys = &t->key,
                                         .key_count = 1 };
    t->evidence = (struct evidence){ .epoch = 1, .seq = generation, .made_at_ms = 1, .expires_at_ms = INT64_MAX };
    buf_init(&t->artifact_bytes, FRAME_BYTES_MAX);
    buf_init(&t->head_bytes, FRAME_BYTES_MAX);
    buf_init(&t->delta_bytes, FRAME_BYTES_MAX);
    buf_init(&t->evidence_bytes, FRAME_BYTES_MAX);
}

static bool is(const char *kase, const char *name)
{
    return strcmp(kase, name) == 0;
}

/* What can be wrong in a table that is well encoded. */
static void spoil_tables(struct tables *t, const char *kase)
{
    if (is(kase, "feature"))
    t->head.requires = 1ull << 40;
    if (is(kase, "artifact-feature"))
    t->artifact.requires = 1ull << 40;
    if (is(kase, "artifact-schema"))
        t->artifact.schema = TABLE_SCHEMA + 98;
    if (is(kase, "epoch"))
        t->head.epoch = 7;
    if (is(kase, "weights"))
        t->member.weight_ppm = 999999;
    if (is(kase, "index"))
        t->member.model = 5;
    if (is(kase, "share"))
        t->head.assignment_count = 1;
}

/* What can be wrong with bytes: all three kinds of object can be cut, made too large, emptied or garbled. */
static void spoil_bytes(struct buf *bytes, const char *how, size_t limit)
{
    static const char zeros[4096];
    if (is(how, "truncated"))
        buf_truncate(bytes, bytes->len / 2);
    else if (is(how, "empty"))
        buf_clear(bytes);
    else if (is(how, "corrupt"))
        memset(bytes->data + bytes->start, 0xff, bytes->len);
    else if (is(how, "oversized"))
        while (bytes->len <= limit)
            must(buf_append(bytes, span_of(zeros, sizeof(zeros))), "oversized");
}

/* kase is "KIND-HOW" for objects whose bytes are wrong. */
static const char *how_of(const char *kase, const char *kind)
{
    const size_t len = strlen(kind);
    return strncmp(kase, kind, len) == 0 && kase[len] == '-' ? kase + len + 1 : "";
}

static void spoil_object(struct object *object, const char *how)
{
    if (is(how, "hash"))
        object->hash.bytes[0] ^= 1;
    if (is(how, "schema"))
        object->schema = TABLE_SCHEMA + 98;
    if (is(how, "number"))
        object->seq++;
}

static void make(struct fake *f, const char *kase, uint64_t generation)
{
    struct tables t;
    struct object objects[4];
    struct fetch_reply reply = { .protocol = LINK_PROTOCOL, .objects = objects };
    buf_clear(&f->next);
    f->has_next = true;
    if (is(kase, "nothing"))
        return;
    if (is(kase, "garbage") || is(kase, "garbage-huge")) {
        const size_t len = is(kase, "garbage") ? 4096 : FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES;
        char *at;
        must(buf_reserve(&f->next, len, &at), "garbage");
        memset(at, 0xa5, len);
        buf_commit(&f->next, len);
        return;
    }
    fill(f, &t, generation);
    spoil_tables(&t, kase);
    must(wire_encode_artifact(&t.artifact, &t.artifact_bytes), "artifact");
    spoil_bytes(&t.artifact_bytes, how_of(kase, "artifact"), ARTIFACT_BYTES_MAX);
    const struct object artifact = wire_object(OBJECT_ARTIFACT, 0, buf_span(&t.artifact_bytes));
    t.arm.artifact = artifact.hash;
    must(wire_encode_head(&t.head, &t.head_bytes), "head");
    spoil_bytes(&t.head_bytes, how_of(kase, "head"), HEAD_BYTES_MAX);
    must(wire_encode_evidence(&t.evidence, &t.evidence_bytes), "evidence");
    spoil_bytes(&t.evidence_bytes, how_of(kase, "evidence"), EVIDENCE_BYTES_MAX);
    must(wire_encode_directory_delta(&t.delta, &t.delta_bytes), "directory");
    spoil_bytes(&t.delta_bytes, how_of(kase, "directory"), DIRECTORY_DELTA_BYTES_MAX);
    if (!is(kase, "missing-artifact")) {
        objects[reply.object_count] = artifact;
        spoil_object(&objects[reply.object_count++], how_of(kase, "artifact"));
    }
    objects[reply.object_count] = wire_object(OBJECT_HEAD, generation, buf_span(&t.head_bytes));
    spoil_object(&objects[reply.object_count++], how_of(kase, "head"));
    if (is(kase, "good") || how_of(kase, "evidence")[0]) {
        objects[reply.object_count] = wire_object(OBJECT_EVIDENCE, generation, buf_span(&t.evidence_bytes));
        spoil_object(&objects[reply.object_count++], how_of(kase, "evidence"));
    }
    if (is(kase, "good") || how_of(kase, "directory")[0]) {
        objects[reply.object_count] = wire_object(OBJECT_DIRECTORY, generation, buf_span(&t.delta_bytes));
        spoil_object(&objects[reply.object_count++], how_of(kase, "directory"));
    }
    must(wire_encode_fetch_reply(&reply, &f->next), "reply");
    buf_release(&t.artifact_bytes);
    buf_release(&t.head_bytes);
    buf_release(&t.delta_bytes);
    buf_release(&t.evidence_bytes);
}

/* ---- the link ---- */

static void answer_nothing(struct channel_call *call)
{
    const struct fetch_reply nothing = { .protocol = LINK_PROTOCOL };
    struct buf out = BUF_INIT(4096);
    must(wire_encode_fetch_reply(&nothing, &out), "reply");
    channel_reply(call, buf_span(&out));
    buf_release(&out);
}

static void version(struct json_writer *w, const char *key, const struct table_version *v)
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    json_member_u64(w, "epoch", v->epoch);
    json_member_u64(w, "generation", v->generation);
    json_member_u64(w, "evidence", v->evidence_seq);
    json_member_u64(w, "directory", v->directory_seq);
    json_object_close(w);
}

static void tell(struct fake *f, const struct fetch_request *request)
{
    static const char *const kinds[] = { "?", "head", "artifact", "evidence", "directory" };
    struct buf line = BUF_INIT(1u << 20);
    struct json_writer w;
    json_writer_init(&w, &line);
    json_object_open(&w);
    version(&w, "committed", &request->committed);
    version(&w, "serving", &request->serving);
    json_key(&w, SPAN("nacks"));
    json_array_open(&w);
    for (uint32_t i = 0; i < request->nack_count; i++) {
        const struct nack *nack = &request->nacks[i];
        json_object_open(&w);
        json_member_cstr(&w, "kind", kinds[nack->kind < ARRAY_LEN(kinds) ? nack->kind : 0]);
        json_member_u64(&w, "epoch", nack->epoch);
        json_member_u64(&w, "seq", nack->seq);
        json_member_string(&w, "reason", nack->reason);
        json_object_close(&w);
    }
    json_array_close(&w);
    json_object_close(&w);
    must(json_writer_end(&w), "line");
    if (!span_eq(buf_span(&line), buf_span(&f->told))) {
        printf(SPAN_FMT "\n", SPAN_ARG(buf_span(&line)));
        (void)fflush(stdout);
        buf_clear(&f->told);
        must(buf_append(&f->told, buf_span(&line)), "line");
    }
    buf_release(&line);
}

/* The newest poll gets the answer; older ones are of connections that are gone. */
static void give(struct fake *f)
{
    if (!f->has_next || f->held_count == 0)
        return;
    f->has_next = false;
    for (unsigned i = 0; i + 1 < f->held_count; i++)
        answer_nothing(f->held[i]);
    channel_reply(f->held[f->held_count - 1], buf_span(&f->next));
    f->held_count = 0;
}

static void on_fetch(void *user, struct channel_call *call, struct span bytes, UNUSED const struct channel_peer *peer)
{
    struct fake *f = user;
    struct arena arena;
    struct fetch_request *request;
    arena_init(&arena, ARENA_MAX);
    must(wire_decode_fetch_request(&arena, bytes, &request), "a fetch that cannot be read");
    tell(f, request);
    if (request->wait_ms == 0 || f->held_count == HELD_MAX)
        answer_nothing(call);
    else
        f->held[f->held_count++] = call;
    arena_release(&arena);
    give(f);
}

static void wake(void *user)
{
    const struct fake *f = user;
    const uint64_t one = 1;
    ssize_t n;
    do
        n = write(f->woken, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
}

static void on_term(UNUSED int number)
{
    _exit(0);
}

static void run(struct fake *f)
{
    char line[LINE_MAX], kase[LINE_MAX];
    unsigned long long generation;
    struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = f->woken, .events = POLLIN } };
    setvbuf(stdin, NULL, _IONBF, 0);
    while (poll(fds, ARRAY_LEN(fds), -1) > 0) {
        uint64_t count;
        if (fds[1].revents && read(f->woken, &count, sizeof(count)) > 0)
            channel_server_dispatch(f->server);
        if (!fds[0].revents)
            continue;
        if (!fgets(line, sizeof(line), stdin))
            return;
        if (sscanf(line, "%255s %llu", kase, &generation) != 2)
            must(ERR_INVALID, line);
        make(f, kase, generation);
        give(f);
    }
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL;
    uint64_t port = 0;
    struct fake f = { .woken = eventfd(0, EFD_CLOEXEC) };
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) ||
        span_to_u64(span_cstr(opts_text(&given, "port", "")), &port) || port > UINT16_MAX) {
        fprintf(stderr, "fakecontrol: %s\n", message ? message : "--address ADDRESS --port PORT --key TEXT");
        free(message);
        return 2;
    }
    f.port = (uint16_t)port;
    f.key = opts_text(&given, "key", "");
    buf_init(&f.next, FRAME_BYTES_MAX);
    buf_init(&f.told, 1u << 20);
    const struct channel_server_options server = { .address = opts_text(&given, "address", ""),
                                                   .parallel = HELD_MAX + 4,
                                                   .handler = on_fetch,
                                                   .user = &f,
                                                   .wake = wake,
                                                   .wake_user = &f };
    must(channel_server_open(&server, &f.server), "the address");
    (void)signal(SIGTERM, on_term);
    puts("listening");
    (void)fflush(stdout);
    run(&f);
    _exit(0);
}
