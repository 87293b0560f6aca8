#include "tests/support/fake_control.h"
#include "tests/support/fake_conn.h"
#include "common/json.h"

static void count_path(struct fake_server *server, struct span path)
{
    if (path.len >= sizeof(server->paths[0].path))
        path = SPAN("other");
    for (unsigned i = 0; i < server->path_count; i++) {
        if (span_eq(path, span_cstr(server->paths[i].path))) {
            server->paths[i].count++;
            return;
        }
    }
    if (server->path_count == FAKE_PATHS_MAX) {
        server->paths[FAKE_PATHS_MAX - 1].count++;
        return;
    }
    if (server->path_count == FAKE_PATHS_MAX - 1)
        path = SPAN("other");
    struct fake_path_count *row = &server->paths[server->path_count++];
    memcpy(row->path, path.ptr, path.len);
    row->path[path.len] = '\0';
    row->count = 1;
}

static void forget_kept(struct fake_server *server)
{
    for (uint64_t i = 0; i < server->kept_cap; i++) {
        buf_release(&server->kept[i].head);
        buf_release(&server->kept[i].body);
    }
    free(server->kept);
    server->kept = NULL;
    server->kept_cap = 0;
    server->kept_total = 0;
}

static void keep(struct fake_server *server, const struct fake_request *request)
{
    if (server->kept_cap != server->knobs.keep) {
        forget_kept(server);
        server->kept = calloc(server->knobs.keep + 1, sizeof(*server->kept));
        fake_must(server->kept ? OK : ERR_NOMEM);
        server->kept_cap = server->knobs.keep;
        for (uint64_t i = 0; i < server->kept_cap; i++) {
            buf_init(&server->kept[i].head, FAKE_HEAD_MAX);
            buf_init(&server->kept[i].body, FAKE_BODY_MAX);
        }
    }
    if (server->kept_cap == 0)
        return;
    struct fake_kept *kept = &server->kept[server->kept_total++ % server->kept_cap];
    buf_clear(&kept->head);
    buf_clear(&kept->body);
    kept->method = request->method;
    kept->url_len = request->url_len;
    kept->header_count = request->header_count;
    memcpy(kept->headers, request->headers, request->header_count * sizeof(kept->headers[0]));
    fake_must(buf_append(&kept->head, buf_span(&request->head)));
    fake_must(buf_append(&kept->body, buf_span(&request->body)));
}

void fake_control_record(struct fake_conn *conn, struct span path)
{
    conn->server->stats.requests++;
    count_path(conn->server, path);
    keep(conn->server, &conn->request);
}

void fake_control_release(struct fake_server *server)
{
    forget_kept(server);
}

static void put_stats(const struct fake_server *server, struct json_writer *w)
{
    const struct fake_stats *s = &server->stats;
    json_object_open(w);
    json_member_cstr(w, "name", server->knobs.name);
    json_member_u64(w, "requests", s->requests);
    json_member_u64(w, "responses", s->responses);
    json_member_u64(w, "requests_cancelled", s->requests_cancelled);
    json_member_u64(w, "streams", s->streams);
    json_member_u64(w, "streams_open", s->streams_open);
    json_member_u64(w, "streams_cancelled", s->streams_cancelled);
    json_member_u64(w, "connections", s->connections);
    json_member_u64(w, "connections_open", s->connections_open);
    json_member_u64(w, "auth_failures", s->auth_failures);
    json_member_u64(w, "bad_requests", s->bad_requests);
    json_member_u64(w, "bytes_in", s->bytes_in);
    json_member_u64(w, "bytes_out", s->bytes_out);
    json_key(w, SPAN("faults"));
    json_object_open(w);
    for (unsigned i = 1; i < FAKE_FAULT_KINDS; i++) {
        if (s->faults[i] > 0)
            json_member_u64(w, fake_fault_name((enum fake_fault_kind)i), s->faults[i]);
    }
    json_object_close(w);
    json_key(w, SPAN("paths"));
    json_object_open(w);
    for (unsigned i = 0; i < server->path_count; i++)
        json_member_u64(w, server->paths[i].path, server->paths[i].count);
    json_object_close(w);
    json_object_close(w);
}

static void put_kept(const struct fake_kept *kept, struct json_writer *w)
{
    const char *head = buf_span(&kept->head).ptr;
    struct buf base64 = BUF_INIT(2u * FAKE_BODY_MAX);
    json_object_open(w);
    json_member_cstr(w, "method", llhttp_method_name((llhttp_method_t)kept->method));
    json_member_string(w, "path", span_of(head, kept->url_len));
    json_key(w, SPAN("headers"));
    json_array_open(w);
    for (unsigned i = 0; i < kept->header_count; i++) {
        const struct fake_header *h = &kept->headers[i];
        json_array_open(w);
        json_put_string(w, span_of(head + h->name_at, h->name_len));
        json_put_string(w, span_of(head + h->value_at, h->value_len));
        json_array_close(w);
    }
    json_array_close(w);
    json_member_string(w, "body", buf_span(&kept->body));
    fake_base64(buf_span(&kept->body), &base64);
    json_member_string(w, "body_base64", buf_span(&base64));
    json_object_close(w);
    buf_release(&base64);
}

/* Oldest first. */
static void put_requests(const struct fake_server *server, struct json_writer *w)
{
    uint64_t count = server->kept_total < server->kept_cap ? server->kept_total : server->kept_cap;
    json_array_open(w);
    for (uint64_t i = server->kept_total - count; i < server->kept_total; i++)
        put_kept(&server->kept[i % server->kept_cap], w);
    json_array_close(w);
}

/* Applied as a whole or not at all. */
static enum err configure(struct fake_server *server, struct span body, struct span *ret_bad)
{
    struct json_index ix;
    struct fake_knobs knobs = server->knobs;
    *ret_bad = SPAN("the body is not a JSON object");
    if (json_index(&server->arena, body, &json_limits_default, &ix, NULL) != OK || json_kind(&ix, 0) != JSON_OBJECT)
        return ERR_INVALID;
    for (uint32_t key = json_first(&ix, 0); key != JSON_NONE;) {
        uint32_t value = json_next(&ix, 0, key);
        struct span name;
        struct span text = json_raw(&ix, value);
        *ret_bad = json_raw(&ix, key);
        if (json_string(&server->arena, &ix, key, &name) != OK)
            return ERR_INVALID;
        if (json_kind(&ix, value) == JSON_NULL)
            text = SPAN("");
        else if (json_kind(&ix, value) == JSON_STRING && json_string(&server->arena, &ix, value, &text) != OK)
            return ERR_INVALID;
        if (fake_knobs_set(&knobs, name, text) != OK)
            return ERR_INVALID;
        key = json_next(&ix, 0, value);
    }
    server->knobs = knobs;
    fake_text_init(&server->text, knobs.name);
    return OK;
}

static void reset(struct fake_server *server)
{
    struct fake_stats *s = &server->stats;
    *s = (struct fake_stats){ .connections_open = s->connections_open, .streams_open = s->streams_open };
    server->path_count = 0;
    server->kept_total = 0;
}

unsigned fake_control_answer(struct fake_conn *conn, struct span path, struct buf *body)
{
    struct fake_server *server = conn->server;
    bool post = conn->request.method == HTTP_POST;
    unsigned status = 200;
    struct span bad = SPAN("");
    struct json_writer w;
    json_writer_init(&w, body);
    if (!post && span_eq(path, SPAN("/__fake/stats"))) {
        put_stats(server, &w);
    } else if (!post && span_eq(path, SPAN("/__fake/requests"))) {
        put_requests(server, &w);
    } else if (post && (span_eq(path, SPAN("/__fake/config")) || span_eq(path, SPAN("/__fake/reset")))) {
        bool is_reset = span_eq(path, SPAN("/__fake/reset"));
        if (is_reset || configure(server, buf_span(&conn->request.body), &bad) == OK) {
            if (is_reset)
                reset(server);
            json_put_raw(&w, SPAN("{\"ok\":true}"));
        } else {
            status = 400;
            fake_error_object(status, bad, body);
        }
        arena_reset(&server->arena);
    } else {
        status = 404;
        fake_error_object(status, SPAN("no such control endpoint"), body);
    }
    return status;
}
