#include "proto/channel.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/limits.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/supplemental/util/platform.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAGIC              "FLR1"
#define MAGIC_BYTES        4u
#define MESSAGE_BYTES_MAX  (FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES)
#define PARALLEL_MAX       4096u /* contexts of one socket: a mistyped number must not exhaust memory */
#define RECONNECT_LEAST_MS 10
#define RECONNECT_MOST_MS  500 /* a restarted control plane is found again within a second */

static enum err err_of_nng(int code)
{
    switch (code) {
    case 0:
        return OK;
    case NNG_ETIMEDOUT:
        return ERR_TIMEOUT;
    case NNG_ECLOSED:
    case NNG_ECONNRESET:
    case NNG_ECONNABORTED:
    case NNG_ECONNSHUT:
        return ERR_CLOSED;
    case NNG_ECANCELED:
        return ERR_CANCELLED;
    case NNG_ECONNREFUSED:
    case NNG_ENOENT:
    case NNG_EUNREACHABLE:
        return ERR_REFUSED;
    case NNG_EADDRINUSE:
        return ERR_EXISTS;
    case NNG_EADDRINVAL:
    case NNG_EINVAL:
        return ERR_INVALID;
    case NNG_EPERM:
    case NNG_EPEERAUTH:
    case NNG_ECRYPTO:
        return ERR_DENIED;
    case NNG_EMSGSIZE:
        return ERR_TOO_LARGE;
    case NNG_ENOTSUP:
        return ERR_UNSUPPORTED;
    case NNG_ENOMEM:
        return ERR_NOMEM;
    default:
        return ERR_IO;
    }
}

/* ---- addresses and sockets ---- */

enum transport { TRANSPORT_IPC, TRANSPORT_TCP, TRANSPORT_TLS };

static enum err address_check(const char *address, const struct channel_tls *tls, enum transport *ret)
{
    struct span s = span_cstr(address);
    if (span_starts(s, SPAN("ipc://"))) {
        struct span path = span_skip(s, 6);
        if (path.len > IPC_PATH_BYTES_MAX)
            return ERR_TOO_LARGE;
        *ret = TRANSPORT_IPC;
        return span_starts(path, SPAN("/")) ? OK : ERR_INVALID;
    }
    if (span_starts(s, SPAN("tls+tcp://"))) {
        *ret = TRANSPORT_TLS;
        return tls && s.len > 10 ? OK : ERR_INVALID;
    }
    if (!span_starts(s, SPAN("tcp://")))
        return ERR_INVALID;
    *ret = TRANSPORT_TCP;
    return span_starts(s, SPAN("tcp://127.0.0.1:")) || span_starts(s, SPAN("tcp://[::1]:")) ? OK : ERR_DENIED;
}

/* A server with a CA asks clients for certificates; a client always checks the server's. */
static int tls_config(const struct channel_tls *tls, nng_tls_mode mode, nng_tls_config **ret)
{
    nng_tls_config *config;
    int rc = nng_tls_config_alloc(&config, mode);
    if (rc)
        return rc;
    bool check = mode == NNG_TLS_MODE_CLIENT || tls->ca_file;
    rc = nng_tls_config_auth_mode(config, check ? NNG_TLS_AUTH_MODE_REQUIRED : NNG_TLS_AUTH_MODE_NONE);
    if (rc == 0 && tls->certificate_file)
        rc = nng_tls_config_cert_key_file(config, tls->certificate_file, NULL);
    if (rc == 0 && tls->ca_file)
        rc = nng_tls_config_ca_file(config, tls->ca_file);
    if (rc == 0 && tls->server_name && mode == NNG_TLS_MODE_CLIENT)
        rc = nng_tls_config_server_name(config, tls->server_name);
    if (rc)
        nng_tls_config_free(config);
    else
        *ret = config;
    return rc;
}

static void log_failure(const char *event, const char *address, int code)
{
    log_warn(event, LOG_STR("address", address), LOG_STR("why", nng_strerror(code)));
}

#define GREETING_WAIT_MS 300

/* Is the path free, or a socket that nobody serves? nng replaces whatever refuses a connection, even somebody's file,
 * and when its bind fails it removes the socket of the one who lives there: so both are found out before it is asked.
 */
static enum err path_check(const char *path)
{
    struct stat st;
    if (lstat(path, &st))
        return OK; /* nng will say what else is wrong */
    if (!S_ISSOCK(st.st_mode))
        return ERR_EXISTS;
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    memcpy(to.sun_path, path, size_min(strlen(path), sizeof(to.sun_path) - 1));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ERR_IO;
    bool dead =
        connect(fd, (const struct sockaddr *)&to, sizeof(to)) != 0 && (errno == ECONNREFUSED || errno == ENOENT);
    struct pollfd greeting = { .fd = fd, .events = POLLIN };
    if (!dead)
        (void)poll(&greeting, 1,
                   GREETING_WAIT_MS); /* leaving before it is written can end an nng listener: see below */
    close(fd);
    return dead ? OK : ERR_EXISTS;
}

/* One end of a link, with all that is needed to make it again. */
struct endpoint {
    nng_socket socket;
    char *address; /* owned */
    enum transport transport;
    int ipc_mode;
    nng_tls_config *tls; /* owned; NULL elsewhere */
    nng_listener listener;
    nng_dialer dialer;
    nng_aio *watch; /* a timer; NULL before endpoint_watch */
    uint64_t other_seen, accepted_seen;
    unsigned looks; /* since the last visit */
    bool visited;   /* and not accepted yet */
};

static void endpoint_release(struct endpoint *end)
{
    free(end->address);
    if (end->tls)
        nng_tls_config_free(end->tls); /* nng holds references of its own */
}

static enum err endpoint_init(struct endpoint *end, const char *address, const struct channel_tls *tls,
                              nng_tls_mode mode)
{
    *end = (struct endpoint){ .ipc_mode = 0600 };
    enum err err = address_check(address, tls, &end->transport);
    if (err)
        return err;
    size_t bytes = strlen(address) + 1;
    end->address = fault_malloc(bytes);
    if (!end->address)
        return ERR_NOMEM;
    memcpy(end->address, address, bytes);
    int rc = end->transport == TRANSPORT_TLS ? tls_config(tls, mode, &end->tls) : 0;
    if (rc) {
        log_failure("channel.tls_failed", address, rc);
        free(end->address);
    }
    return err_of_nng(rc);
}

static int endpoint_listen(struct endpoint *end)
{
    nng_listener listener;
    int rc = nng_listener_create(&listener, end->socket, end->address);
    if (rc)
        return rc;
    rc = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, FRAME_BYTES_MAX);
    if (rc == 0 && end->transport == TRANSPORT_IPC)
        rc = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, end->ipc_mode);
    if (rc == 0 && end->tls)
        rc = nng_listener_set_ptr(listener, NNG_OPT_TLS_CONFIG, end->tls);
    if (rc == 0)
        rc = nng_listener_start(listener, 0);
    if (rc)
        nng_listener_close(listener);
    else
        end->listener = listener;
    return rc;
}

static int endpoint_dial(struct endpoint *end, int flags)
{
    nng_dialer dialer;
    int rc = nng_dialer_create(&dialer, end->socket, end->address);
    if (rc)
        return rc;
    rc = nng_dialer_set_size(dialer, NNG_OPT_RECVMAXSZ, FRAME_BYTES_MAX);
    if (rc == 0 && end->tls)
        rc = nng_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, end->tls);
    if (rc == 0)
        rc = nng_dialer_start(dialer, flags);
    if (rc)
        nng_dialer_close(dialer);
    else
        end->dialer = dialer;
    return rc;
}

/* ---- watching: nng 1.5.2 takes EPIPE from a peer that left in mid-handshake for its own close, and that listener
 * never accepts, that dialer never dials again [measured: one connect(2) and close(2) can end a listener]. Its
 * statistics count it as "other", but so they do each peer that ends its connection in order: a listener is
 * tried before a new one is made in its place, which costs those being served their connection. */
#define WATCH_MS          200
#define VISIT_EVERY_LOOKS 25u /* five seconds */
#define VISIT_LOOKS       3u  /* a busy machine has so long to accept */
#define VISIT_WAIT_MS     100
#define REQ_PROTOCOL      0x30
#define REFUSED_WAIT_MS   400 /* by then a server that lives listens again */
#define REDIAL_MS         20

static uint64_t stat_value(nng_stat *parent, const char *name)
{
    nng_stat *stat = parent ? nng_stat_find(parent, name) : NULL;
    return stat ? nng_stat_value(stat) : 0;
}

/* nng_stat_find_listener and _dialer answer with the first of their kind. */
static nng_stat *stat_of(nng_stat *stats, const char *kind, int id)
{
    for (nng_stat *stat = nng_stat_child(stats); stat; stat = nng_stat_next(stat))
        if (span_starts(span_cstr(nng_stat_name(stat)), span_cstr(kind)) && stat_value(stat, "id") == (uint64_t)id)
            return stat;
    return NULL;
}

/* Knocks at our own listener: a whole handshake, then we leave. A listener that ended greets too, but does not count the
 * visit as accepted. */
static void visit(const char *path)
{
    static const char greeting[8] = { 0, 'S', 'P', 0, 0, REQ_PROTOCOL, 0, 0 };
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    memcpy(to.sun_path, path, size_min(strlen(path), sizeof(to.sun_path) - 1));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    char theirs[sizeof(greeting)];
    if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0 && poll(&readable, 1, VISIT_WAIT_MS) == 1 &&
        read(fd, theirs, sizeof(theirs)) > 0)
        (void)send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL);
    close(fd);
}

/* Over ipc we visit when the count of "other" has risen (our own visit raises it by one), and now and then in any case;
 * then "accept" must rise soon. Over a network we add up: each connection that ended counts one "other" at most. */
static bool listener_ended(struct endpoint *end, nng_stat *own)
{
    const uint64_t other = stat_value(own, "other"), accepted = stat_value(own, "accept");
    if (end->transport != TRANSPORT_IPC)
        return other > accepted - stat_value(own, "pipes");
    end->looks++;
    if (end->visited) {
        end->visited = accepted == end->accepted_seen;
        return end->visited && end->looks >= VISIT_LOOKS;
    }
    if (other <= end->other_seen && end->looks < VISIT_EVERY_LOOKS)
        return false;
    end->looks = 0;
    end->other_seen = other + 1;
    end->accepted_seen = accepted;
    end->visited = true;
    visit(end->address + strlen("ipc://"));
    return false;
}

static void endpoint_check(struct endpoint *end, bool listens)
{
    nng_stat *stats;
    if (nng_stats_get(&stats))
        return;
    nng_stat *own = listens ? stat_of(stats, "listener", nng_listener_id(end->listener))
                            : stat_of(stats, "dialer", nng_dialer_id(end->dialer));
    /* Without statistics of it, a new one could not be made last time. */
    bool ended =
        !own || (listens ? listener_ended(end, own) : stat_value(own, "other") > 0 && stat_value(own, "pipes") == 0);
    nng_stats_free(stats);
    if (!ended)
        return;
    int rc;
    if (listens) {
        /* Peers in its queue were told that they are connected: they must be hung up on to dial again. Those being
         * served lose their connection too, which is ERR_CLOSED to them and leaves the retry to them. */
        end->visited = false;
        end->other_seen = 0;
        nng_listener_close(end->listener);
        rc = endpoint_listen(end);
    } else {
        nng_dialer_close(end->dialer);
        rc = endpoint_dial(end, NNG_FLAG_NONBLOCK);
    }
    log_debug("channel.renewed", LOG_STR("address", end->address), LOG_STR("result", nng_strerror(rc)));
}

static void endpoint_watched(void *arg) /* on nng's threads */
{
    struct endpoint *end = arg;
    if (nng_aio_result(end->watch))
        return;
    endpoint_check(end, end->listener.id != 0);
    nng_sleep_aio(WATCH_MS, end->watch);
}

static int endpoint_watch(struct endpoint *end)
{
    int rc = nng_aio_alloc(&end->watch, endpoint_watched, end);
    if (rc == 0)
        nng_sleep_aio(WATCH_MS, end->watch);
    return rc;
}

static void endpoint_unwatch(struct endpoint *end)
{
    if (!end->watch)
        return;
    nng_aio_stop(end->watch);
    nng_aio_free(end->watch);
    end->watch = NULL;
}

static int open_req(nng_socket *ret)
{
    int rc = nng_req0_open(ret);
    if (rc)
        return rc;
    rc = nng_socket_set_size(*ret, NNG_OPT_RECVMAXSZ, FRAME_BYTES_MAX);
    /* Infinite also makes a lost connection an error instead of a repetition, so what was sent is executed at most
     * once. */
    if (rc == 0)
        rc = nng_socket_set_ms(*ret, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    if (rc == 0)
        rc = nng_socket_set_ms(*ret, NNG_OPT_RECONNMINT, RECONNECT_LEAST_MS);
    if (rc == 0)
        rc = nng_socket_set_ms(*ret, NNG_OPT_RECONNMAXT, RECONNECT_MOST_MS);
    if (rc)
        nng_close(*ret);
    return rc;
}

/* ---- closing ----
 *
 * nng 1.5.2: nng_close while a message is being handed to a connection can wait for ever (nanomsg/nng #1543, #1813).
 * Measured: 3 of 3 runs of 1,500 closes with sends just begun; none in 9,000 when the aios were stopped first and
 * QUIET_MS passed. Peers that die in mid-request never caused it (800 kills). So we stop, wait a little when something
 * may be on its way, and never let a stop of the program depend on nng: a close that does not come back is left behind.
 */
#define QUIET_MS      5
#define CLOSE_WAIT_MS 2000

struct closing { /* freed by whoever is last: the one who waits, or the thread that closes */
    nng_socket socket;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed, left;
};

static void closing_free(struct closing *closing)
{
    pthread_cond_destroy(&closing->changed);
    pthread_mutex_destroy(&closing->lock);
    free(closing);
}

static void *closing_run(void *arg)
{
    struct closing *closing = arg;
    nng_close(closing->socket);
    pthread_mutex_lock(&closing->lock);
    closing->closed = true;
    bool left = closing->left;
    pthread_cond_signal(&closing->changed);
    pthread_mutex_unlock(&closing->lock);
    if (left)
        closing_free(closing);
    return NULL;
}

static void closing_wait(struct closing *closing)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += CLOSE_WAIT_MS / 1000;
    pthread_mutex_lock(&closing->lock);
    int rc = 0;
    while (!closing->closed && rc == 0)
        rc = pthread_cond_timedwait(&closing->changed, &closing->lock, &end);
    bool left = closing->left = !closing->closed;
    pthread_mutex_unlock(&closing->lock);
    if (left)
        log_warn("channel.close_left_behind", LOG_U64("waited_ms", CLOSE_WAIT_MS));
    else
        closing_free(closing);
}

/* busy: messages may be on their way. The caller's aios are stopped. */
static void close_socket(nng_socket socket, bool busy)
{
    if (!busy) {
        nng_close(socket);
        return;
    }
    nng_msleep(QUIET_MS);
    pthread_t thread;
    struct closing *closing = fault_calloc(1, sizeof(*closing));
    if (closing) {
        closing->socket = socket;
        pthread_mutex_init(&closing->lock, NULL);
        pthread_cond_init(&closing->changed, NULL);
        if (pthread_create(&thread, NULL, closing_run, closing) == 0) {
            pthread_detach(thread);
            closing_wait(closing);
            return;
        }
        closing_free(closing);
    }
    nng_close(socket);
}

/* ---- frames ---- */

static int frame_new(struct span message, nng_msg **ret)
{
    nng_msg *msg;
    if (fault_hit(FAULT_ALLOC))
        return NNG_ENOMEM;
    int rc = nng_msg_alloc(&msg, MAGIC_BYTES + message.len);
    if (rc)
        return rc;
    char *at = nng_msg_body(msg);
    memcpy(at, MAGIC, MAGIC_BYTES);
    if (message.len > 0)
        memcpy(at + MAGIC_BYTES, message.ptr, message.len);
    *ret = msg;
    return 0;
}

static bool frame_read(nng_msg *msg, struct span *ret)
{
    struct span body = span_of(nng_msg_body(msg), nng_msg_len(msg));
    if (!span_starts(body, SPAN(MAGIC)))
        return false;
    *ret = span_skip(body, MAGIC_BYTES);
    return true;
}

/* ---- server ---- */

/* A call goes around: RECEIVING (nng's) -> QUEUED -> IN_HAND (the handler's) -> REPLYING (nng's) -> RECEIVING ... until
 * ENDED. */
enum call_state { CALL_RECEIVING, CALL_QUEUED, CALL_IN_HAND, CALL_REPLYING, CALL_ENDED };

struct channel_call {
    struct channel_server *server;
    struct channel_call *next; /* in the queue */
    enum call_state state;     /* by whoever has the call: see above */
    nng_ctx ctx;
    nng_aio *aio;
    nng_msg *request;
    struct channel_peer peer;
};

struct channel_server {
    struct endpoint end;
    channel_handler *handler;
    void *user;
    void (*wake)(void *wake_user);
    void *wake_user;
    bool listening;
    bool closed;      /* loop only */
    unsigned in_hand; /* loop only: keeps the memory after close */
    uint64_t refused; /* atomic */
    pthread_mutex_t lock;
    struct channel_call *first, **last; /* queue, under lock */
    unsigned call_count;
    struct channel_call calls[];
};

static void call_receive(struct channel_call *call)
{
    call->state = CALL_RECEIVING;
    nng_ctx_recv(call->ctx, call->aio);
}

static void call_send(struct channel_call *call, nng_msg *reply)
{
    call->state = CALL_REPLYING;
    nng_aio_set_msg(call->aio, reply);
    nng_ctx_send(call->ctx, call->aio);
}

static void read_peer(struct channel_call *call)
{
    nng_pipe pipe = nng_msg_get_pipe(call->request);
    uint64_t uid;
    call->peer = (struct channel_peer){ .local = (call->server->end.transport == TRANSPORT_IPC), .uid = UINT32_MAX };
    if (!call->peer.local)
        return;
    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) == 0)
        call->peer.uid = (uint32_t)uid;
    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_PID, &call->peer.pid))
        call->peer.pid = 0;
}

static void call_received(struct channel_call *call)
{
    struct channel_server *server = call->server;
    struct span message;
    call->request = nng_aio_get_msg(call->aio);
    if (!frame_read(call->request, &message)) {
        __atomic_add_fetch(&server->refused, 1, __ATOMIC_RELAXED);
        nng_msg_clear(call->request);
        nng_msg *empty = call->request; /* an empty frame says "not understood" */
        call->request = NULL;
        call_send(call, empty);
        return;
    }
    read_peer(call);
    call->state = CALL_QUEUED;
    call->next = NULL;
    pthread_mutex_lock(&server->lock);
    *server->last = call;
    server->last = &call->next;
    pthread_mutex_unlock(&server->lock);
    server->wake(server->wake_user);
}

/* On nng's threads. */
static void call_completed(void *arg)
{
    struct channel_call *call = arg;
    int rc = nng_aio_result(call->aio);
    if (call->state == CALL_REPLYING) {
        if (rc) {
            nng_msg_free(nng_aio_get_msg(call->aio)); /* nng takes it only on success */
            nng_aio_set_msg(call->aio, NULL);
        }
        if (rc == NNG_ECLOSED || rc == NNG_ECANCELED)
            call->state = CALL_ENDED;
        else
            call_receive(call); /* the asker may have gone: no matter */
    } else if (rc == 0) {
        call_received(call);
    } else if (rc == NNG_ECLOSED || rc == NNG_ECANCELED) {
        call->state = CALL_ENDED;
    } else {
        call_receive(call);
    }
}

static void server_free(struct channel_server *server)
{
    endpoint_release(&server->end);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

static enum err open_calls(struct channel_server *server, unsigned parallel)
{
    for (unsigned i = 0; i < parallel; i++) {
        struct channel_call *call = &server->calls[i];
        *call = (struct channel_call){ .server = server, .state = CALL_ENDED };
        int rc = nng_ctx_open(&call->ctx, server->end.socket);
        if (rc == 0)
            rc = nng_aio_alloc(&call->aio, call_completed, call);
        if (rc)
            return err_of_nng(rc); /* the context goes with the socket */
        nng_aio_set_timeout(call->aio, NNG_DURATION_INFINITE);
        server->call_count++;
    }
    return OK;
}

enum err channel_server_open(const struct channel_server_options *options, struct channel_server **ret)
{
    REQUIRE(options->handler && options->wake && options->parallel > 0 && options->parallel <= PARALLEL_MAX);
    struct channel_server *server = fault_calloc(1, sizeof(*server) + options->parallel * sizeof(server->calls[0]));
    if (!server)
        return ERR_NOMEM;
    enum err err = endpoint_init(&server->end, options->address, options->tls, NNG_TLS_MODE_SERVER);
    if (err) {
        free(server);
        return err;
    }
    if (options->ipc_mode)
        server->end.ipc_mode = (int)options->ipc_mode;
    server->handler = options->handler;
    server->user = options->user;
    server->wake = options->wake;
    server->wake_user = options->wake_user;
    server->last = &server->first;
    pthread_mutex_init(&server->lock, NULL);
    if (server->end.transport == TRANSPORT_IPC)
        err = path_check(options->address + strlen("ipc://"));
    int rc = err ? 0 : nng_rep0_open(&server->end.socket);
    if (err || rc) {
        server_free(server);
        return err ? err : err_of_nng(rc);
    }
    rc = nng_socket_set_size(server->end.socket, NNG_OPT_RECVMAXSZ, FRAME_BYTES_MAX);
    err = rc ? err_of_nng(rc) : open_calls(server, options->parallel);
    if (err == OK) {
        rc = endpoint_listen(&server->end);
        if (rc)
            log_failure("channel.listen_failed", options->address, rc);
        err = rc == NNG_ENOENT ? ERR_IO : err_of_nng(rc); /* no such directory */
    }
    if (err == OK)
        err = err_of_nng(endpoint_watch(&server->end));
    if (err) {
        channel_server_close(server);
        return err;
    }
    server->listening = true;
    for (unsigned i = 0; i < server->call_count; i++)
        call_receive(&server->calls[i]);
    *ret = server;
    return OK;
}

static struct channel_call *queue_take(struct channel_server *server)
{
    pthread_mutex_lock(&server->lock);
    struct channel_call *call = server->first;
    if (call) {
        server->first = call->next;
        if (!server->first)
            server->last = &server->first;
    }
    pthread_mutex_unlock(&server->lock);
    return call;
}

void channel_server_dispatch(struct channel_server *server)
{
    struct channel_call *call;
    server->in_hand++; /* our own stay: a handler may close the server and reply */
    while (!server->closed && (call = queue_take(server)) != NULL) {
        struct span message;
        REQUIRE(call->state == CALL_QUEUED && frame_read(call->request, &message));
        call->state = CALL_IN_HAND;
        server->in_hand++;
        server->handler(server->user, call, message, &call->peer);
    }
    if (--server->in_hand == 0 && server->closed)
        server_free(server);
}

void channel_reply(struct channel_call *call, struct span message)
{
    struct channel_server *server = call->server;
    REQUIRE(call->state == CALL_IN_HAND && server->in_hand > 0);
    nng_msg *reply = NULL;
    server->in_hand--;
    if (server->closed) {
        nng_msg_free(call->request);
        call->request = NULL;
        call->state = CALL_ENDED;
        if (server->in_hand == 0)
            server_free(server);
        return;
    }
    if (message.len > MESSAGE_BYTES_MAX)
        log_error("channel.reply_too_large", LOG_U64("bytes", message.len));
    else if (frame_new(message, &reply))
        log_error("channel.reply_out_of_memory", LOG_U64("bytes", message.len));
    if (reply) {
        nng_msg_free(call->request); /* after the copy: the message may be part of the request */
    } else {
        reply = call->request; /* emptied, it needs no memory */
        nng_msg_clear(reply);
    }
    call->request = NULL;
    call_send(call, reply);
}

uint64_t channel_server_refused(const struct channel_server *server)
{
    return __atomic_load_n(&server->refused, __ATOMIC_RELAXED);
}

void channel_server_close(struct channel_server *server)
{
    if (!server)
        return;
    REQUIRE(!server->closed);
    server->closed = true;
    endpoint_unwatch(&server->end);
    for (unsigned i = 0; i < server->call_count; i++)
        nng_aio_stop(server->calls[i].aio); /* cancels, and waits for a running completion */
    close_socket(server->end.socket, server->listening);
    for (unsigned i = 0; i < server->call_count; i++) {
        struct channel_call *call = &server->calls[i];
        if (call->state == CALL_REPLYING) /* begun after the stop: nng neither took it nor tells */
            nng_msg_free(nng_aio_get_msg(call->aio));
        nng_aio_free(call->aio);
    }
    for (struct channel_call *call; (call = queue_take(server)) != NULL;)
        nng_msg_free(call->request);
    if (server->in_hand == 0)
        server_free(server);
}

/* ---- client ---- */

enum slot_state { SLOT_FREE, SLOT_SENDING, SLOT_RECEIVING, SLOT_DONE };

struct slot { /* one request in flight; nng's between send and done */
    struct channel_client *client;
    struct slot *next; /* in the free list or the done list */
    enum slot_state state;
    nng_ctx ctx;
    nng_aio *aio;
    uint64_t deadline_ms;
    channel_done *done;
    void *user;
    enum err err;
    nng_msg *reply;
};

struct channel_client {
    struct endpoint end;
    void (*wake)(void *wake_user);
    void *wake_user;
    bool closing;      /* loop only */
    struct slot *free; /* loop only */
    pthread_mutex_t lock;
    struct slot *first, **last; /* done, under lock */
    unsigned slot_count;
    struct slot slots[];
};

static void slot_done(struct slot *slot, enum err err)
{
    struct channel_client *client = slot->client;
    slot->err = err;
    slot->state = SLOT_DONE;
    slot->next = NULL;
    pthread_mutex_lock(&client->lock);
    *client->last = slot;
    client->last = &slot->next;
    pthread_mutex_unlock(&client->lock);
    client->wake(client->wake_user);
}

/* On nng's threads. */
static void slot_completed(void *arg)
{
    struct slot *slot = arg;
    int rc = nng_aio_result(slot->aio);
    if (slot->state == SLOT_SENDING) {
        if (rc) {
            nng_msg_free(nng_aio_get_msg(slot->aio));
            nng_aio_set_msg(slot->aio, NULL);
            slot_done(slot, err_of_nng(rc));
            return;
        }
        uint64_t now = clock_ms();
        slot->state = SLOT_RECEIVING;
        nng_aio_set_timeout(slot->aio, slot->deadline_ms > now ? (nng_duration)(slot->deadline_ms - now) : 1);
        nng_ctx_recv(slot->ctx, slot->aio);
        return;
    }
    if (rc == 0)
        slot->reply = nng_aio_get_msg(slot->aio);
    slot_done(slot, err_of_nng(rc));
}

static void client_free(struct channel_client *client)
{
    endpoint_release(&client->end);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

static enum err open_slots(struct channel_client *client, unsigned parallel)
{
    for (unsigned i = 0; i < parallel; i++) {
        struct slot *slot = &client->slots[i];
        *slot = (struct slot){ .client = client, .next = client->free };
        int rc = nng_ctx_open(&slot->ctx, client->end.socket);
        if (rc == 0)
            rc = nng_aio_alloc(&slot->aio, slot_completed, slot);
        if (rc)
            return err_of_nng(rc);
        client->free = slot;
        client->slot_count++;
    }
    return OK;
}

enum err channel_client_open(const struct channel_client_options *options, struct channel_client **ret)
{
    REQUIRE(options->wake && options->parallel > 0 && options->parallel <= PARALLEL_MAX);
    struct channel_client *client = fault_calloc(1, sizeof(*client) + options->parallel * sizeof(client->slots[0]));
    if (!client)
        return ERR_NOMEM;
    enum err err = endpoint_init(&client->end, options->address, options->tls, NNG_TLS_MODE_CLIENT);
    if (err) {
        free(client);
        return err;
    }
    client->wake = options->wake;
    client->wake_user = options->wake_user;
    client->last = &client->first;
    pthread_mutex_init(&client->lock, NULL);
    int rc = open_req(&client->end.socket);
    if (rc) {
        client_free(client);
        return err_of_nng(rc);
    }
    err = open_slots(client, options->parallel); /* after the socket's options, which contexts inherit when opened */
    if (err == OK) {
        rc = endpoint_dial(&client->end, NNG_FLAG_NONBLOCK);
        if (rc)
            log_failure("channel.dial_failed", options->address, rc);
        err = err_of_nng(rc);
    }
    if (err == OK)
        err = err_of_nng(endpoint_watch(&client->end));
    if (err) {
        channel_client_close(client);
        return err;
    }
    *ret = client;
    return OK;
}

enum err channel_send(struct channel_client *client, struct span message, uint32_t timeout_ms, channel_done *done,
                      void *user)
{
    if (message.len > MESSAGE_BYTES_MAX)
        return ERR_TOO_LARGE;
    struct slot *slot = client->free;
    if (!slot || client->closing)
        return ERR_FULL;
    nng_msg *msg;
    if (frame_new(message, &msg))
        return ERR_NOMEM;
    client->free = slot->next;
    timeout_ms = (uint32_t)size_min(timeout_ms, INT32_MAX);
    slot->state = SLOT_SENDING;
    slot->deadline_ms = clock_ms() + timeout_ms;
    slot->done = done;
    slot->user = user;
    nng_aio_set_msg(slot->aio, msg);
    nng_aio_set_timeout(slot->aio, timeout_ms ? (nng_duration)timeout_ms : 1);
    nng_ctx_send(slot->ctx, slot->aio);
    return OK;
}

static struct slot *done_take(struct channel_client *client)
{
    pthread_mutex_lock(&client->lock);
    struct slot *slot = client->first;
    if (slot) {
        client->first = slot->next;
        if (!client->first)
            client->last = &client->first;
    }
    pthread_mutex_unlock(&client->lock);
    return slot;
}

static void deliver(struct channel_client *client, struct slot *slot)
{
    struct span message = { 0 };
    nng_msg *reply = slot->reply;
    channel_done *done = slot->done;
    void *user = slot->user;
    enum err err = slot->err;
    if (err == OK && !frame_read(reply, &message))
        err = ERR_CORRUPT;
    if (client->closing && err == ERR_CLOSED)
        err = ERR_CANCELLED;
    slot->reply = NULL;
    slot->state = SLOT_FREE;
    slot->next = client->free;
    client->free = slot; /* before done, which may send again */
    done(user, err, message);
    if (reply)
        nng_msg_free(reply);
}

void channel_client_dispatch(struct channel_client *client)
{
    for (struct slot *slot; (slot = done_take(client)) != NULL;)
        deliver(client, slot);
}

void channel_client_close(struct channel_client *client)
{
    if (!client)
        return;
    bool busy = false;
    client->closing = true;
    endpoint_unwatch(&client->end);
    for (unsigned i = 0; i < client->slot_count; i++)
        nng_aio_stop(client->slots[i].aio); /* cancels, and waits for a running completion */
    for (unsigned i = 0; i < client->slot_count; i++) {
        struct slot *slot = &client->slots[i];
        busy = busy || slot->state != SLOT_FREE;
        /* Begun after the stop: nng neither took it nor tells. */
        if (slot->state == SLOT_SENDING)
            nng_msg_free(nng_aio_get_msg(slot->aio));
        if (slot->state == SLOT_SENDING || slot->state == SLOT_RECEIVING)
            slot_done(slot, ERR_CANCELLED);
    }
    close_socket(client->end.socket, busy);
    channel_client_dispatch(client);
    for (unsigned i = 0; i < client->slot_count; i++)
        nng_aio_free(client->slots[i].aio);
    client_free(client);
}

/* ---- without a loop ---- */

static nng_duration left_ms(uint64_t deadline_ms)
{
    uint64_t now = clock_ms();
    return deadline_ms > now ? (nng_duration)size_min(deadline_ms - now, INT32_MAX) : 1;
}

static int ask(nng_socket socket, nng_msg *request, uint64_t deadline_ms, nng_msg **ret)
{
    int rc = nng_socket_set_ms(socket, NNG_OPT_SENDTIMEO, left_ms(deadline_ms));
    if (rc == 0)
        rc = nng_sendmsg(socket, request, 0);
    if (rc) {
        nng_msg_free(request);
        return rc;
    }
    rc = nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, left_ms(deadline_ms));
    return rc ? rc : nng_recvmsg(socket, ret, 0);
}

enum err channel_ask(const char *address, const struct channel_tls *tls, struct span message, uint32_t timeout_ms,
                     struct buf *reply)
{
    uint64_t deadline_ms = clock_ms() + timeout_ms;
    struct endpoint end;
    if (message.len > MESSAGE_BYTES_MAX)
        return ERR_TOO_LARGE;
    enum err err = endpoint_init(&end, address, tls, NNG_TLS_MODE_CLIENT);
    if (err)
        return err;
    nng_msg *msg, *answer = NULL;
    int rc = open_req(&end.socket);
    if (rc) {
        endpoint_release(&end);
        return err_of_nng(rc);
    }
    /* On one machine a dial is answered at once, and "nobody listens" is worth knowing (unless a listener that ended is
     * just being replaced); over a network it could outlast the timeout. */
    const uint64_t refused_ms = clock_ms() + REFUSED_WAIT_MS;
    rc = endpoint_dial(&end, end.transport == TRANSPORT_TLS ? NNG_FLAG_NONBLOCK : 0);
    while (rc == NNG_ECONNREFUSED && clock_ms() < refused_ms && clock_ms() < deadline_ms) {
        nng_msleep(REDIAL_MS);
        rc = endpoint_dial(&end, 0);
    }
    if (rc == 0)
        rc = frame_new(message, &msg);
    if (rc == 0)
        rc = ask(end.socket, msg, deadline_ms, &answer);
    err = err_of_nng(rc);
    struct span bytes;
    if (err == OK)
        err = frame_read(answer, &bytes) ? buf_append(reply, bytes) : ERR_CORRUPT;
    if (answer)
        nng_msg_free(answer);
    close_socket(end.socket, err != OK);
    endpoint_release(&end);
    return err;
}
