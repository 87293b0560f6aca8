/* exporter.h - the operations address: GET and HEAD of a few pages, over HTTP/1.1 judged as strictly as a client's.
 *
 * Never a body, never a call to a model, never anything secret. Each connection is bounded in time and memory. */
#pragma once
#include "common/buf.h"
#include "common/err.h"
#include "dataplane/node/address.h"
#include <uv.h>

#define EXPORTER_CONNECTIONS_MAX 64u    /* scrapers, probes and people; more would be somebody's mistake */
#define EXPORTER_TIME_MS         10000u /* for a request, an answer, or silence between two */

/* Fills the page at path; *ret_status and *ret_type (static) come as 200 and text/plain. ERR_NOT_FOUND: no such page.
 * Other errors: 500. */
typedef enum err exporter_page(void *user, struct span path, struct buf *out, unsigned *ret_status,
                               const char **ret_type);

struct exporter {
    uv_loop_t *loop;
    uv_tcp_t listener;
    exporter_page *page;
    void *user;
    struct exporter_conn *conns;
    unsigned count;
    size_t page_bytes_max;
    bool open;
};
/* Takes the listening socket. ERR_IO. */
MUST_CHECK enum err exporter_open(struct exporter *exporter, uv_loop_t *loop, int fd, size_t page_bytes_max,
                                  exporter_page *page, void *user);
void exporter_close(struct exporter *exporter); /* run the loop until the handles are closed */
