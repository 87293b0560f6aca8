/* The operations server over real sockets, one byte or many at a time. */
#include "dataplane/node/exporter.h"
#include "dataplane/node/sockets.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static enum err on_page(UNUSED void *user, struct span path, struct buf *out, unsigned *ret_status,
                        UNUSED const char **ret_type)
{
    if (span_eq(path, SPAN("/a")))
        return buf_append(out, SPAN("page a\n"));
    if (span_eq(path, SPAN("/b"))) {
        *ret_status = 503;
        return buf_append(out, SPAN("not ready\n"));
    }
    return span_eq(path, SPAN("/full")) ? ERR_FULL : ERR_NOT_FOUND;
}

struct world {
    uv_loop_t loop;
    struct exporter exporter;
    struct address address;
};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    int fd;
    assert_int_equal(uv_loop_init(&w->loop), 0);
    assert_int_equal(address_parse(SPAN("127.0.0.1:0"), &w->address), OK);
    assert_int_equal(socket_listen(&w->address, true, &fd), OK);
    assert_int_not_equal(address_port(&w->address), 0);
    assert_int_equal(exporter_open(&w->exporter, &w->loop, fd, 4096, on_page, NULL), OK);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    exporter_close(&w->exporter);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    free(w);
    return 0;
}

/* Sends `request` in pieces and gives what comes back until `until` is in it, or the other side closes. */
static const char *talk(struct world *w, const char *request, size_t piece, const char *until)
{
    static char got[16384];
    size_t n = 0, sent = 0;
    const size_t len = strlen(request);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&w->address.bytes, w->address.len), 0);
    got[0] = '\0';
    for (int turn = 0; turn < 100000; turn++) {
        if (sent < len) {
            const ssize_t k = send(fd, request + sent, size_min(piece, len - sent), MSG_NOSIGNAL);
            sent = k < 0 ? len : sent + (size_t)k;
        }
        uv_run(&w->loop, UV_RUN_NOWAIT);
        const ssize_t k = recv(fd, got + n, sizeof(got) - 1 - n, MSG_DONTWAIT);
        if (k > 0)
            got[n += (size_t)k] = '\0';
        if (k == 0 || (until && strstr(got, until)))
            break;
    }
    (void)close(fd);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    return got;
}

#define H "Host: x\r\n"

static void answers_pages(void **state)
{
    struct world *w = *state;
    static const size_t pieces[] = { 1, 7, 4096 };
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        const char *got = talk(w, "GET /a HTTP/1.1\r\n" H "\r\n", pieces[i], "page a\n");
        assert_non_null(strstr(got, "HTTP/1.1 200 OK\r\n"));
        assert_non_null(strstr(got, "content-length: 7\r\n"));
        got = talk(w, "GET /b HTTP/1.1\r\n" H "Connection: close\r\n\r\n", pieces[i], NULL);
        assert_non_null(strstr(got, "HTTP/1.1 503 "));
        assert_non_null(strstr(got, "connection: close\r\n"));
        got = talk(w, "GET /none HTTP/1.0\r\n" H "\r\n", pieces[i], NULL);
        assert_non_null(strstr(got, "HTTP/1.1 404 "));
        got = talk(w, "GET /full HTTP/1.0\r\n" H "\r\n", pieces[i], NULL);
        assert_non_null(strstr(got, "HTTP/1.1 500 "));
        got = talk(w, "HEAD /a HTTP/1.1\r\n" H "Connection: close\r\n\r\n", pieces[i], NULL);
        assert_non_null(strstr(got, "content-length: 7\r\n"));
        assert_null(strstr(got, "page a"));
    }
}

static void keeps_the_connection(void **state)
{
    const char *got = talk(*state, "GET /a HTTP/1.1\r\n" H "\r\nGET /b HTTP/1.1\r\n" H "\r\n", 4096, "not ready\n");
    const char *first = strstr(got, "200 OK"), *second = strstr(got, "503 ");
    assert_true(first && second && first < second);
}

static void refuses_the_rest(void **state)
{
    static const struct {
        const char *request, *status;
    } cases[] = {
        { "GET /a HTTP/1.1\r\n\r\n", "HTTP/1.1 400 " },
        { "GET /a HTTP/1.1\nHost: x\n\n", "HTTP/1.1 400 " },
        { "GET  /a HTTP/1.1\r\n" H "\r\n", "HTTP/1.1 400 " },
        { "\x16\x03\x01 tls", "HTTP/1.1 400 " },
        { "POST /a HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", "HTTP/1.1 405 " },
        { "GET /a HTTP/1.1\r\n" H "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 400 " },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *got = talk(*state, cases[i].request, 4096, NULL); /* until we are hung up on */
        if (strncmp(got, cases[i].status, strlen(cases[i].status)) != 0)
            fail_msg("%s: %s", cases[i].request, got);
    }
}

static void bounds_its_connections(void **state)
{
    struct world *w = *state;
    int fds[EXPORTER_CONNECTIONS_MAX + 8];
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&w->address.bytes, w->address.len), 0);
        for (int k = 0; k < 3; k++)
            uv_run(&w->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(w->exporter.count, EXPORTER_CONNECTIONS_MAX);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        (void)close(fds[i]);
    for (int k = 0; k < 1000 && w->exporter.count > 0; k++)
        uv_run(&w->loop, UV_RUN_NOWAIT);
    assert_int_equal(w->exporter.count, 0);
}

static void a_taken_address_is_refused(void **state)
{
    struct world *w = *state;
    struct address same = w->address, bad;
    int fd;
    assert_int_equal(socket_listen(&same, true, &fd), ERR_EXISTS);
    assert_int_equal(socket_listen(&same, false, &fd), OK); /* our own slots share it */
    (void)close(fd);
    assert_int_equal(address_parse(SPAN("203.0.113.1:0"), &same), OK);
    assert_int_equal(socket_listen(&same, true, &fd), ERR_NOT_FOUND);
    static const char *const wrong[] = { "",          ":",        "4000",  "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                                         "[::1:4000", "::1:4000", "host:1" };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(address_parse(span_cstr(wrong[i]), &bad), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_the_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_the_rest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bounds_its_connections, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_taken_address_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
