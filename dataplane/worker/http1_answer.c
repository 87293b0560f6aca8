#include "dataplane/worker/http1_answer.h"
#include "dataplane/worker/http1.h"

enum err http1_answer_head(const struct http1_answer *answer, struct buf *out)
{
    const struct sink_head *head = answer->head;
    enum err err = http1_write_status_line(out, head->status);
    if (err == OK && !span_empty(answer->date))
        err = http1_write_header(out, SPAN("date"), answer->date);
    if (err == OK && !span_empty(head->content_type))
        err = http1_write_header(out, SPAN("content-type"), head->content_type);
    if (err == OK && !answer->stream && head->status != 204) /* RFC 9110 section 8.6 */
        err = http1_write_header_u64(out, SPAN("content-length"), answer->bytes);
    if (err == OK && answer->stream && !answer->http10)
        err = http1_write_header(out, SPAN("transfer-encoding"), SPAN("chunked"));
    if (err == OK && (answer->close || head->close))
        err = http1_write_header(out, SPAN("connection"), SPAN("close"));
    else if (err == OK && answer->http10)
        err = http1_write_header(out, SPAN("connection"), SPAN("keep-alive"));
    if (err == OK)
        err = buf_append(out, head->lines);
    return err == OK ? http1_write_head_end(out) : err;
}
