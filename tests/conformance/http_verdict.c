#include "tests/conformance/http_verdict.h"

struct reading {
    struct http1 parser;
    struct buf *out;
    bool tunnel; /* after CONNECT the bytes are no HTTP */
    bool in_message;
    size_t body_bytes;
    uint64_t body_hash; /* FNV-1a: the same bytes in the same order */
};

static void say(struct reading *r, enum err err)
{
    (void)r;
    if (err != OK)
        abort(); /* the buffer is large enough for every input of the tests */
}

static void on_head(struct reading *r)
{
    const struct http1_head *head = http1_head(&r->parser);
    if (r->parser.kind == HTTP1_REQUEST)
        say(r, buf_printf(r->out, " [" SPAN_FMT " " SPAN_FMT " authority=" SPAN_FMT " query=" SPAN_FMT,
                          SPAN_ARG(head->method_name), SPAN_ARG(head->path), SPAN_ARG(head->authority),
                          SPAN_ARG(head->query)));
    else
        say(r, buf_printf(r->out, " [%u " SPAN_FMT, head->status, SPAN_ARG(head->reason)));
    say(r, buf_printf(r->out, " HTTP/1.%u length=%lld%s%s%s%s%s", head->version_minor, (long long)head->content_length,
                      head->chunked ? " chunked" : "", head->until_close ? " until-close" : "",
                      head->keep_alive ? " keep-alive" : "", head->expect_continue ? " expects-100" : "",
                      head->upgrade ? " upgrade" : ""));
    for (unsigned i = 0; i < head->header_count; i++)
        say(r, buf_printf(r->out, " {" SPAN_FMT ": " SPAN_FMT "}", SPAN_ARG(head->headers[i].name),
                          SPAN_ARG(head->headers[i].value)));
    r->in_message = true;
    r->body_bytes = 0;
    r->body_hash = 14695981039346656037u;
}

static void end_message(struct reading *r, const char *how)
{
    say(r, buf_printf(r->out, " body=%zu/%016llx %s]", r->body_bytes, (unsigned long long)r->body_hash, how));
    r->in_message = false;
}

static enum err feed_piece(struct reading *r, struct span input)
{
    struct span body = { 0 };
    enum http1_event event = HTTP1_MORE;
    while (!r->tunnel) {
        enum err err = http1_next(&r->parser, &input, &event, &body);
        if (err)
            return err;
        switch (event) {
        case HTTP1_MORE:
            if (input.len != 0)
                abort(); /* would stop a connection for ever */
            return OK;
        case HTTP1_HEAD:
            on_head(r);
            break;
        case HTTP1_BODY:
            r->body_bytes += body.len;
            for (size_t i = 0; i < body.len; i++)
                r->body_hash = (r->body_hash ^ (unsigned char)body.ptr[i]) * 1099511628211u;
            break;
        case HTTP1_END:
            end_message(r, "complete");
            r->tunnel = http1_head(&r->parser)->method == HTTP1_CONNECT;
            if (!r->tunnel)
                http1_reset(&r->parser);
            break;
        }
    }
    return OK;
}

static enum err feed(struct reading *r, struct span piece)
{
    char *copy = malloc(piece.len ? piece.len : 1);
    if (!copy)
        abort();
    memcpy(copy, piece.ptr, piece.len);
    enum err err = feed_piece(r, span_of(copy, piece.len));
    free(copy);
    return err;
}

bool http_verdict(enum http1_kind kind, struct span bytes, size_t cut, struct buf *out)
{
    struct reading r = { .out = out };
    http1_init(&r.parser, kind);
    buf_clear(out);
    say(&r, buf_append(out, SPAN("accept:")));
    enum err err = feed(&r, span_head(bytes, cut));
    if (!err)
        err = feed(&r, span_skip(bytes, cut));
    if (err) {
        buf_clear(out);
        say(&r, buf_printf(out, "reject: %s: %s", err_name(err), http1_why(&r.parser)));
    } else if (r.in_message) {
        end_message(&r, "unfinished");
    } else if (!r.tunnel && !http1_idle(&r.parser)) {
        say(&r, buf_append(out, SPAN(" [unfinished head]")));
    }
    http1_release(&r.parser);
    return err == OK;
}
