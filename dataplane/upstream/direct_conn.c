#include "dataplane/upstream/direct_internal.h"
#include "common/fault.h"
#include <sys/socket.h>

#define BUFS_MAX 16u /* of one write: a body has few parts */

/* ---- life ---- */

void direct_conn_become(struct direct_conn *conn, enum direct_conn_state state)
{
    static const unsigned from[] = {
        [DIRECT_CONN_DIALING] = 0,
        [DIRECT_CONN_SECURING] = 1u << DIRECT_CONN_DIALING,
        [DIRECT_CONN_BUSY] = 1u << DIRECT_CONN_DIALING | 1u << DIRECT_CONN_SECURING | 1u << DIRECT_CONN_IDLE,
        [DIRECT_CONN_IDLE] = 1u << DIRECT_CONN_BUSY,
        [DIRECT_CONN_CLOSING] =
            1u << DIRECT_CONN_DIALING | 1u << DIRECT_CONN_SECURING | 1u << DIRECT_CONN_BUSY | 1u << DIRECT_CONN_IDLE,
    };
    REQUIRE(from[state] & 1u << conn->state);
    conn->state = state;
}

size_t direct_conn_memory(const struct direct_conn *conn)
{
    if (conn->state == DIRECT_CONN_IDLE)
        return 0; /* at most DIRECT_IDLE_BYTES */
    return conn->held.cap + conn->out.cap + http1_memory(&conn->parser) + direct_tls_buffered(conn);
}

static void account(struct direct_conn *conn, size_t now)
{
    const struct direct_lane *lane = conn->lane;
    if (lane->account && now != conn->accounted)
        (void)lane->account(lane->account_user, conn->accounted, now);
    conn->accounted = now;
}

void direct_conn_account(struct direct_conn *conn)
{
    account(conn, direct_conn_memory(conn));
}

/* It may hold a head with a credential. */
static void forget_out(struct direct_conn *conn)
{
    if (conn->out.data)
        explicit_bzero(conn->out.data, conn->out.cap);
    buf_release(&conn->out);
}

static void on_closed(uv_handle_t *handle)
{
    struct direct_conn *conn = handle->data;
    struct direct_lane *lane = conn->lane;
    account(conn, 0);
    direct_tls_free(conn->tls);
    http1_release(&conn->parser);
    forget_out(conn);
    buf_release(&conn->held);
    free(conn);
    direct_handle_closed(lane);
}

void direct_conn_close(struct direct_conn *conn)
{
    if (conn->state == DIRECT_CONN_CLOSING)
        return;
    if (conn->state == DIRECT_CONN_IDLE)
        direct_pool_remove(conn);
    if (conn->try && conn->try->conn == conn)
        conn->try->conn = NULL;
    conn->try = NULL;
    direct_conn_become(conn, DIRECT_CONN_CLOSING);
    direct_destination_unuse(conn->destination);
    conn->destination = NULL;
    conn->lane->open--;
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct direct_conn *conn = connect->handle->data;
    if (conn->state != DIRECT_CONN_CLOSING)
        direct_dial_connected(conn, status);
}

int direct_conn_open(struct direct_try *t, unsigned address, struct direct_conn **ret)
{
    struct direct_destination *d = t->destination;
    struct direct_lane *lane = d->lane;
    if (fault_hit(FAULT_CONNECT))
        return UV_ECONNREFUSED;
    if (lane->open >= lane->connections_max)
        direct_pool_drop_oldest(lane);
    struct direct_conn *conn = fault_calloc(1, sizeof(*conn));
    if (!conn)
        return UV_ENOMEM;
    uv_tcp_init(lane->loop, &conn->tcp);
    conn->tcp.data = conn;
    conn->lane = lane;
    conn->destination = d;
    conn->try = t;
    conn->address = address;
    conn->state = DIRECT_CONN_DIALING;
    http1_init(&conn->parser, HTTP1_RESPONSE);
    buf_init(&conn->held, DIRECT_READ_BYTES);
    buf_init(&conn->out, DIRECT_CIPHER_BYTES_MAX);
    d->users++;
    lane->open++;
    lane->open_handles++;
    uv_tcp_nodelay(&conn->tcp, 1);
    const int failed = uv_tcp_connect(&conn->connect, &conn->tcp, &d->addresses[address].any, on_connected);
    if (failed) {
        direct_conn_close(conn);
        return failed;
    }
    *ret = conn;
    return 0;
}

/* ---- bytes out ---- */

void direct_conn_sent(struct direct_try *t)
{
    t->sent = true;
    if (t->phase == UPSTREAM_SENDING)
        t->phase = UPSTREAM_SENT;
}

enum err direct_conn_write_failed(struct direct_conn *conn)
{
    char byte;
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&conn->tcp, &fd) != 0 || recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
        return ERR_CLOSED;
    /* What is there may be less than an answer (TLS's tickets), and the connection may live on (no memory in the kernel):
     * a peer who hears that nothing more comes does not wait for it. */
    (void)shutdown(fd, SHUT_WR);
    conn->send_failed = true;
    return OK;
}

int direct_conn_try_write(struct direct_conn *conn, const uv_buf_t *bufs, unsigned count)
{
    if (fault_hit(FAULT_WRITE))
        return UV_EPIPE;
    const int taken = uv_try_write((uv_stream_t *)&conn->tcp, bufs, count);
    return taken == UV_EAGAIN ? 0 : taken;
}

static void on_written(uv_write_t *write, int status)
{
    struct direct_conn *conn = write->handle->data;
    const char *why = "the request could not be written";
    if (conn->state == DIRECT_CONN_CLOSING)
        return;
    conn->writing = false;
    forget_out(conn);
    struct direct_try *t = conn->try;
    enum err err = status < 0 ? direct_conn_write_failed(conn) : OK;
    if (!err && conn->tls)
        err = direct_tls_written(conn);
    if (!err && conn->state == DIRECT_CONN_BUSY && !t->sent_head) { /* what TLS had to say came before it */
        buf_clear(&conn->lane->head);
        err = direct_head_write(&conn->lane->head, &t->request);
    }
    if (!err && conn->state == DIRECT_CONN_BUSY)
        err = direct_conn_send(conn);
    if (err && t)
        direct_try_broken(t, err, why);
    else if (err)
        direct_conn_close(conn);
    direct_conn_account(conn); /* its memory lives until its handle is closed */
}

enum err direct_conn_write_later(struct direct_conn *conn, const uv_buf_t *bufs, unsigned count)
{
    const int failed =
        fault_hit(FAULT_WRITE) ? UV_EPIPE : uv_write(&conn->write, (uv_stream_t *)&conn->tcp, bufs, count, on_written);
    conn->writing = failed == 0;
    return failed == 0 ? OK : failed == UV_ENOMEM ? ERR_NOMEM : ERR_IO;
}

/* `n` bytes of the parts are taken. */
static void skip_parts(struct direct_try *t, size_t n)
{
    while (n > 0) {
        const size_t left = t->request.body_parts[t->part_at].len - t->part_offset;
        if (n < left) {
            t->part_offset += n;
            return;
        }
        n -= left;
        t->part_at++;
        t->part_offset = 0;
    }
}

/* What is to be written next, first `before`. The sum of the parts goes to *ret_parts. */
static unsigned gather(const struct direct_try *t, struct span before, uv_buf_t *bufs, size_t *ret_parts)
{
    unsigned count = 0;
    size_t offset = t->part_offset;
    *ret_parts = 0;
    if (before.len)
        bufs[count++] = (uv_buf_t){ .base = (char *)(uintptr_t)before.ptr, .len = before.len };
    for (unsigned i = t->part_at; i < t->request.body_part_count && count < BUFS_MAX; i++, offset = 0) {
        const struct span part = t->request.body_parts[i];
        if (part.len == offset)
            continue;
        bufs[count++] = (uv_buf_t){ .base = (char *)(uintptr_t)part.ptr + offset, .len = part.len - offset };
        *ret_parts += part.len - offset;
    }
    return count;
}

/* What the socket did not take goes when it can: the head's rest is copied, the parts are lent until then. */
static enum err send_later(struct direct_conn *conn, struct span head)
{
    uv_buf_t bufs[BUFS_MAX];
    size_t parts;
    enum err err = buf_append(&conn->out, head);
    if (err)
        return err == ERR_FULL ? ERR_TOO_LARGE : err;
    const unsigned count = gather(conn->try, buf_span(&conn->out), bufs, &parts);
    err = direct_conn_write_later(conn, bufs, count);
    if (!err)
        skip_parts(conn->try, parts);
    return err;
}

/* One vectored write takes most requests whole. */
static enum err send_plain(struct direct_conn *conn)
{
    struct direct_try *t = conn->try;
    struct span head = t->sent_head ? span_of("", 0) : buf_span(&conn->lane->head);
    while (!t->sent && !conn->writing && !conn->send_failed) {
        uv_buf_t bufs[BUFS_MAX];
        size_t parts;
        const unsigned count = gather(t, head, bufs, &parts);
        if (count == 0) {
            direct_conn_sent(t);
            break;
        }
        const int taken = direct_conn_try_write(conn, bufs, count);
        t->sent_head = true;
        if (taken < 0)
            return direct_conn_write_failed(conn);
        const size_t of_head = size_min(head.len, (size_t)taken), of_parts = (size_t)taken - of_head;
        head = span_skip(head, of_head);
        skip_parts(t, of_parts);
        if (head.len || of_parts < parts)
            return send_later(conn, head);
    }
    return OK;
}

enum err direct_conn_send(struct direct_conn *conn)
{
    if (conn->writing) /* on_written goes on */
        return OK;
    return conn->tls ? direct_tls_send(conn) : send_plain(conn);
}

/* ---- bytes in ---- */

static enum err translate(enum err err)
{
    switch (err) {
    case ERR_NOMEM:
    case ERR_CLOSED:
        return err;
    case ERR_TOO_LARGE:
    case ERR_TOO_MANY:
        return ERR_TOO_LARGE;
    default:
        return ERR_SYNTAX;
    }
}

static bool head_fits(const struct direct_conn *conn)
{
    return conn->parser.bytes.len <= conn->try->request.response_head_bytes_max;
}

static enum direct_progress give_up(struct direct_try *t, enum err err, const char *why)
{
    direct_try_finish(t, err, why);
    return DIRECT_GONE;
}

/* Names become lower case where they lie: in the parser's buffer. */
static void give_head(struct direct_conn *conn)
{
    struct upstream_header headers[HTTP1_HEADERS_MAX];
    struct direct_try *t = conn->try;
    const struct http1_head *head = http1_head(&conn->parser);
    for (unsigned i = 0; i < head->header_count; i++) {
        const struct http1_header *h = &head->headers[i];
        char *name = conn->parser.bytes.data + (h->name.ptr - conn->parser.bytes.data);
        for (size_t k = 0; k < h->name.len; k++)
            name[k] = (char)(name[k] >= 'A' && name[k] <= 'Z' ? name[k] | 0x20 : name[k]);
        headers[i] = (struct upstream_header){ .name = h->name, .value = h->value };
    }
    if (conn->reused)
        conn->lane->reused++;
    else
        conn->lane->connects++;
    t->phase = UPSTREAM_HEAD;
    t->events.head(t->user, &(struct upstream_head){ .status = head->status,
                                                     .headers = headers,
                                                     .header_count = head->header_count,
                                                     .reused = conn->reused });
}

/* Chunks of one read are moved together where they lie (the bytes are the lane's own) and given at once: a provider
 * sends each event in a chunk of its own, and the client should not get a write for each. */
static void join(struct span *body, struct span more)
{
    if (body->len == 0) {
        *body = more;
        return;
    }
    memmove((char *)(uintptr_t)body->ptr + body->len, more.ptr, more.len);
    body->len += more.len;
}

static void give_body(struct direct_try *t, struct span *body)
{
    const struct span bytes = *body;
    *body = span_of(NULL, 0);
    if (bytes.len == 0)
        return;
    t->phase = UPSTREAM_BODY;
    t->events.body(t->user, bytes);
}

enum direct_progress direct_conn_parse(struct direct_conn *conn, struct span *bytes)
{
    struct direct_try *t = conn->try;
    struct span body = { NULL, 0 }; /* joined, not given yet */
    if (bytes->len)
        conn->heard = true;
    while (conn->try) {
        enum http1_event event;
        struct span more;
        if (t->paused)
            return DIRECT_PAUSED;
        const enum err err = http1_next(&conn->parser, bytes, &event, &more);
        if (!err && event == HTTP1_BODY) {
            join(&body, more);
            continue;
        }
        give_body(t, &body);
        if (!conn->try)
            break;
        if (err)
            return give_up(t, translate(err), http1_why(&conn->parser));
        switch (event) {
        case HTTP1_MORE:
            if (t->phase < UPSTREAM_HEAD && !head_fits(conn))
                return give_up(t, ERR_TOO_LARGE, "the response's head is too large");
            return t->paused ? DIRECT_PAUSED : DIRECT_MORE;
        case HTTP1_HEAD:
            if (!head_fits(conn))
                return give_up(t, ERR_TOO_LARGE, "the response's head is too large");
            give_head(conn);
            break;
        case HTTP1_END:
            if (!t->paused)
                return DIRECT_ENDED;
            http1_end_again(&conn->parser);
            break;
        case HTTP1_BODY:
            break;
        }
    }
    return DIRECT_GONE;
}

static void complete_plain(struct direct_conn *conn, struct span rest)
{
    direct_try_complete(conn->try, http1_head(&conn->parser)->keep_alive && rest.len == 0);
}

static void take_plain(struct direct_conn *conn, struct span bytes)
{
    switch (direct_conn_parse(conn, &bytes)) {
    case DIRECT_PAUSED:
        direct_conn_pause(conn); /* the pause may be older than the connection */
        if (buf_append(&conn->held, bytes) != OK)
            direct_try_finish(conn->try, ERR_NOMEM, "out of memory");
        break;
    case DIRECT_ENDED:
        complete_plain(conn, bytes);
        break;
    case DIRECT_MORE:
    case DIRECT_GONE:
        break;
    }
}

static void resume_plain(struct direct_conn *conn)
{
    struct span rest = buf_span(&conn->held);
    switch (direct_conn_parse(conn, &rest)) {
    case DIRECT_PAUSED:
        buf_consume(&conn->held, conn->held.len - rest.len);
        break;
    case DIRECT_ENDED:
        complete_plain(conn, rest);
        break;
    case DIRECT_MORE:
        buf_release(&conn->held);
        if (direct_conn_read(conn) != 0)
            direct_try_finish(conn->try, ERR_IO, "the connection could not be read");
        break;
    case DIRECT_GONE:
        break;
    }
}

void direct_conn_resume(struct direct_conn *conn)
{
    if (conn->tls)
        direct_tls_resume(conn);
    else
        resume_plain(conn);
    direct_conn_account(conn);
}

void direct_conn_ended(struct direct_conn *conn, int uv_error)
{
    struct direct_try *t = conn->try;
    enum http1_event event;
    const enum err err = http1_eof(&conn->parser, &event);
    if (err)
        direct_try_broken(t, translate(err), http1_why(&conn->parser));
    else if (event == HTTP1_MORE)
        direct_try_broken(t, ERR_CLOSED, "the connection was closed before an answer");
    else if (uv_error != UV_EOF || (conn->tls && !direct_tls_ended(conn)))
        direct_try_finish(t, ERR_CLOSED, "the connection broke in a body that ends with it");
    else
        direct_try_complete(t, false);
}

static void take_handshake(struct direct_conn *conn, struct span bytes)
{
    const char *why = NULL;
    const enum err err = direct_tls_handshake(conn, bytes, &why);
    if (err == ERR_AGAIN)
        return;
    if (err) {
        direct_dial_insecure(conn, err, why);
        return;
    }
    direct_dial_secured(conn);
    if (conn->state == DIRECT_CONN_BUSY)
        direct_tls_take_rest(conn);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    const struct direct_conn *conn = handle->data;
    (void)suggested;
    *ret = (uv_buf_t){ .base = conn->lane->read_buffer, .len = DIRECT_READ_BYTES };
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct direct_conn *conn = stream->data;
    if (got == 0)
        return;
    if (fault_hit(FAULT_READ))
        got = UV_ECONNRESET;
    const struct span bytes = span_of(buf->base, got > 0 ? (size_t)got : 0);
    switch (conn->state) {
    case DIRECT_CONN_IDLE:
        if (got < 0 || !conn->tls || !direct_tls_take_idle(conn, bytes))
            direct_conn_close(conn);
        break;
    case DIRECT_CONN_SECURING:
        if (got < 0)
            direct_dial_insecure(conn, ERR_CLOSED, "the connection was closed in the TLS handshake");
        else
            take_handshake(conn, bytes);
        break;
    case DIRECT_CONN_BUSY:
        if (got < 0)
            direct_conn_ended(conn, (int)got);
        else if (conn->tls)
            direct_tls_take(conn, bytes);
        else
            take_plain(conn, bytes);
        break;
    case DIRECT_CONN_DIALING:
    case DIRECT_CONN_CLOSING:
        break;
    }
    direct_conn_account(conn);
}

int direct_conn_read(struct direct_conn *conn)
{
    if (conn->reading)
        return 0;
    const int failed = uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    conn->reading = failed == 0;
    return failed;
}

void direct_conn_pause(struct direct_conn *conn)
{
    if (!conn->reading)
        return;
    conn->reading = false;
    uv_read_stop((uv_stream_t *)&conn->tcp);
}
