/* world.h - one worker on a real loop, with real lanes to provider.h's process and listeners of every kind; client.h is
 * who asks it. The worker's libraries allocate through fault_malloc, too (world_replace_allocators). */
#pragma once
#include "tests/fault/provider.h"
#include "tests/unit/dataplane/worker/identity.h"
#include "tests/unit/dataplane/worker/rig.h"
#include <ares.h>
#include <curl/curl.h>
#include <sys/epoll.h>

#define WORLD_WAIT_MS 20000u /* nothing may hang: a loaded machine included */

enum world_listener { WORLD_PLAIN, WORLD_HTTP2, WORLD_TLS, WORLD_UNIX, WORLD_PROXIED, WORLD_LISTENERS };
struct world {
    struct rig rig;
    const struct provider_process *provider;
    struct upstream_lane *lane;
    struct identity server, authority, robot; /* the robot's certificate is the team's */
    struct sockaddr_storage addresses[WORLD_LISTENERS];
    socklen_t address_lens[WORLD_LISTENERS];
};

/* ---- libraries' memory ---- */

/* The client lives in the same process and uses the same OpenSSL: what is allocated for it is not counted. */
static bool world_uncounted;
static void *crypto_malloc(size_t bytes, const char *file, int line)
{
    (void)file;
    (void)line;
    return world_uncounted ? (malloc)(bytes) : fault_malloc(bytes);
}
static void *crypto_realloc(void *ptr, size_t bytes, const char *file, int line)
{
    (void)file;
    (void)line;
    return world_uncounted ? (realloc)(ptr, bytes) : fault_realloc(ptr, bytes);
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

static int world_bind(struct sockaddr_storage *address, socklen_t *ret_len, int family)
{
    struct sockaddr_in *in = (struct sockaddr_in *)address;
    const socklen_t len =
        family == AF_UNIX ? sizeof(sa_family_t) : sizeof(*in); /* the kernel names it: no file's help */
    const int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    *address = (struct sockaddr_storage){ .ss_family = (sa_family_t)family };
    if (family == AF_INET)
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)address, len), 0);
    *ret_len = sizeof(*address);
    assert_int_equal(getsockname(fd, (struct sockaddr *)address, ret_len), 0);
    return fd;
}

static void world_listen(struct world *world)
{
    static struct network loopback = { .bytes = { [10] = 0xff, [11] = 0xff, [12] = 127 }, .bits = 104 };
    static char robot[] = "robot", research[] = "research";
    static struct certificate_team team = { .name = robot, .team = research };
    struct rig *rig = &world->rig;
    identity_make(&world->server, "localhost", "IP:127.0.0.1", NULL);
    identity_make(&world->authority, "authority", NULL, NULL);
    identity_make(&world->robot, "robot", NULL, &world->authority);
    for (unsigned i = 1; i < WORLD_LISTENERS; i++)
        rig->more[i - 1] =
            world_bind(&world->addresses[i], &world->address_lens[i], i == WORLD_UNIX ? AF_UNIX : AF_INET);
    rig->listen[WORLD_HTTP2].http2 = true;
    rig->listen[WORLD_TLS] = (struct listener_config){ .http2 = true,
                                                       .certificate = world->server.certificate_file,
                                                       .key = world->server.key_file,
                                                       .client_ca = world->authority.certificate_file,
                                                       .client_certificates = CLIENT_CERTIFICATES_OPTIONAL,
                                                       .teams = &team,
                                                       .team_count = 1 };
    rig->listen[WORLD_PROXIED].proxies = &loopback;
    rig->listen[WORLD_PROXIED].proxy_count = 1;
}

UNUSED static void world_open(struct world *world, const struct provider_process *provider)
{
    *world = (struct world){ .provider = provider };
    struct rig *rig = &world->rig;
    rig->config.limits.http2_streams = 100;
    world_listen(world);
    rig->arrange = world_arrange;
    rig->opens_all = true;
    rig->upstream_port = provider->port;
    rig_start(rig, true);
    *(struct sockaddr_in *)&world->addresses[WORLD_PLAIN] = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)rig->port)
    };
    world->address_lens[WORLD_PLAIN] = sizeof(struct sockaddr_in);
    for (const char *name = "d/m"; name; name = name[0] == 'd' ? "e/m" : name[0] == 'e' ? "f/m" : NULL)
        board_label_add(rig->board, BOARD_LABEL_MODEL, span_cstr(name));
    rig_publish(rig); /* with those labels */
    world_renew_lane(world);
}

UNUSED static void world_close(struct world *world)
{
    core_close(&world->rig.core); /* what tails */
    upstream_lane_close(world->lane);
    rig_stop(&world->rig);
    identity_drop(&world->server);
    identity_drop(&world->authority);
    identity_drop(&world->robot);
}

/* ---- at rest ---- */

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
