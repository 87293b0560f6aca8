#include "tests/support/fake_conn.h"
#include "tests/support/fake_control.h"
#include "tests/support/fake_tls.h"
#include <arpa/inet.h>
#include <errno.h>

static void pump(struct fake_conn *conn);

void fake_must(enum err err)
{
    if (err == OK)
        return;
    fprintf(stderr, "fakellm: %s\n", err_name(err));
    exit(70);
}

/* ---- requests ---- */

struct span fake_request_url(const struct fake_request *request)
{
    return span_head(buf_span(&request->head), request->url_len);
}

struct span fake_request_header(const struct fake_request *request, struct span name)
{
    const char *head = buf_span(&request->head).ptr;
    for (unsigned i = 0; i < request->header_count; i++) {
        const struct fake_header *h = &request->headers[i];
        if (h->name_len == name.len && span_eq_nocase(span_of(head + h->name_at, h->name_len), name))
            return span_of(head + h->value_at, h->value_len);
    }
    return span_of("", 0);
}

static struct fake_conn *conn_of(llhttp_t *parser)
{
    return CONTAINER_OF(parser, struct fake_conn, parser);
}

static int on_begin(llhttp_t *parser)
{
    struct fake_conn *conn = conn_of(parser);
    buf_clear(&conn->request.head);
    buf_clear(&conn->request.body);
    conn->request.url_len = 0;
    conn->request.header_count = 0;
    conn->in_value = true;
    return 0;
}

static int append_head(struct fake_conn *conn, const char *at, size_t n)
{
    return buf_append(&conn->request.head, span_of(at, n)) == OK ? 0 : -1;
}

static int on_url(llhttp_t *parser, const char *at, size_t n)
{
    struct fake_conn *conn = conn_of(parser);
    conn->request.url_len += n;
    return append_head(conn, at, n);
}

static int on_field(llhttp_t *parser, const char *at, size_t n)
{
    struct fake_conn *conn = conn_of(parser);
    struct fake_request *request = &conn->request;
    if (conn->in_value) {
        if (request->header_count == FAKE_HEADERS_MAX)
            return -1;
        request->headers[request->header_count++] = (struct fake_header){ .name_at = (uint32_t)request->head.len };
        conn->in_value = false;
    }
    request->headers[request->header_count - 1].name_len += (uint32_t)n;
    return append_head(conn, at, n);
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
    struct fake_conn *conn = conn_of(parser);
    struct fake_request *request = &conn->request;
    if (request->header_count == 0)
        return -1;
    struct fake_header *header = &request->headers[request->header_count - 1];
    if (!conn->in_value) {
        header->value_at = (uint32_t)request->head.len;
        conn->in_value = true;
    }
    header->value_len += (uint32_t)n;
    return append_head(conn, at, n);
}

static int on_headers_complete(llhttp_t *parser)
{
    struct fake_conn *conn = conn_of(parser);
    struct fake_request *request = &conn->request;
    request->method = llhttp_get_method(parser);
    request->http10 = llhttp_get_http_major(parser) == 1 && llhttp_get_http_minor(parser) == 0;
    if (!span_empty(fake_request_header(request, SPAN("expect")))) {
        fake_must(buf_append(&conn->out, SPAN("HTTP/1.1 100 Continue\r\n\r\n")));
        fake_conn_flush(conn);
    }
    return 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    return buf_append(&conn_of(parser)->request.body, span_of(at, n)) == OK ? 0 : -1;
}

/* Paused here, so that the bytes of a pipelined request wait until this one is answered. */
static int on_complete(llhttp_t *parser)
{
    conn_of(parser)->request.keep_alive = llhttp_should_keep_alive(parser) != 0;
    return HPE_PAUSED;
}

static void settings_init(llhttp_settings_t *settings)
{
    llhttp_settings_init(settings);
    settings->on_message_begin = on_begin;
    settings->on_url = on_url;
    settings->on_header_field = on_field;
    settings->on_header_value = on_value;
    settings->on_headers_complete = on_headers_complete;
    settings->on_body = on_body;
    settings->on_message_complete = on_complete;
}

static void malformed(struct fake_conn *conn)
{
    conn->server->stats.bad_requests++;
    conn->request.keep_alive = false;
    conn->busy = true;
    fake_must(
        buf_append(&conn->out, SPAN("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")));
    fake_conn_finish(conn);
}

/* Parses up to the end of one request. Returns the bytes used. */
static size_t parse(struct fake_conn *conn, struct span bytes)
{
    llhttp_errno_t code = llhttp_execute(&conn->parser, bytes.ptr, bytes.len);
    if (code == HPE_OK || conn->closing)
        return bytes.len;
    if (code != HPE_PAUSED) {
        malformed(conn);
        return bytes.len;
    }
    size_t used = (size_t)(llhttp_get_error_pos(&conn->parser) - bytes.ptr);
    llhttp_resume(&conn->parser);
    conn->busy = true;
    fake_play_start(conn);
    return used;
}

static void pump(struct fake_conn *conn)
{
    if (conn->pumping)
        return;
    conn->pumping = true;
    while (!conn->busy && !conn->closing && conn->backlog.len > 0) {
        /* The buffer may not move below llhttp, and an answer may not grow it: nothing is read while this runs. */
        size_t used = parse(conn, buf_span(&conn->backlog));
        buf_consume(&conn->backlog, used);
    }
    conn->pumping = false;
}

/* Plain bytes from the peer. */
static void take(struct fake_conn *conn, struct span bytes)
{
    conn->server->stats.bytes_in += bytes.len;
    if (!conn->busy && conn->backlog.len == 0) {
        conn->pumping = true;
        while (!conn->busy && !conn->closing && bytes.len > 0)
            bytes = span_skip(bytes, parse(conn, bytes));
        conn->pumping = false;
    }
    if (bytes.len > 0 && !conn->closing && buf_append(&conn->backlog, bytes) != OK)
        fake_conn_close(conn);
    if (!conn->closing)
        pump(conn);
}

static void take_encrypted(struct fake_conn *conn, struct span bytes)
{
    char plain[16 * 1024];
    size_t n = 0;
    fake_must(fake_tls_feed(conn->tls, bytes));
    for (;;) {
        enum err err = fake_tls_read(conn->tls, plain, sizeof(plain), &n);
        if (err == OK) {
            take(conn, span_of(plain, n));
            if (conn->closing)
                return;
            continue;
        }
        fake_conn_flush(conn); /* handshake messages, an alert, and what waited for the handshake */
        if (err != ERR_AGAIN)
            fake_conn_close(conn);
        return;
    }
}

/* ---- writing ---- */

static void on_written(uv_write_t *write, int status);

static void settled(struct fake_conn *conn)
{
    if (conn->close_when_flushed) {
        fake_conn_close(conn);
        return;
    }
    if (!conn->finishing) {
        if (conn->busy)
            fake_play_drained(conn);
        return;
    }
    conn->finishing = false;
    conn->busy = false;
    conn->server->stats.responses++;
    if (conn->request.keep_alive)
        pump(conn);
    else
        fake_conn_close(conn);
}

void fake_conn_flush(struct fake_conn *conn)
{
    struct buf *from = conn->tls ? &conn->wire : &conn->out;
    if (conn->closing || conn->writing || conn->trickle > 0)
        return;
    if (conn->tls)
        fake_must(fake_tls_write(conn->tls, &conn->out, &conn->wire));
    while (from->len > 0) {
        uv_buf_t bytes = uv_buf_init(from->data + from->start, (unsigned)size_min(from->len, 1u << 30));
        int n = uv_try_write((uv_stream_t *)&conn->tcp, &bytes, 1);
        if (n == UV_EAGAIN)
            break;
        if (n < 0) {
            fake_conn_close(conn);
            return;
        }
        conn->server->stats.bytes_out += (uint64_t)n;
        buf_consume(from, (size_t)n);
    }
    if (from->len == 0)
        return;
    struct buf empty = conn->inflight;
    conn->inflight = *from;
    *from = empty;
    from->max = conn->inflight.max;
    uv_buf_t bytes = uv_buf_init(conn->inflight.data + conn->inflight.start, (unsigned)conn->inflight.len);
    conn->writing = true;
    if (uv_write(&conn->write, (uv_stream_t *)&conn->tcp, &bytes, 1, on_written) != 0) {
        conn->writing = false;
        fake_conn_close(conn);
    }
}

static void on_written(uv_write_t *write, int status)
{
    struct fake_conn *conn = write->data;
    conn->writing = false;
    if (conn->closing)
        return;
    if (status != 0) {
        fake_conn_close(conn);
        return;
    }
    conn->server->stats.bytes_out += conn->inflight.len;
    buf_clear(&conn->inflight);
    fake_conn_flush(conn);
    if (!conn->closing && !conn->writing)
        settled(conn);
}

void fake_conn_finish(struct fake_conn *conn)
{
    conn->finishing = true;
    fake_conn_flush(conn);
    if (!conn->closing && !conn->writing && conn->trickle == 0)
        settled(conn);
}

/* ---- life ---- */

static void release_conn(struct fake_conn *conn)
{
    buf_release(&conn->request.head);
    buf_release(&conn->request.body);
    buf_release(&conn->backlog);
    buf_release(&conn->out);
    buf_release(&conn->wire);
    buf_release(&conn->inflight);
    fake_play_release(&conn->play);
    free(conn);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct fake_conn *conn = handle->data;
    if (--conn->handles > 0)
        return;
    fake_tls_free(conn->tls);
    release_conn(conn);
}

static void detach(struct fake_conn *conn)
{
    struct fake_server *server = conn->server;
    conn->closing = true;
    fake_play_gone(conn);
    server->stats.connections_open--;
    *(conn->prev ? &conn->prev->next : &server->conns) = conn->next;
    if (conn->next)
        conn->next->prev = conn->prev;
    uv_close((uv_handle_t *)&conn->timer, on_handle_closed);
}

void fake_conn_close(struct fake_conn *conn)
{
    if (conn->closing)
        return;
    detach(conn);
    uv_close((uv_handle_t *)&conn->tcp, on_handle_closed);
}

void fake_conn_reset(struct fake_conn *conn)
{
    if (conn->closing)
        return;
    detach(conn);
    if (uv_tcp_close_reset(&conn->tcp, on_handle_closed) != 0)
        uv_close((uv_handle_t *)&conn->tcp, on_handle_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    struct fake_conn *conn = handle->data;
    (void)suggested;
    *ret = uv_buf_init(conn->server->read_buffer, sizeof(conn->server->read_buffer));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct fake_conn *conn = stream->data;
    if (n == 0)
        return;
    if (n < 0) {
        /* Clients that only half-close are not imitated by anybody: end of sending is a cancelled request. */
        fake_conn_close(conn);
        return;
    }
    if (conn->tls)
        take_encrypted(conn, span_of(bytes->base, (size_t)n));
    else
        take(conn, span_of(bytes->base, (size_t)n));
}

/* One byte of the head each time, then the rest at once. */
static void trickle(struct fake_conn *conn)
{
    uv_buf_t byte = uv_buf_init(conn->out.data + conn->out.start, 1);
    int n = uv_try_write((uv_stream_t *)&conn->tcp, &byte, 1);
    if (n < 0 && n != UV_EAGAIN) {
        fake_conn_close(conn);
        return;
    }
    if (n == 1) {
        buf_consume(&conn->out, 1);
        conn->trickle--;
        conn->server->stats.bytes_out++;
    }
    if (conn->trickle > 0) {
        fake_conn_timer(conn, conn->trickle_ms);
        return;
    }
    fake_conn_flush(conn);
    if (!conn->closing && !conn->writing)
        settled(conn);
}

static void on_timer(uv_timer_t *timer)
{
    struct fake_conn *conn = timer->data;
    if (conn->trickle > 0)
        trickle(conn);
    else
        fake_play_tick(conn);
}

void fake_conn_timer(struct fake_conn *conn, uint64_t ms)
{
    fake_must(uv_timer_start(&conn->timer, on_timer, ms, 0) == 0 ? OK : ERR_IO);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct fake_server *server = listener->data;
    struct fake_conn *conn = status == 0 ? calloc(1, sizeof(*conn)) : NULL;
    if (!conn)
        return;
    conn->server = server;
    buf_init(&conn->request.head, FAKE_HEAD_MAX);
    buf_init(&conn->request.body, FAKE_BODY_MAX);
    buf_init(&conn->backlog, FAKE_BACKLOG_MAX);
    buf_init(&conn->out, UINT32_MAX);
    buf_init(&conn->wire, UINT32_MAX);
    buf_init(&conn->inflight, UINT32_MAX);
    buf_init(&conn->play.answer.model, FAKE_BODY_MAX);
    buf_init(&conn->play.answer.prefix, UINT32_MAX);
    llhttp_init(&conn->parser, HTTP_REQUEST, &server->parser_settings);
    fake_must(uv_tcp_init(server->loop, &conn->tcp) == 0 && uv_timer_init(server->loop, &conn->timer) == 0 ? OK
                                                                                                           : ERR_IO);
    conn->handles = 2;
    conn->tcp.data = conn->timer.data = conn->write.data = conn;
    conn->next = server->conns;
    if (conn->next)
        conn->next->prev = conn;
    server->conns = conn;
    server->stats.connections++;
    server->stats.connections_open++;
    if (uv_accept(listener, (uv_stream_t *)&conn->tcp) != 0 ||
        (server->tls && !(conn->tls = fake_tls_new(server->tls))) || uv_tcp_nodelay(&conn->tcp, 1) != 0 ||
        uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read) != 0)
        fake_conn_close(conn);
}

static enum err parse_address(struct span text, struct sockaddr_storage *ret)
{
    char host[64];
    uint64_t port;
    size_t colon = text.len;
    while (colon > 0 && text.ptr[colon - 1] != ':')
        colon--;
    if (colon == 0 || span_to_u64(span_skip(text, colon), &port) != OK || port > 65535)
        return ERR_INVALID;
    struct span name = span_head(text, colon - 1);
    if (name.len > 2 && name.ptr[0] == '[' && name.ptr[name.len - 1] == ']')
        name = span_of(name.ptr + 1, name.len - 2);
    if (name.len == 0 || name.len >= sizeof(host))
        return ERR_INVALID;
    memcpy(host, name.ptr, name.len);
    host[name.len] = '\0';
    if (uv_ip4_addr(host, (int)port, (struct sockaddr_in *)ret) == 0 ||
        uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)ret) == 0)
        return OK;
    return ERR_INVALID;
}

enum err fake_server_listen(struct fake_server *server, struct span address, int *ret_port)
{
    struct sockaddr_storage at = { 0 };
    int length = sizeof(at);
    if (parse_address(address, &at) != OK)
        return ERR_INVALID;
    settings_init(&server->parser_settings);
    if (uv_tcp_init(server->loop, &server->listener) != 0)
        return ERR_IO;
    server->listener.data = server;
    int code = uv_tcp_bind(&server->listener, (const struct sockaddr *)&at, 0);
    if (code == 0)
        code = uv_listen((uv_stream_t *)&server->listener, 4096, on_connection);
    if (code == 0)
        code = uv_tcp_getsockname(&server->listener, (struct sockaddr *)&at, &length);
    if (code != 0) {
        fprintf(stderr, "fakellm: cannot listen on " SPAN_FMT ": %s\n", SPAN_ARG(address), uv_strerror(code));
        uv_close((uv_handle_t *)&server->listener, NULL);
        return ERR_IO;
    }
    *ret_port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                               : ((struct sockaddr_in *)&at)->sin_port);
    return OK;
}

void fake_server_stop(struct fake_server *server)
{
    while (server->conns)
        fake_conn_close(server->conns);
    uv_close((uv_handle_t *)&server->listener, NULL);
    for (size_t i = 0; i < ARRAY_LEN(server->signals); i++)
        uv_close((uv_handle_t *)&server->signals[i], NULL);
}

void fake_server_release(struct fake_server *server)
{
    fake_control_release(server);
    arena_release(&server->arena);
    buf_release(&server->body);
    fake_text_release(&server->text);
    fake_tls_server_free(server->tls);
}
