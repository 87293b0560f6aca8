#include "proto/channel.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/endpoint.h"
#include "proto/limits.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/util/platform.h>
#include <pthread.h>

#define MAGIC             "FLR1"
#define MAGIC_BYTES       4u
#define MESSAGE_BYTES_MAX (FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES)
#define PARALLEL_MAX      4096u /* contexts of one socket: a mistyped number must not exhaust memory */

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
    uint64_t refused; /* atomic */
    pthread_mutex_t lock;
    bool left;                          /* no more wake-ups; under lock */
    unsigned holds;                     /* by the socket, each call in hand and a dispatch; under lock */
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
    if (!server->left)
        server->wake(server->wake_user);
    pthread_mutex_unlock(&server->lock);
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

static void server_hold(struct channel_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->holds++;
    pthread_mutex_unlock(&server->lock);
}

static void server_drop(struct channel_server *server)
{
    pthread_mutex_lock(&server->lock);
    REQUIRE(server->holds > 0);
    const bool last = --server->holds == 0;
    pthread_mutex_unlock(&server->lock);
    if (!last)
        return;
    endpoint_release(&server->end);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

static void server_stop(void *arg) /* on the keeper */
{
    struct channel_server *server = arg;
    for (unsigned i = 0; i < server->call_count; i++)
        nng_aio_stop(server->calls[i].aio); /* cancels, and waits for a running completion */
}

/* The socket is closed: its share of the memory goes. */
static void server_settle(void *arg)
{
    struct channel_server *server = arg;
    for (unsigned i = 0; i < server->call_count; i++) {
        struct channel_call *call = &server->calls[i];
        if (call->state == CALL_REPLYING) /* begun after the stop: nng neither took it nor tells */
            nng_msg_free(nng_aio_get_msg(call->aio));
        nng_aio_free(call->aio);
    }
    for (struct channel_call *call; (call = queue_take(server)) != NULL;)
        nng_msg_free(call->request);
    server_drop(server);
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
            return endpoint_err(rc); /* the context goes with the socket */
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
    server->holds = 1;
    server->end.stop = server_stop;
    server->end.release = server_settle;
    server->end.owner = server;
    err = endpoint_path_check(&server->end);
    int rc = err ? 0 : nng_rep0_open(&server->end.socket);
    if (err == OK && rc == 0) {
        err = endpoint_keep(&server->end);
        if (err)
            nng_close(server->end.socket);
    }
    if (err || rc) {
        server_drop(server);
        return err ? err : endpoint_err(rc);
    }
    rc = endpoint_configure(server->end.socket, false);
    err = rc ? endpoint_err(rc) : open_calls(server, options->parallel);
    if (err == OK) {
        rc = endpoint_listen(&server->end);
        if (rc)
            endpoint_log("channel.listen_failed", options->address, rc);
        err = rc == NNG_ENOENT ? ERR_IO : endpoint_err(rc); /* no such directory */
    }
    if (err) {
        channel_server_close(server);
        return err;
    }
    endpoint_watch(&server->end);
    server->listening = true;
    for (unsigned i = 0; i < server->call_count; i++)
        call_receive(&server->calls[i]);
    *ret = server;
    return OK;
}

void channel_server_dispatch(struct channel_server *server)
{
    struct channel_call *call;
    server_hold(server); /* our own stay: a handler may close the server and reply */
    while (!server->closed && (call = queue_take(server)) != NULL) {
        struct span message;
        REQUIRE(call->state == CALL_QUEUED && frame_read(call->request, &message));
        call->state = CALL_IN_HAND;
        server_hold(server);
        server->handler(server->user, call, message, &call->peer);
    }
    server_drop(server);
}

void channel_reply(struct channel_call *call, struct span message)
{
    struct channel_server *server = call->server;
    REQUIRE(call->state == CALL_IN_HAND);
    nng_msg *reply = NULL;
    if (server->closed) {
        nng_msg_free(call->request);
        call->request = NULL; /* the state stays: a keeper that was left behind may look at it */
        server_drop(server);
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
    server_drop(server);
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
    if (endpoint_close(&server->end, server->listening)) {
        server_settle(server);
        return;
    }
    pthread_mutex_lock(&server->lock);
    server->left = true;
    pthread_mutex_unlock(&server->lock);
    endpoint_leave(&server->end);
}

/* ---- client ---- */

enum slot_state { SLOT_FREE, SLOT_SENDING, SLOT_RECEIVING, SLOT_DONE };

struct slot { /* one request in flight; nng's between send and done */
    struct channel_client *client;
    struct slot *next; /* in the free list or the done list */
    enum slot_state state;
    bool in_flight; /* loop only: done is due */
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
    bool left;                  /* no more wake-ups; under lock */
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
    if (!client->left)
        client->wake(client->wake_user);
    pthread_mutex_unlock(&client->lock);
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
            slot_done(slot, endpoint_err(rc));
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
    slot_done(slot, endpoint_err(rc));
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

static void client_free(struct channel_client *client)
{
    endpoint_release(&client->end);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

static void client_stop(void *arg) /* on the keeper */
{
    struct channel_client *client = arg;
    for (unsigned i = 0; i < client->slot_count; i++)
        nng_aio_stop(client->slots[i].aio); /* cancels, and waits for a running completion */
}

/* The socket is closed: what nng will not complete any more is cancelled. */
static void client_settle(struct channel_client *client)
{
    for (unsigned i = 0; i < client->slot_count; i++) {
        struct slot *slot = &client->slots[i];
        if (slot->state == SLOT_SENDING) /* begun after the stop: nng neither took it nor tells */
            nng_msg_free(nng_aio_get_msg(slot->aio));
        if (slot->state == SLOT_SENDING || slot->state == SLOT_RECEIVING)
            slot_done(slot, ERR_CANCELLED);
        nng_aio_free(slot->aio);
    }
}

static void client_settle_late(void *arg) /* on the keeper, left behind */
{
    struct channel_client *client = arg;
    client_settle(client);
    for (struct slot *slot; (slot = done_take(client)) != NULL;)
        if (slot->reply)
            nng_msg_free(slot->reply);
    client_free(client);
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
            return endpoint_err(rc);
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
    client->end.stop = client_stop;
    client->end.release = client_settle_late;
    client->end.owner = client;
    int rc = nng_req0_open(&client->end.socket);
    err = rc ? endpoint_err(rc) : endpoint_keep(&client->end);
    if (err) {
        if (rc == 0)
            nng_close(client->end.socket);
        client_free(client);
        return err;
    }
    rc = endpoint_configure(client->end.socket, true);
    /* After the socket's options, which contexts inherit when opened. */
    err = rc ? endpoint_err(rc) : open_slots(client, options->parallel);
    if (err == OK) {
        rc = endpoint_dial(&client->end, NNG_FLAG_NONBLOCK);
        if (rc)
            endpoint_log("channel.dial_failed", options->address, rc);
        err = endpoint_err(rc);
    }
    if (err) {
        channel_client_close(client);
        return err;
    }
    endpoint_watch(&client->end);
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
    slot->in_flight = true;
    slot->deadline_ms = clock_ms() + timeout_ms;
    slot->done = done;
    slot->user = user;
    nng_aio_set_msg(slot->aio, msg);
    nng_aio_set_timeout(slot->aio, timeout_ms ? (nng_duration)timeout_ms : 1);
    nng_ctx_send(slot->ctx, slot->aio);
    return OK;
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
    slot->in_flight = false;
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

/* nng may still complete what is in flight; nobody will hear of it. */
static void client_leave(struct channel_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->left = true;
    pthread_mutex_unlock(&client->lock);
    channel_client_dispatch(client);
    for (unsigned i = 0; i < client->slot_count; i++) {
        struct slot *slot = &client->slots[i];
        if (slot->in_flight)
            slot->done(slot->user, ERR_CANCELLED, (struct span){ 0 });
    }
    endpoint_leave(&client->end);
}

void channel_client_close(struct channel_client *client)
{
    if (!client)
        return;
    bool busy = false;
    client->closing = true;
    for (unsigned i = 0; i < client->slot_count; i++)
        busy = busy || client->slots[i].in_flight;
    if (endpoint_close(&client->end, busy)) {
        client_settle(client);
        channel_client_dispatch(client);
        client_free(client);
        return;
    }
    client_leave(client);
}

/* ---- without a loop: a thread asks, so that no wait of nng's (for a handshake, for a close) is the caller's ---- */

#define REFUSED_WAIT_MS 400 /* by then a server that lives listens again */
#define REDIAL_MS       20
#define GRACE_MS        200 /* for nng to tell of the timeout itself */

struct asking { /* freed by whoever is last */
    struct endpoint end;
    nng_msg *request, *answer; /* owned */
    uint64_t deadline_ms;
    int rc;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool answered, closed, left, counted; /* under lock; counted: a close left behind */
};

static void asking_free(struct asking *asking)
{
    if (asking->request)
        nng_msg_free(asking->request);
    if (asking->answer)
        nng_msg_free(asking->answer);
    endpoint_release(&asking->end);
    pthread_cond_destroy(&asking->changed);
    pthread_mutex_destroy(&asking->lock);
    free(asking);
}

static nng_duration left_ms(uint64_t deadline_ms)
{
    uint64_t now = clock_ms();
    return deadline_ms > now ? (nng_duration)size_min(deadline_ms - now, INT32_MAX) : 1;
}

static int ask(struct asking *asking)
{
    struct endpoint *end = &asking->end;
    const uint64_t refused_ms = clock_ms() + REFUSED_WAIT_MS;
    /* On one machine a dial is answered at once, and "nobody listens" is worth knowing (unless a listener that ended is
     * just being replaced). */
    int rc = endpoint_dial(end, end->transport == TRANSPORT_TLS ? NNG_FLAG_NONBLOCK : 0);
    while (rc == NNG_ECONNREFUSED && clock_ms() < refused_ms && clock_ms() < asking->deadline_ms) {
        nng_msleep(REDIAL_MS);
        rc = endpoint_dial(end, 0);
    }
    if (rc == 0 && clock_ms() >= asking->deadline_ms)
        rc = NNG_ETIMEDOUT; /* the caller has gone: nothing is to be sent any more */
    if (rc == 0)
        rc = nng_socket_set_ms(end->socket, NNG_OPT_SENDTIMEO, left_ms(asking->deadline_ms));
    if (rc == 0)
        rc = nng_sendmsg(end->socket, asking->request, 0);
    if (rc)
        return rc;
    asking->request = NULL;
    rc = nng_socket_set_ms(end->socket, NNG_OPT_RECVTIMEO, left_ms(asking->deadline_ms));
    return rc ? rc : nng_recvmsg(end->socket, &asking->answer, 0);
}

static void *asking_run(void *arg)
{
    struct asking *asking = arg;
    const int rc = ask(asking);
    pthread_mutex_lock(&asking->lock);
    asking->rc = rc;
    asking->answered = true;
    pthread_cond_signal(&asking->changed);
    pthread_mutex_unlock(&asking->lock);
    if (rc)
        nng_msleep(ENDPOINT_QUIET_MS);
    nng_close(asking->end.socket);
    pthread_mutex_lock(&asking->lock);
    asking->closed = true;
    const bool left = asking->left;
    if (asking->counted)
        endpoint_left(-1);
    pthread_cond_signal(&asking->changed);
    pthread_mutex_unlock(&asking->lock);
    if (left)
        asking_free(asking);
    return NULL;
}

static enum err asking_new(const char *address, const struct channel_tls *tls, struct span message,
                           uint64_t deadline_ms, struct asking **ret)
{
    struct asking *asking = fault_calloc(1, sizeof(*asking));
    if (!asking)
        return ERR_NOMEM;
    enum err err = endpoint_init(&asking->end, address, tls, NNG_TLS_MODE_CLIENT);
    if (err) {
        free(asking);
        return err;
    }
    asking->deadline_ms = deadline_ms;
    pthread_mutex_init(&asking->lock, NULL);
    endpoint_cond_init(&asking->changed);
    int rc = frame_new(message, &asking->request);
    if (rc == 0)
        rc = nng_req0_open(&asking->end.socket);
    if (rc == 0) {
        rc = endpoint_configure(asking->end.socket, true);
        if (rc == 0 && endpoint_thread(asking_run, asking) != 0)
            rc = NNG_ENOMEM;
        if (rc)
            nng_close(asking->end.socket);
    }
    if (rc)
        asking_free(asking);
    else
        *ret = asking;
    return endpoint_err(rc);
}

enum err channel_ask(const char *address, const struct channel_tls *tls, struct span message, uint32_t timeout_ms,
                     struct buf *reply)
{
    const uint64_t deadline_ms = clock_ms() + timeout_ms;
    struct asking *asking = NULL;
    if (message.len > MESSAGE_BYTES_MAX)
        return ERR_TOO_LARGE;
    enum err err = asking_new(address, tls, message, deadline_ms, &asking);
    if (!asking)
        return err;
    nng_msg *answer = NULL;
    pthread_mutex_lock(&asking->lock);
    bool closed = false;
    if (endpoint_wait(&asking->changed, &asking->lock, &asking->answered, (uint64_t)left_ms(deadline_ms) + GRACE_MS)) {
        closed = endpoint_wait(&asking->changed, &asking->lock, &asking->closed, endpoint_close_wait_ms());
        err = endpoint_err(asking->rc);
        answer = asking->answer;
        asking->answer = NULL;
        asking->counted = !closed;
        if (!closed)
            endpoint_left(+1);
    } else {
        err = ERR_TIMEOUT; /* in a handshake that nng gives ten seconds */
    }
    asking->left = !closed;
    pthread_mutex_unlock(&asking->lock);
    if (closed)
        asking_free(asking);
    struct span bytes;
    if (err == OK)
        err = frame_read(answer, &bytes) ? buf_append(reply, bytes) : ERR_CORRUPT;
    if (answer)
        nng_msg_free(answer);
    return err;
}
