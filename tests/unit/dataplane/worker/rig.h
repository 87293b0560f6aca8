/* rig.h - a worker's inside on a real loop, with real client sockets, a table from a real store, and a lane that the
 * test plays by hand.
 *
 * Two providers, a and b, each with model m; route "chat" tries a/m, then b/m, then c/m. Included by one test program
 * each. */
#pragma once
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/upstream/lane.h"
#include "dataplane/worker/core.h"
#include "dataplane/worker/listener.h"
#include "proto/wire.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define RIG_TRIES          64
#define RIG_CLIENTS        8
#define RIG_LISTENERS_MORE 4

/* ---- the lane that is played by hand ---- */

struct
try {
    struct upstream base;
    struct upstream_events events;
    void *user;
    char model[64], path[128], authorization[128], body[4096];
    struct span secret; /* where the authorization stood: in the exchange's memory */
    bool live, cancelled;
    int paused;
    unsigned pauses;
    enum upstream_phase phase;
    bool keeps_body;
};
struct fake_lane {
    struct upstream_lane base;
    struct try tries[RIG_TRIES];
    unsigned count;
    enum err refuse; /* what the next start answers */
};

static enum err fake_start(struct upstream_lane *lane, const struct upstream_request *request,
                           const struct upstream_events *events, void *user, struct upstream **ret)
{
    struct fake_lane *fake = (struct fake_lane *)(void *)lane;
    if (fake->refuse) {
        enum err err = fake->refuse;
        fake->refuse = OK;
        return err;
    }
    assert_true(fake->count < RIG_TRIES);
    struct try *t = &fake->tries[fake->count++];
    *t = (struct try){ .base.lane = lane, .events = *events, .user = user, .live = true, .phase = UPSTREAM_SENT };
    snprintf(t->path, sizeof(t->path), SPAN_FMT, SPAN_ARG(request->path));
    snprintf(t->model, sizeof(t->model), SPAN_FMT, SPAN_ARG(request->provider->name));
    for (unsigned i = 0; i < request->header_count; i++)
        if (span_eq(request->headers[i].name, SPAN("authorization"))) {
            t->secret = request->headers[i].value;
            snprintf(t->authorization, sizeof(t->authorization), SPAN_FMT, SPAN_ARG(t->secret));
        }
    size_t at = 0;
    for (unsigned i = 0; i < request->body_part_count; i++) {
        struct span part = span_head(request->body_parts[i], sizeof(t->body) - 1 - at);
        memcpy(t->body + at, part.ptr, part.len);
        at += part.len;
    }
    *ret = &t->base;
    return OK;
}
static void fake_pause(struct upstream *up)
{
    ((struct try *)(void *)up)->paused = 1;
    ((struct try *)(void *)up)->pauses++;
}
static void fake_resume(struct upstream *up)
{
    ((struct try *)(void *)up)->paused = 0;
}
static void fake_cancel(struct upstream *up)
{
    struct try *t = (struct try *)(void *)up;
    assert_true(t->live);
    t->live = false;
    t->cancelled = true;
}
static enum upstream_phase fake_phase(const struct upstream *up)
{
    return ((const struct try *)(const void *)up)->phase;
}
static size_t fake_buffered(const struct upstream *up)
{
    (void)up;
    return 0;
}
static bool fake_release_body(struct upstream *up)
{
    return !((struct try *)(void *)up)->keeps_body;
}
static void fake_stats(const struct upstream_lane *lane, struct upstream_lane_stats *ret)
{
    (void)lane;
    *ret = (struct upstream_lane_stats){ .active = 0 };
}
static void fake_close(struct upstream_lane *lane)
{
    (void)lane;
}
static const struct upstream_ops fake_ops = { .start = fake_start,
                                              .pause = fake_pause,
                                              .resume = fake_resume,
                                              .cancel = fake_cancel,
                                              .phase = fake_phase,
                                              .buffered = fake_buffered,
                                              .release_body = fake_release_body,
                                              .stats = fake_stats,
                                              .close = fake_close };

UNUSED static void try_head(struct try *t, unsigned status, const char *type, const char *name, const char *value)
{
    struct upstream_header headers[] = { { SPAN("content-type"), span_cstr(type) },
                                         { SPAN("set-cookie"), SPAN("secret=1") },
                                         { span_cstr(name), span_cstr(value) } };
    t->phase = UPSTREAM_HEAD;
    t->events.head(t->user,
                   &(struct upstream_head){ .status = status, .headers = headers, .header_count = name ? 3 : 2 });
}
UNUSED static void try_body(struct try *t, const char *text)
{
    t->phase = UPSTREAM_BODY;
    /* a copy that dies on return, as a lane's read buffer does */
    char *copy = strdup(text);
    assert_non_null(copy);
    t->events.body(t->user, span_cstr(copy));
    free(copy);
}
UNUSED static void try_done(struct try *t, enum err err)
{
    t->live = false;
    t->events.done(t->user, &(struct upstream_result){ .err = err, .phase = t->phase, .why = "scripted" });
}

/* ---- the worker ---- */

struct client {
    int fd;
    struct buf in;
    bool eof;
    bool deaf; /* does not read */
};
struct rig {
    uv_loop_t loop;
    struct node_config config;
    struct core core;
    struct listener listener;
    struct listener_config listen[1 + RIG_LISTENERS_MORE]; /* all-zero: plaintext, HTTP/1 */
    int more[RIG_LISTENERS_MORE];                          /* descriptors of further listeners; 0: no more */
    struct fake_lane lane;
    struct board *board;
    struct tablestore *store;
    char dir[64], board_path[80], store_path[80], key[64];
    int port;
    bool emptied;
    unsigned serving, bad;
    struct client clients[RIG_CLIENTS];
    unsigned client_count;
    uint64_t generation;
    uint32_t hold_ms, first_ms, idle_ms, deadline_ms, attempts;
    int64_t max_cost_nano;
    int upstream_port;                                           /* of a real provider; 0: none is called */
    bool opens_all;                                              /* the team may use every route and model */
    void (*arrange)(struct rig *rig, struct artifact *artifact); /* changes what rig_publish publishes */
    void (*arrange_head)(struct rig *rig, struct head *head);    /* the same for its head */
    uint32_t team_may;                                           /* enum team_may bits */
    struct credentials *credentials;                             /* set before rig_start: provider a then wants one */
};

UNUSED static void rig_serving(void *user, const struct table_version *version)
{
    (void)version;
    ((struct rig *)user)->serving++;
}
UNUSED static void rig_bad(void *user, const struct table_version *version, const char *why)
{
    (void)version;
    (void)why;
    ((struct rig *)user)->bad++;
}
UNUSED static void rig_emptied(void *user)
{
    ((struct rig *)user)->emptied = true;
}

/* A head with one arm that serves a freshly compiled policy; its version is the generation. */
UNUSED static void rig_publish(struct rig *rig)
{
    struct span names[] = { SPAN("cred-1"), SPAN("cred-2") };
    struct provider providers[3];
    struct model models[3];
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/v1", rig->upstream_port ? rig->upstream_port : 80);
    const char *const letters[] = { "a", "b", "c" };
    const char *const names_of[] = { "a/m", "b/m", "c/m" };
    for (unsigned i = 0; i < 3; i++) {
        providers[i] = (struct provider){ .name = span_cstr(letters[i]),
                                          .base_url = span_cstr(url),
                                          .host = rig->upstream_port ? SPAN("127.0.0.1") : SPAN("localhost"),
                                          .port = (uint16_t)(rig->upstream_port ? rig->upstream_port : 80),
                                          .path = SPAN("/v1"),
                                          .stream_usage = true,
                                          .auth = AUTH_SCHEME_NONE };
        models[i] = (struct model){ .name = span_cstr(names_of[i]),
                                    .provider = i,
                                    .sends = SPAN("upstream-name"),
                                    .price = { .known = PRICE_INPUT | PRICE_OUTPUT,
                                               .input = 1000000000, /* $1 per million */
                                               .output = 2000000000 },
                                    .price_source = PRICE_SOURCE_POLICY,
                                    .capabilities = 0xff,
                                    .timeouts = { .connect_ms = 3000,
                                                  .first_token_ms = rig->first_ms,
                                                  .idle_ms = rig->idle_ms,
                                                  .hold_ms = rig->hold_ms } };
    }
    if (rig->credentials) {
        providers[0].auth = AUTH_SCHEME_BEARER;
        providers[0].credentials = (struct span_list){ .items = names, .count = 2 };
    }
    struct tier_member members[3] = { { 0, 1000000 }, { 1, 1000000 }, { 2, 1000000 } };
    struct route route = { .name = SPAN("chat"),
                           .tier_count = 3,
                           .attempts = rig->attempts ? rig->attempts : 3,
                           .max_cost_nano = rig->max_cost_nano,
                           .deadline_ms = rig->deadline_ms };
    for (unsigned i = 0; i < 3; i++)
        route.tiers[i] = (struct tier){ .members = &members[i], .member_count = 1 };
    struct alias alias = { .name = SPAN("gpt-4o"), .target = SPAN("chat") };
    rig->generation++;
    struct artifact artifact = { .schema = TABLE_SCHEMA,
                                 .policy_version = (uint32_t)rig->generation,
                                 .providers = providers,
                                 .provider_count = 3,
                                 .models = models,
                                 .model_count = 3,
                                 .routes = &route,
                                 .route_count = 1,
                                 .aliases = &alias,
                                 .alias_count = 1 };
    if (rig->arrange)
        rig->arrange(rig, &artifact);
    struct buf a = BUF_INIT(1 << 20), h = BUF_INIT(1 << 20);
    assert_int_equal(wire_encode_artifact(&artifact, &a), OK);
    struct object object = wire_object(OBJECT_ARTIFACT, 0, buf_span(&a));
    struct arm arm = { .name = SPAN("stable"), .policy_version = (uint32_t)rig->generation, .artifact = object.hash };
    struct head head = { .epoch = 1, .generation = rig->generation, .made_at_ms = 1, .arms = &arm, .arm_count = 1 };
    if (rig->arrange_head)
        rig->arrange_head(rig, &head);
    assert_int_equal(wire_encode_head(&head, &h), OK);
    struct object head_object = wire_object(OBJECT_HEAD, rig->generation, buf_span(&h));
    struct table_change change = { .head = &head_object, .artifacts = &object, .artifact_count = 1 };
    struct table_version now;
    assert_int_equal(tablestore_apply(rig->store, &change, 1, &now), OK);
    buf_release(&a);
    buf_release(&h);
}

UNUSED static void rig_directory(struct rig *rig, uint64_t from, bool revoked)
{
    struct span routes[] = { rig->opens_all ? SPAN("*") : SPAN("chat") };
    struct span models[] = { rig->opens_all ? SPAN("*/*") : SPAN("a/*") };
    struct team team = {
        .name = SPAN("research"), .routes = { routes, 1 }, .models = { models, 1 }, .may = rig->team_may
    };
    struct key_record key = { .hash = sha256_of(span_cstr(rig->key)),
                              .id = SPAN("key_1"),
                              .team = SPAN("research"),
                              .created_at_ms = 1,
                              .revoked = revoked };
    struct directory_delta delta = {
        .epoch = 1,
        .from_seq = from,
        .to_seq = from + 1,
        .full = from == 0,
        .has_teams = from == 0, /* a later change is of keys alone */
        .teams = { .epoch = 1, .seq = from + 1, .items = &team, .count = from == 0 ? 1 : 0 },
        .keys = &key,
        .key_count = 1
    };
    struct table_change change = { .directory = &delta };
    struct table_version now;
    assert_int_equal(tablestore_apply(rig->store, &change, 1, &now), OK);
}

UNUSED static int rig_listen(struct rig *rig)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    rig->port = ntohs(address.sin_port);
    return fd;
}

/* Fields that the test has set stay: limits, timeouts, credentials. with_table: a policy and a directory are there from
 * the start. */
UNUSED static void rig_start(struct rig *rig, bool with_table)
{
    struct node_limits *l = &rig->config.limits;
    log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
#define DEFAULT(field, value)                                                                                          \
    if (!l->field)                                                                                                     \
    l->field = (value)
    DEFAULT(head_bytes, 32768);
    DEFAULT(headers, 100);
    DEFAULT(head_time_ms, 5000);
    DEFAULT(body_bytes, 1 << 20);
    DEFAULT(body_time_ms, 5000);
    DEFAULT(idle_ms, 60000);
    DEFAULT(connections, 100);
    DEFAULT(buffered_bytes, 64 << 20);
    DEFAULT(write_queue_bytes, 65536);
    DEFAULT(write_stall_ms, 5000);
    DEFAULT(drain_ms, 5000);
    DEFAULT(drain_first_ms, 60000); /* what is on its way comes, however slow this machine is */
    DEFAULT(drain_idle_ms, 60000);
#undef DEFAULT
    rig->first_ms = rig->first_ms ? rig->first_ms : 20000;
    rig->idle_ms = rig->idle_ms ? rig->idle_ms : 30000;
    rig->hold_ms = rig->hold_ms ? rig->hold_ms : 10000;
    rig->config.name = strdup("node-1");
    rig->config.credentials = rig->credentials;
    random_id("fl-", 40, rig->key);
    snprintf(rig->dir, sizeof(rig->dir), "/dev/shm/fairlead-test-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    snprintf(rig->board_path, sizeof(rig->board_path), "%s/board", rig->dir);
    snprintf(rig->store_path, sizeof(rig->store_path), "%s/store", rig->dir);
    unsigned region;
    assert_int_equal(board_create(rig->board_path, 1, &rig->board), OK);
    assert_int_equal(board_region_take(rig->board, &region), OK);
    board_tickets_renew(rig->board, clock_ms());
    board_label_add(rig->board, BOARD_LABEL_TEAM, SPAN("research"));
    board_label_add(rig->board, BOARD_LABEL_ROUTE, SPAN("chat"));
    board_label_add(rig->board, BOARD_LABEL_MODEL, SPAN("a/m"));
    board_label_add(rig->board, BOARD_LABEL_MODEL, SPAN("b/m"));
    board_label_add(rig->board, BOARD_LABEL_MODEL, SPAN("c/m"));
    assert_int_equal(tablestore_open(rig->store_path, false, &rig->store), OK);
    if (with_table) {
        rig_publish(rig);
        rig_directory(rig, 0, false);
    }
    rig->lane.base.ops = &fake_ops;
    assert_int_equal(uv_loop_init(&rig->loop), 0);
    struct loader_events events = { .serving = rig_serving, .bad = rig_bad, .user = rig };
    assert_int_equal(core_init(&rig->core, &(struct core_options){ .loop = &rig->loop,
                                                                   .config = &rig->config,
                                                                   .board_path = rig->board_path,
                                                                   .store_path = rig->store_path,
                                                                   .lane = &rig->lane.base,
                                                                   .events = &events }),
                     OK);
    /* One environment may be opened once per process: the worker's side borrows ours, which can read too. */
    rig->core.loader.store = rig->store;
    int fds[1 + RIG_LISTENERS_MORE] = { rig_listen(rig) };
    unsigned count = 1;
    for (; count <= RIG_LISTENERS_MORE && rig->more[count - 1]; count++)
        fds[count] = rig->more[count - 1];
    assert_int_equal(listener_open(&rig->listener, &rig->core, rig->listen, fds, count, rig_emptied, rig), OK);
}

UNUSED static void rig_pump(struct rig *rig)
{
    bool moved = uv_run(&rig->loop, UV_RUN_NOWAIT) != 0;
    (void)moved;
    for (unsigned i = 0; i < rig->client_count; i++) {
        struct client *c = &rig->clients[i];
        char bytes[65536];
        ssize_t n;
        while (c->fd >= 0 && !c->eof && !c->deaf && (n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) >= 0) {
            if (n == 0)
                c->eof = true;
            else
                assert_int_equal(buf_append(&c->in, span_of(bytes, (size_t)n)), OK);
        }
        if (c->fd >= 0 && !c->deaf && !c->eof && recv(c->fd, bytes, 1, MSG_DONTWAIT | MSG_PEEK) < 0 &&
            errno == ECONNRESET)
            c->eof = true;
    }
}
/* Turns the loop until the condition holds; fails after ten seconds. */
#define UNTIL(rig, condition)                                                                                          \
    do {                                                                                                               \
        uint64_t until_ms_ = clock_ms() + 10000;                                                                       \
        while (!(condition)) {                                                                                         \
            rig_pump(rig);                                                                                             \
            if (!(condition))                                                                                          \
                poll(NULL, 0, 1);                                                                                      \
            if (clock_ms() > until_ms_)                                                                                \
                fail_msg("never: %s", #condition);                                                                     \
        }                                                                                                              \
    } while (0)

/* A client over this socket, which is connected. */
UNUSED static struct client *rig_client_over(struct rig *rig, int fd)
{
    assert_true(rig->client_count < RIG_CLIENTS);
    struct client *c = &rig->clients[rig->client_count++];
    *c = (struct client){ .fd = fd };
    buf_init(&c->in, 256u << 20);
    return c;
}

UNUSED static struct client *rig_client(struct rig *rig)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons((uint16_t)rig->port) };
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return rig_client_over(rig, fd);
}
UNUSED static void say(struct client *c, const char *text)
{
    assert_int_equal(send(c->fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}
/* A POST with our key; extra: further header lines. */
UNUSED static void ask_extra(struct rig *rig, struct client *c, const char *path, const char *body, const char *extra)
{
    char text[8192];
    snprintf(text, sizeof(text),
             "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: "
             "application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
             path, rig->key, extra, strlen(body), body);
    say(c, text);
}
UNUSED static void ask(struct rig *rig, struct client *c, const char *body)
{
    ask_extra(rig, c, "/v1/chat/completions", body, "");
}
UNUSED static bool has(struct client *c, const char *text)
{
    return span_find(buf_span(&c->in), span_cstr(text)) != SIZE_MAX;
}
UNUSED static unsigned times(struct client *c, const char *text)
{
    unsigned n = 0;
    struct span rest = buf_span(&c->in);
    for (size_t at; (at = span_find(rest, span_cstr(text))) != SIZE_MAX; n++)
        rest = span_skip(rest, at + 1);
    return n;
}
UNUSED static uint64_t counted(struct rig *rig, enum series_counter counter)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < BOARD_SERIES_MAX; i++)
        sum += atomic_load(&rig->core.region->series[i].counters[counter]);
    return sum;
}
/* Records so far, each a line; the caller releases. */
UNUSED static unsigned records(struct rig *rig, struct buf *out)
{
    buf_init(out, 1 << 20);
    return board_record_take(rig->core.region, out);
}

/* Closes everything and checks that nothing is left: no try alive, no byte accounted, no request open, no attempt in
 * flight. */
UNUSED static void rig_stop(struct rig *rig)
{
    listener_abort(&rig->listener);
    core_close(&rig->core);
    UNTIL(rig, rig->emptied);
    while (uv_run(&rig->loop, UV_RUN_NOWAIT))
        ;
    for (unsigned i = 0; i < rig->lane.count; i++)
        assert_false(rig->lane.tries[i].live);
    assert_int_equal(rig->core.buffered, 0);
    assert_int_equal(rig->core.retries.active, 0);
    assert_int_equal(rig->core.retries.retrying, 0);
    assert_int_equal(atomic_load(&rig->core.region->counters[WORKER_REQUESTS_OPEN]), 0);
    assert_int_equal(atomic_load(&rig->core.region->counters[WORKER_STREAMS_OPEN]), 0);
    assert_int_equal(atomic_load(&rig->core.region->counters[WORKER_CONNECTIONS_OPEN]), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(atomic_load(&rig->core.region->inflight[i]), 0);
    rig->core.loader.store = NULL;
    core_release(&rig->core);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    for (unsigned i = 0; i < rig->client_count; i++) {
        buf_release(&rig->clients[i].in);
        close(rig->clients[i].fd);
    }
    tablestore_close(rig->store);
    board_close(rig->board);
    free(rig->config.name);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", rig->dir);
    assert_int_equal(system(command), 0);
}

#define LAST_CHUNK  "\r\n0\r\n\r\n"
#define CHUNK(json) "data: " json "\n\n"
#define ROLE                                                                                                           \
    CHUNK("{\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":"          \
          "\"assistant\",\"content\":\"\"}}]}")
#define CONTENT(text)                                                                                                  \
    CHUNK(                                                                                                             \
        "{\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text  \
        "\"}}]}")
#define FINISH                                                                                                         \
    CHUNK("{\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_"        \
          "reason\":\"stop\"}]}")
#define USAGE(in, out)                                                                                                 \
    CHUNK("{\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":" #in        \
          ",\"completion_tokens\":" #out ",\"total_tokens\":30}}")
#define DONE "data: [DONE]\n\n"
#define STREAM_ASK                                                                                                     \
    "{\"model\":\"chat\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"x\":1.50}"
#define WHOLE_ASK "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"
#define WHOLE_ANSWER                                                                                                   \
    "{\"id\":\"1\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","      \
    "\"content\":\"hi "                                                                                                \
    "there\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":20,\"total_tokens\":" \
    "30}}"
