#include "dataplane/node/exporter.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/http1.h"
#include <unistd.h>

#define READ_BYTES 4096u

struct exporter_conn {
    struct exporter *exporter;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_write_t write;
    struct http1 parser;
    struct buf in, out;
    char read_buffer[READ_BYTES];
    bool writing, closing, close_after;
    unsigned open; /* handles */
    struct exporter_conn *next;
};

static void on_handle_closed(uv_handle_t *handle)
{
    struct exporter_conn *c = handle->data;
    if (--c->open > 0)
        return;
    http1_release(&c->parser);
    buf_release(&c->in);
    buf_release(&c->out);
    free(c);
}

static void hang_up(struct exporter_conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    struct exporter_conn **at = &c->exporter->conns;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->exporter->count--;
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_timeout(uv_timer_t *timer)
{
    hang_up(timer->data);
}

static void proceed(struct exporter_conn *c);

static void on_written(uv_write_t *write, int status)
{
    struct exporter_conn *c = write->data;
    c->writing = false;
    if (c->closing)
        return;
    if (status < 0 || c->close_after) {
        hang_up(c);
        return;
    }
    buf_clear(&c->out);
    uv_timer_start(&c->timer, on_timeout, EXPORTER_TIME_MS, 0);
    proceed(c);
}

/* Head and, unless for HEAD, body, in one write. */
static enum err write_answer(struct exporter_conn *c, unsigned status, const char *type, struct span body,
                             bool without_body)
{
    enum err err = http1_write_status_line(&c->out, status);
    if (!err)
        err = http1_write_header(&c->out, SPAN("content-type"), span_cstr(type));
    if (!err)
        err = http1_write_header_u64(&c->out, SPAN("content-length"), body.len);
    if (!err)
        err = http1_write_header(&c->out, SPAN("cache-control"), SPAN("no-store"));
    if (!err && status == 405)
        err = http1_write_header(&c->out, SPAN("allow"), SPAN("GET, HEAD"));
    if (!err && c->close_after)
        err = http1_write_header(&c->out, SPAN("connection"), SPAN("close"));
    if (!err)
        err = http1_write_head_end(&c->out);
    return err || without_body ? err : buf_append(&c->out, body);
}

static void answer(struct exporter_conn *c, unsigned status, const char *type, struct span body, bool without_body)
{
    if (write_answer(c, status, type, body, without_body)) {
        hang_up(c);
        return;
    }
    const struct span bytes = buf_span(&c->out);
    const uv_buf_t out = uv_buf_init((char *)(uintptr_t)bytes.ptr, (unsigned)bytes.len);
    c->write.data = c;
    c->writing = true;
    uv_timer_start(&c->timer, on_timeout, EXPORTER_TIME_MS, 0);
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &out, 1, on_written)) {
        c->writing = false;
        hang_up(c);
    }
}

static void answer_request(struct exporter_conn *c)
{
    const struct http1_head *head = http1_head(&c->parser);
    struct buf page = BUF_INIT(c->exporter->page_bytes_max);
    unsigned status = 200;
    const char *type = "text/plain; charset=utf-8";
    const bool is_head = head->method == HTTP1_HEAD_METHOD;
    c->close_after = c->close_after || !head->keep_alive;
    if (head->method != HTTP1_GET && !is_head) {
        c->close_after = true;
        answer(c, 405, type, SPAN("GET and HEAD only\n"), false);
        return;
    }
    const enum err err = c->exporter->page(c->exporter->user, head->path, &page, &status, &type);
    if (err) {
        buf_clear(&page);
        type = "text/plain; charset=utf-8";
        status = err == ERR_NOT_FOUND ? 404 : 500;
        answer(c, status, type,
               err == ERR_NOT_FOUND ? SPAN("try /metrics, /livez, /readyz or /status\n")
                                    : SPAN("the page could not be made\n"),
               is_head);
    } else {
        answer(c, status, type, buf_span(&page), is_head);
    }
    buf_release(&page);
}

static void refuse(struct exporter_conn *c, enum err err)
{
    c->close_after = true;
    answer(c, err == ERR_TOO_LARGE || err == ERR_TOO_MANY ? 431 : 400, "text/plain; charset=utf-8",
           SPAN("malformed request\n"), false);
}

/* One request at a time: what follows it waits in `in`. */
static void proceed(struct exporter_conn *c)
{
    while (!c->writing && !c->closing) {
        struct span input = buf_span(&c->in), body;
        const size_t before = input.len;
        enum http1_event event;
        const enum err err = http1_next(&c->parser, &input, &event, &body);
        buf_consume(&c->in, before - input.len);
        if (err) {
            refuse(c, err);
            return;
        }
        if (event == HTTP1_MORE)
            return;
        if (event == HTTP1_HEAD && http1_head(&c->parser)->has_body) {
            c->close_after = true; /* it will not be read */
            answer_request(c);
            return;
        }
        if (event == HTTP1_END) {
            answer_request(c);
            if (!c->closing && !c->close_after)
                http1_reset(&c->parser);
            else
                return;
        }
    }
}

static void on_alloc(uv_handle_t *handle, UNUSED size_t suggested, uv_buf_t *buf)
{
    struct exporter_conn *c = handle->data;
    *buf = uv_buf_init(c->read_buffer, (unsigned)size_min(sizeof(c->read_buffer), buf_room(&c->in)));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct exporter_conn *c = stream->data;
    if (n == 0)
        return;
    if (n < 0 || buf_append(&c->in, span_of(buf->base, (size_t)n))) {
        hang_up(c); /* gone; or it pipelines more than it may */
        return;
    }
    proceed(c);
}

static void on_refused_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct exporter *e = listener->data;
    struct exporter_conn *c = status == 0 ? fault_calloc(1, sizeof(*c)) : NULL;
    if (!c)
        return;
    REQUIRE(uv_tcp_init(e->loop, &c->tcp) == 0);
    c->tcp.data = c;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) || e->count == EXPORTER_CONNECTIONS_MAX) {
        uv_close((uv_handle_t *)&c->tcp, on_refused_closed);
        return;
    }
    REQUIRE(uv_timer_init(e->loop, &c->timer) == 0);
    c->timer.data = c;
    c->exporter = e;
    c->open = 2;
    http1_init(&c->parser, HTTP1_REQUEST);
    buf_init(&c->in, HTTP1_HEAD_BYTES_MAX);
    buf_init(&c->out, e->page_bytes_max + 4096);
    c->next = e->conns;
    e->conns = c;
    e->count++;
    (void)uv_tcp_nodelay(&c->tcp, 1);
    uv_timer_start(&c->timer, on_timeout, EXPORTER_TIME_MS, 0);
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read))
        hang_up(c);
}

enum err exporter_open(struct exporter *e, uv_loop_t *loop, int fd, size_t page_bytes_max, exporter_page *page,
                       void *user)
{
    *e = (struct exporter){ .loop = loop, .page = page, .user = user, .page_bytes_max = page_bytes_max, .open = true };
    REQUIRE(uv_tcp_init(loop, &e->listener) == 0);
    e->listener.data = e;
    if (uv_tcp_open(&e->listener, fd)) {
        (void)close(fd);
        return ERR_IO;
    }
    return uv_listen((uv_stream_t *)&e->listener, EXPORTER_CONNECTIONS_MAX, on_connection) ? ERR_IO : OK;
}

void exporter_close(struct exporter *e)
{
    if (!e->open)
        return;
    e->open = false;
    while (e->conns)
        hang_up(e->conns);
    uv_close((uv_handle_t *)&e->listener, NULL);
}
