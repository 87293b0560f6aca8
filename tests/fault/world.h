/* world.h - one worker on a real loop, with real lanes to provider.h's process, and one client whose every byte is
 * kept. The worker's libraries allocate through fault_malloc, too (world_replace_allocators). */
#pragma once
#include "tests/fault/provider.h"
#include "tests/unit/dataplane/worker/rig.h"
#include <ares.h>
#include <curl/curl.h>
#include <sys/epoll.h>

#define WORLD_ANSWER_MAX (8u << 20)
#define WORLD_WAIT_MS    20000u /* nothing may hang: a loaded machine included */

struct world {
    struct rig rig;
    const struct provider_process *provider;
    struct upstream_lane *lane;
    int client;
    char *answer; /* WORLD_ANSWER_MAX; plain memory: the client's side is not counted */
    size_t answer_len;
    bool ended;
};

/* ---- libraries' memory ---- */

static void *crypto_malloc(size_t bytes, const char *file, int line)
{
    (void)file;
    (void)line;
    return fault_malloc(bytes);
}
static void *crypto_realloc(void *ptr, size_t bytes, const char *file, int line)
{
    (void)file;
    (void)line;
    return fault_realloc(ptr, bytes);
}
static void crypto_free(void *ptr, const char *file, int line)
{
    (void)file;
    (void)line;
    free(ptr);
}
static char *fault_strdup(const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = fault_malloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}
/* First thing of main: OpenSSL takes no other allocator once it has used its own. */
UNUSED static bool world_replace_allocators(void)
{
    return CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) == 1 &&
           uv_replace_allocator(fault_malloc, fault_realloc, fault_calloc, free) == 0 &&
           ares_library_init_mem(ARES_LIB_INIT_ALL, fault_malloc, free, fault_realloc) == ARES_SUCCESS &&
           curl_global_init_mem(CURL_GLOBAL_DEFAULT, fault_malloc, free, fault_realloc, fault_strdup, fault_calloc) ==
               CURLE_OK;
}

/* ---- the table ---- */

static struct provider world_providers[6];
static struct model world_models[6];

static void world_arrange(struct rig *rig, struct artifact *artifact)
{
    static const char *const names[] = { "a", "b", "c", "d", "e", "f" };
    static const char *const model_names[] = { "a/m", "b/m", "c/m", "d/m", "e/m", "f/m" };
    static struct tier_member members[] = { { 4, 1000000 }, { 5, 1000000 }, { 0, 1000000 } };
    static struct route route;
    static char urls[6][48];
    struct world *world = CONTAINER_OF(rig, struct world, rig);
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        struct provider *p = &world_providers[i];
        *p = artifact->providers[0];
        p->name = span_cstr(names[i]);
        p->host = SPAN("127.0.0.1");
        p->port = (uint16_t)world->provider->port;
        world_models[i] = artifact->models[0];
        world_models[i].name = span_cstr(model_names[i]);
        world_models[i].provider = i;
        world_models[i].sends = i == 5 ? SPAN("ill") : SPAN("m");
        world_models[i].timeouts.connect_ms = 1000; /* a query whose socket could not be watched ends by it */
    }
    world_providers[1].host = SPAN("localhost"); /* a name */
    world_providers[2].tls = true;
    world_providers[2].port = (uint16_t)world->provider->tls_port;
    world_providers[3].lane = LANE_CURL;
    world_providers[4].port = 1; /* refuses */
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(urls[i], sizeof(urls[i]), "http%s://" SPAN_FMT ":%u/v1", world_providers[i].tls ? "s" : "",
                 SPAN_ARG(world_providers[i].host), world_providers[i].port);
        world_providers[i].base_url = span_cstr(urls[i]);
    }
    route = artifact->routes[0]; /* refused, then 503, then a's answer */
    for (unsigned i = 0; i < 3; i++)
        route.tiers[i] = (struct tier){ .members = &members[i], .member_count = 1 };
    artifact->providers = world_providers;
    artifact->provider_count = ARRAY_LEN(names);
    artifact->models = world_models;
    artifact->model_count = ARRAY_LEN(names);
    artifact->routes = &route;
}

/* ---- life ---- */

/* Lanes that have met nobody yet. */
static void world_renew_lane(struct world *world)
{
    struct rig *rig = &world->rig;
    const struct upstream_lane_options options = {
        .loop = &rig->loop, .connections_max = 16, .connections_idle_max = 8, .ca_file = world->provider->tls.ca_file
    };
    if (world->lane)
        upstream_lane_close(world->lane);
    assert_int_equal(upstream_lane_new(&options, &world->lane), OK);
    rig->core.lane = world->lane;
}

UNUSED static void world_open(struct world *world, const struct provider_process *provider)
{
    *world = (struct world){ .provider = provider, .client = -1 };
    struct rig *rig = &world->rig;
    rig->arrange = world_arrange;
    rig->opens_all = true;
    rig->upstream_port = provider->port;
    rig_start(rig, true);
    for (const char *name = "d/m"; name; name = name[0] == 'd' ? "e/m" : name[0] == 'e' ? "f/m" : NULL)
        board_label_add(rig->board, BOARD_LABEL_MODEL, span_cstr(name));
    rig_publish(rig); /* with those labels */
    world_renew_lane(world);
    world->answer = malloc(WORLD_ANSWER_MAX);
    assert_non_null(world->answer);
}

UNUSED static void world_close(struct world *world)
{
    core_close(&world->rig.core); /* what tails */
    upstream_lane_close(world->lane);
    rig_stop(&world->rig);
    free(world->answer);
}

/* ---- the client ---- */

UNUSED static void world_connect(struct world *world)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons((uint16_t)world->rig.port) };
    world->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(world->client >= 0);
    assert_int_equal(connect(world->client, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(fcntl(world->client, F_SETFL, O_NONBLOCK), 0);
    world->answer_len = 0;
    world->ended = false;
}

static void world_hear(struct world *world)
{
    while (world->client >= 0 && !world->ended) {
        assert_true(world->answer_len < WORLD_ANSWER_MAX - 1);
        const ssize_t n =
            recv(world->client, world->answer + world->answer_len, WORLD_ANSWER_MAX - 1 - world->answer_len, 0);
        if (n < 0 && errno == EAGAIN)
            break;
        world->ended = n <= 0;
        world->answer_len += n > 0 ? (size_t)n : 0;
    }
    world->answer[world->answer_len] = '\0';
}

/* One turn of the loop and of the client; waits at most wait_ms for something to happen. */
UNUSED static void world_turn(struct world *world, int wait_ms)
{
    uv_loop_t *loop = &world->rig.loop;
    const int due_ms = uv_backend_timeout(loop);
    struct pollfd ready[] = { { .fd = uv_backend_fd(loop), .events = POLLIN },
                              { .fd = world->ended ? -1 : world->client, .events = POLLIN } };
    if (due_ms >= 0 && due_ms < wait_ms)
        wait_ms = due_ms;
    (void)poll(ready, 2, wait_ms);
    (void)uv_run(loop, UV_RUN_NOWAIT);
    world_hear(world);
}

/* Sends it in pieces that the worker takes meanwhile; false: the worker closed before all was sent. */
UNUSED static bool world_say(struct world *world, const char *text, size_t len)
{
    const uint64_t until_ms = clock_ms() + WORLD_WAIT_MS;
    while (len > 0 && !world->ended) {
        const ssize_t n = send(world->client, text, size_min(len, 60000), MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return false;
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
        world_turn(world, n < 0 ? 1 : 0);
        assert_true(clock_ms() < until_ms);
    }
    return len == 0;
}

UNUSED static void world_hang_up(struct world *world)
{
    if (world->client >= 0)
        close(world->client);
    world->client = -1;
}

static uint64_t world_gauge(struct world *world, enum worker_counter counter)
{
    return atomic_load(&world->rig.core.region->counters[counter]);
}

/* No connection, no request, no tail, no byte is held. */
UNUSED static bool world_rests(struct world *world)
{
    const struct core *core = &world->rig.core;
    if (core->tails || core->buffered || core->retries.active || core->retries.retrying ||
        world_gauge(world, WORKER_REQUESTS_OPEN) || world_gauge(world, WORKER_STREAMS_OPEN) ||
        world_gauge(world, WORKER_CONNECTIONS_OPEN) || world_gauge(world, WORKER_BYTES_BUFFERED))
        return false;
    for (unsigned i = 0; i < 16; i++)
        if (atomic_load(&core->region->inflight[i]))
            return false;
    return true;
}
