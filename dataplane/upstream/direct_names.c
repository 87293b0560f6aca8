/* Names to addresses: c-ares on the loop, so that a resolver that hangs delays only who waits for it.
 *
 * c-ares reads resolv.conf once, when a channel is made. So the file is looked at again, at most once a second and only
 * when somebody asks: when it is another, new questions go by a new channel, and the old one ends with its last
 * question. */
#include "dataplane/upstream/direct_internal.h"
#include "common/fault.h"
#include <ares.h>
#include <sys/stat.h>

#define QUERY_TIMEOUT_MS 1000 /* of one try at one server; c-ares doubles it with each round */
#define QUERY_TRIES      3
#define TTL_LEAST_MS     5000u /* a name of TTL 0 must not cost a query for each request; also what a hosts file gets */
#define RESOLV_CONF      "/etc/resolv.conf"
#define LOOK_EVERY_MS    1000u
#define TTL_MOST_MS      300000u /* an address that was wrong, or forged, does not stay for a day */

struct watch { /* one socket of c-ares */
    uv_poll_t poll;
    struct direct_names *names;
    struct direct_lane *lane; /* outlives the names */
    struct watch *next;
    ares_socket_t fd;
};

struct direct_names {
    struct direct_lane *lane;
    ares_channel channel;
    uv_timer_t timer; /* c-ares's time-outs */
    struct watch *watches;
    struct direct_names *older; /* retired, with questions still open */
    unsigned questions;
    struct stat seen; /* of resolv.conf, before it was read; all-zero: there was none */
    uint64_t looked_ms;
};

/* ---- c-ares on the loop ---- */

static void rearm(struct direct_names *names);
static void close_names(struct direct_names *names);

/* The caller has left c-ares. */
static void leave_retired(struct direct_names *names)
{
    struct direct_names **at = &names->lane->names;
    if (*at == names || names->questions > 0)
        return;
    while (*at != names)
        at = &(*at)->older;
    *at = names->older;
    close_names(names);
}

static void process(struct direct_names *names, ares_socket_t readable, ares_socket_t writable)
{
    ares_process_fd(names->channel, readable, writable);
    rearm(names);
    leave_retired(names);
}

static void on_timer(uv_timer_t *timer)
{
    process(timer->data, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

static void rearm(struct direct_names *names)
{
    struct timeval tv;
    if (ares_timeout(names->channel, NULL, &tv))
        uv_timer_start(&names->timer, on_timer, (uint64_t)tv.tv_sec * 1000 + (uint64_t)tv.tv_usec / 1000 + 1, 0);
    else
        uv_timer_stop(&names->timer);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    const struct watch *watch = poll->data;
    const bool both = status < 0;
    process(watch->names, both || events & UV_READABLE ? watch->fd : ARES_SOCKET_BAD,
            both || events & UV_WRITABLE ? watch->fd : ARES_SOCKET_BAD);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *watch = handle->data;
    struct direct_lane *lane = watch->lane;
    free(watch);
    direct_handle_closed(lane);
}

static void unwatch(struct direct_names *names, ares_socket_t fd)
{
    for (struct watch **at = &names->watches; *at; at = &(*at)->next) {
        struct watch *watch = *at;
        if (watch->fd == fd) {
            *at = watch->next;
            uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
            return;
        }
    }
}

static struct watch *find_watch(struct direct_names *names, ares_socket_t fd)
{
    struct watch *watch = names->watches;
    while (watch && watch->fd != fd)
        watch = watch->next;
    return watch;
}

/* Without a watch (no memory) the query ends by its time-out. */
static struct watch *new_watch(struct direct_names *names, ares_socket_t fd)
{
    struct watch *watch = fault_calloc(1, sizeof(*watch));
    if (!watch)
        return NULL;
    if (uv_poll_init_socket(names->lane->loop, &watch->poll, fd) != 0) {
        free(watch);
        return NULL;
    }
    watch->poll.data = watch;
    watch->names = names;
    watch->lane = names->lane;
    watch->fd = fd;
    watch->next = names->watches;
    names->watches = watch;
    names->lane->open_handles++;
    return watch;
}

static void on_socket(void *user, ares_socket_t fd, int readable, int writable)
{
    struct direct_names *names = user;
    if (!readable && !writable) {
        unwatch(names, fd);
        return;
    }
    struct watch *watch = find_watch(names, fd);
    if (!watch)
        watch = new_watch(names, fd);
    if (watch)
        uv_poll_start(&watch->poll, (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0), on_ready);
}

/* ---- answers ---- */

static bool take_address(struct direct_destination *d, const struct ares_addrinfo_node *node)
{
    union direct_address *to = &d->addresses[d->address_count];
    if (d->address_count == DIRECT_ADDRESSES_MAX)
        return false;
    if (node->ai_family == AF_INET) {
        memcpy(&to->v4, node->ai_addr, sizeof(to->v4));
        to->v4.sin_port = htons(d->port);
    } else if (node->ai_family == AF_INET6) {
        memcpy(&to->v6, node->ai_addr, sizeof(to->v6));
        to->v6.sin6_port = htons(d->port);
    } else {
        return true;
    }
    d->address_count++;
    return true;
}

static const struct ares_addrinfo_node *next_of(const struct ares_addrinfo_node *node, int family, bool same)
{
    while (node && (node->ai_family == family) != same)
        node = node->ai_next;
    return node;
}

/* The order is RFC 6724's (by c-ares), families in turn: RFC 8305 section 4. */
static void take_addresses(struct direct_destination *d, const struct ares_addrinfo *info)
{
    uint64_t ttl_ms = TTL_MOST_MS;
    for (const struct ares_addrinfo_node *node = info->nodes; node; node = node->ai_next) {
        const uint64_t its_ms = node->ai_ttl > 0 ? (uint64_t)node->ai_ttl * 1000 : 0;
        ttl_ms = its_ms < ttl_ms ? its_ms : ttl_ms;
    }
    d->addresses_until_ms = direct_now_ms(d->lane) + (ttl_ms < TTL_LEAST_MS ? TTL_LEAST_MS : ttl_ms);
    d->address_count = d->address_first = 0;
    if (!info->nodes)
        return;
    const int family = info->nodes->ai_family;
    const struct ares_addrinfo_node *first = next_of(info->nodes, family, true);
    const struct ares_addrinfo_node *other = next_of(info->nodes, family, false);
    while (first || other) {
        if (first && !take_address(d, first))
            return;
        if (other && !take_address(d, other))
            return;
        first = first ? next_of(first->ai_next, family, true) : NULL;
        other = other ? next_of(other->ai_next, family, false) : NULL;
    }
}

static bool does_not_exist(int status)
{
    return status == ARES_ENOTFOUND || status == ARES_ENODATA || status == ARES_EBADNAME;
}

static void on_answer(void *user, int status, int timeouts, struct ares_addrinfo *info)
{
    struct direct_destination *d = user;
    (void)timeouts;
    d->asking = false;
    d->names->questions--;
    if (status == ARES_SUCCESS && info)
        take_addresses(d, info);
    else if (does_not_exist(status))
        d->address_count = 0;
    else if (d->address_count > 0) /* the resolver is ill: what it said last is better than nothing */
        d->addresses_until_ms = direct_now_ms(d->lane) + TTL_LEAST_MS;
    if (info)
        ares_freeaddrinfo(info);
    if (status != ARES_EDESTRUCTION) /* the lane closes: nobody waits */
        direct_dial_named(d,
                          d->address_count > 0    ? OK
                          : status == ARES_ENOMEM ? ERR_NOMEM
                                                  : ERR_NOT_FOUND,
                          ares_strerror(status == ARES_SUCCESS ? ARES_ENODATA : status));
    direct_destination_unuse(d);
}

static const char *resolv_conf(const struct direct_lane *lane)
{
    return lane->resolv_conf ? lane->resolv_conf : RESOLV_CONF;
}

static struct stat look(const struct direct_lane *lane)
{
    struct stat now;
    return stat(resolv_conf(lane), &now) == 0 ? now : (struct stat){ .st_ino = 0 };
}

static bool has_changed(struct direct_names *names)
{
    const struct stat *then = &names->seen, now = look(names->lane);
    names->looked_ms = direct_now_ms(names->lane);
    return now.st_ino != then->st_ino || now.st_dev != then->st_dev || now.st_size != then->st_size ||
           now.st_mtim.tv_sec != then->st_mtim.tv_sec || now.st_mtim.tv_nsec != then->st_mtim.tv_nsec;
}

static enum err open_channel(struct direct_names *names)
{
    const char *servers = names->lane->name_servers;
    struct ares_options options = { .timeout = QUERY_TIMEOUT_MS,
                                    .tries = QUERY_TRIES,
                                    .sock_state_cb = on_socket,
                                    .sock_state_cb_data = names,
                                    .resolvconf_path = (char *)(uintptr_t)resolv_conf(names->lane) }; /* copied */
    if (ares_init_options(&names->channel, &options,
                          ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB | ARES_OPT_RESOLVCONF) !=
        ARES_SUCCESS)
        return ERR_NOMEM;
    if (servers && ares_set_servers_ports_csv(names->channel, servers) != ARES_SUCCESS) {
        ares_destroy(names->channel);
        return ERR_INVALID;
    }
    return OK;
}

/* What the lane had is retired. */
static enum err open_names(struct direct_lane *lane)
{
    static bool initialised;
    if (!initialised && ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS)
        return ERR_NOMEM;
    initialised = true;
    struct direct_names *names = fault_calloc(1, sizeof(*names));
    if (!names)
        return ERR_NOMEM;
    names->lane = lane;
    names->seen = look(lane); /* before it is read: what changes meanwhile is seen the next time */
    names->looked_ms = direct_now_ms(lane);
    const enum err err = open_channel(names);
    if (err) {
        free(names);
        return err;
    }
    uv_timer_init(lane->loop, &names->timer);
    names->timer.data = names;
    lane->open_handles++;
    names->older = lane->names;
    lane->names = names;
    if (names->older && names->older->questions == 0) /* soon: it may be c-ares that has called us */
        uv_timer_start(&names->older->timer, on_timer, 0, 0);
    return OK;
}

/* The present names, or new ones. Without memory for new ones the old go on. */
static enum err renew(struct direct_lane *lane)
{
    if (!lane->names)
        return open_names(lane);
    if (direct_now_ms(lane) - lane->names->looked_ms >= LOOK_EVERY_MS && has_changed(lane->names))
        (void)!open_names(lane);
    return OK;
}

void direct_names_ask(struct direct_destination *d)
{
    struct direct_lane *lane = d->lane;
    const struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    const enum err err = fault_hit(FAULT_RESOLVE) ? ERR_NOT_FOUND : renew(lane);
    if (err) {
        direct_dial_named(d, err, err == ERR_NOMEM ? "out of memory for the resolver" : "no name server can be asked");
        return;
    }
    d->asking = true;
    d->users++;
    d->names = lane->names;
    d->names->questions++;
    ares_getaddrinfo(d->names->channel, d->host, NULL, &hints, on_answer, d);
    rearm(lane->names);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct direct_names *names = handle->data;
    struct direct_lane *lane = names->lane;
    free(names);
    direct_handle_closed(lane);
}

static void close_names(struct direct_names *names)
{
    ares_destroy(names->channel); /* ends the queries and closes the sockets, by which the watches go */
    while (names->watches)
        unwatch(names, names->watches->fd);
    uv_close((uv_handle_t *)&names->timer, on_timer_closed);
}

void direct_names_close(struct direct_lane *lane)
{
    while (lane->names) {
        struct direct_names *names = lane->names;
        lane->names = names->older;
        close_names(names);
    }
}
