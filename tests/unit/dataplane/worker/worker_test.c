/* A whole worker in its own process, with the curl lane; the test is its master and its provider. */
#include "rig.h"
#include "dataplane/node/control.h"
#include "dataplane/worker/worker.h"
#include "common/file.h"
#include "proto/home.h"
#include <signal.h>
#include <sys/un.h>
#include <sys/wait.h>

struct house {
    struct rig rig; /* its store, board and key; not its loop */
    struct node_config config;
    int api, upstream, master, line; /* listeners; the control connection */
    char home[64];
    struct buf in;
    pid_t pid;
    bool faulty; /* the allocation fails_at fails from the start on */
    uint64_t fails_at;
};
#define ENDED_AFTER_FAULT 42

static int accepted(int listener)
{
    struct pollfd p = { .fd = listener, .events = POLLIN };
    assert_int_equal(poll(&p, 1, 10000), 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    struct timeval ten = { .tv_sec = 10 };
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ten, sizeof(ten)), 0);
    return fd;
}

/* The next message of this kind; others before it are skipped. */
static struct control_message expect(struct house *h, enum control_kind kind, int *ret_fd)
{
    struct control_message message;
    for (;;) {
        enum err err = control_parse(&h->in, &message);
        if (err == OK && message.kind == kind)
            return message;
        if (err == OK)
            continue;
        assert_int_equal(err, ERR_AGAIN);
        struct pollfd p = { .fd = h->line, .events = POLLIN };
        assert_int_equal(poll(&p, 1, 10000), 1);
        struct control_fds fds = { .count = 0 };
        assert_int_equal(control_recv_fds(h->line, &h->in, &fds), OK);
        if (ret_fd && fds.count == 1)
            *ret_fd = fds.fds[0];
        else
            control_fds_close(&fds);
    }
}

static void tell(struct house *h, enum control_kind kind, uint64_t ms)
{
    struct buf out = BUF_INIT(CONTROL_LINE_BYTES);
    assert_int_equal(control_format(&(struct control_message){ .kind = kind, .ms = ms }, &out), OK);
    assert_int_equal(write(h->line, buf_span(&out).ptr, out.len), (ssize_t)out.len);
    buf_release(&out);
}

/* Reads from fd until `text` was seen; returns all that came. */
static char *read_until(int fd, const char *text)
{
    static char bytes[65536];
    size_t at = 0;
    for (;;) {
        bytes[at] = 0;
        if (text && strstr(bytes, text))
            return bytes;
        ssize_t n = recv(fd, bytes + at, sizeof(bytes) - 1 - at, 0);
        if (n <= 0 && !text)
            return bytes;
        if (n <= 0)
            fail_msg("never: %s\ngot: %s", text, bytes);
        at += (size_t)n;
    }
}

static void write_all(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static int api_client(struct house *h)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons((uint16_t)h->rig.port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval ten = { .tv_sec = 10 };
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ten, sizeof(ten)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void post(struct house *h, int fd, const char *body)
{
    char text[2048];
    snprintf(
        text, sizeof(text),
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n%s",
        h->rig.key, strlen(body), body);
    write_all(fd, text);
}

static void open_house(struct house *h)
{
    struct rig *rig = &h->rig;
    *h = (struct house){ .line = -1 };
    log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    buf_init(&h->in, 65536);
    rig->first_ms = rig->idle_ms = 10000;
    rig->hold_ms = 10000;
    random_id("fl-", 40, rig->key);
    snprintf(h->home, sizeof(h->home), "/dev/shm/fairlead-worker-XXXXXX");
    assert_non_null(mkdtemp(h->home));
    snprintf(rig->store_path, sizeof(rig->store_path), "%s/" HOME_RUN, h->home);
    assert_int_equal(file_make_dirs(rig->store_path, 0700), OK);
    snprintf(rig->store_path, sizeof(rig->store_path), "%s/db", h->home);
    assert_int_equal(file_make_dirs(rig->store_path, 0700), OK);
    snprintf(rig->store_path, sizeof(rig->store_path), "%s/" HOME_NODE_STORE, h->home);
    char *message = NULL;
    assert_int_equal(node_config_load(h->home, NULL, &h->config, &message), OK);
    h->upstream = rig_listen(rig);
    rig->upstream_port = rig->port;
    assert_int_equal(listen(h->upstream, 16), 0);
    h->api = rig_listen(rig);
    assert_int_equal(listen(h->api, 16), 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/" HOME_NODE_SOCKET, h->home);
    h->master = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(h->master, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(h->master, 4), 0);
}

/* Forked before this process opens the store: an LMDB environment must not cross a fork. The child waits for the store
 * and the board. */
static void start_worker(struct house *h)
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    h->pid = fork();
    assert_true(h->pid >= 0);
    if (h->pid == 0) {
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 1)
            _exit(9);
        if (h->faulty)
            fault_arm(FAULT_ALLOC, h->fails_at, 1);
        int status = worker_run(&(struct worker_options){
            .config = &h->config, .slot = 0, .listeners = { .count = 1, .fds = { dup(h->api) } } });
        if (h->faulty) /* what a start that failed holds goes with its process */
            _exit(status ? status : fault_seen(FAULT_ALLOC) > h->fails_at ? ENDED_AFTER_FAULT : 0);
        exit(status); /* the leak check runs here */
    }
    char *board = node_config_board_path(&h->config);
    unsigned region;
    assert_int_equal(board_create(board, 1, &h->rig.board), OK);
    assert_int_equal(board_region_take(h->rig.board, &region), OK);
    free(board);
    assert_int_equal(tablestore_open(h->rig.store_path, false, &h->rig.store), OK);
    rig_publish(&h->rig);
    rig_directory(&h->rig, 0, false);
    assert_int_equal(write(ready[1], "x", 1), 1);
    close(ready[0]);
    close(ready[1]);
    if (!h->faulty)
        h->line = accepted(h->master);
}

static int end_of_worker(struct house *h)
{
    int status = -1;
    assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static bool has_ended(const struct house *h)
{
    siginfo_t end = { .si_pid = 0 };
    assert_int_equal(waitid(P_PID, (id_t)h->pid, &end, WEXITED | WNOHANG | WNOWAIT), 0);
    return end.si_pid != 0;
}

/* Signals until the process is gone: none of them may be its end, however late it comes. */
static void terminate(const struct house *h)
{
    while (!has_ended(h)) {
        assert_int_equal(kill(h->pid, SIGTERM), 0);
        (void)poll(NULL, 0, 1);
    }
}

static void close_house(struct house *h)
{
    char command[128];
    close(h->api);
    close(h->upstream);
    close(h->master);
    close(h->line);
    buf_release(&h->in);
    tablestore_close(h->rig.store);
    board_close(h->rig.board);
    char *board = node_config_board_path(&h->config);
    unlink(board);
    free(board);
    node_config_release(&h->config);
    snprintf(command, sizeof(command), "rm -rf '%s'", h->home);
    assert_int_equal(system(command), 0);
}

static void serves_follows_and_drains(void **state)
{
    (void)state;
    struct house h;
    int listener = -1;
    open_house(&h);
    start_worker(&h);
    struct control_message m = expect(&h, CONTROL_HELLO, &listener);
    assert_int_equal(m.pid, h.pid);
    assert_int_equal(m.layout, BOARD_LAYOUT);
    assert_true(listener >= 0); /* the slot's socket, for a master that restarted */
    close(listener);
    m = expect(&h, CONTROL_SERVING, NULL);
    assert_int_equal(m.version.generation, 1);

    int client = api_client(&h);
    post(&h, client, STREAM_ASK);
    int provider = accepted(h.upstream);
    char *request = read_until(provider, "\"x\":1.50");
    assert_non_null(strstr(request, "POST /v1/chat/completions HTTP/1.1\r\n"));
    assert_null(strstr(request, h.rig.key)); /* our key goes nowhere */
    write_all(provider, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: "
                        "keep-alive\r\ntransfer-encoding: chunked\r\n\r\n");
    char chunk[1024];
    snprintf(chunk, sizeof(chunk), "%zx\r\n%s\r\n", strlen(CONTENT("hello")), CONTENT("hello"));
    write_all(provider, chunk);
    assert_non_null(strstr(read_until(client, "hello"), "x-fairlead-policy: 1\r\n"));

    rig_publish(&h.rig);
    tell(&h, CONTROL_WAKE, 0);
    do
        m = expect(&h, CONTROL_SERVING, NULL);
    while (m.version.generation != 2);
    uint64_t serving[4];
    assert_true(board_get_serving(board_region(h.rig.board, 0), serving));
    assert_int_equal(serving[1], 2);

    /* The master dies: the worker serves on, and finds the next one. */
    close(h.line);
    buf_clear(&h.in);
    h.line = accepted(h.master);
    (void)expect(&h, CONTROL_HELLO, NULL);
    m = expect(&h, CONTROL_SERVING, NULL);
    assert_int_equal(m.version.generation, 2);

    tell(&h, CONTROL_DRAIN, 10000);
    char rest[1024];
    snprintf(rest, sizeof(rest), "%zx\r\n%s\r\n0\r\n\r\n", strlen(FINISH DONE), FINISH DONE);
    write_all(provider, rest);
    assert_non_null(strstr(read_until(client, LAST_CHUNK), "[DONE]"));
    (void)expect(&h, CONTROL_DRAINED, NULL);
    assert_int_equal(end_of_worker(&h), 0);
    close(client);
    close(provider);
    struct buf out = BUF_INIT(1 << 20);
    assert_int_equal(board_record_take(board_region(h.rig.board, 0), &out), 1);
    buf_release(&out);
    close_house(&h);
}

/* A sibling's socket, on a port of its own so that we know by which one a client comes. */
static int sibling_socket(int *ret_port)
{
    struct rig other = { .port = 0 };
    int fd = rig_listen(&other);
    assert_int_equal(listen(fd, 16), 0);
    *ret_port = other.port;
    return fd;
}

static void lend(struct house *h, unsigned slot, int fd)
{
    struct buf out = BUF_INIT(CONTROL_LINE_BYTES);
    const struct control_message message = { .kind = CONTROL_ADOPT_LISTENER, .slot = slot };
    assert_int_equal(control_format(&message, &out), OK);
    const struct control_fds fds = { .count = fd >= 0, .fds = { fd } };
    assert_int_equal(control_send_fds(h->line, buf_span(&out), &fds), OK);
    buf_release(&out);
}

static void take_back(struct house *h, unsigned slot)
{
    struct buf out = BUF_INIT(CONTROL_LINE_BYTES);
    const struct control_message message = { .kind = CONTROL_DROP_LISTENER, .slot = slot };
    assert_int_equal(control_format(&message, &out), OK);
    assert_int_equal(write(h->line, buf_span(&out).ptr, out.len), (ssize_t)out.len);
    buf_release(&out);
}

#define MODELS_ASK "GET /v1/models/none HTTP/1.1\r\nHost: x\r\n\r\n"

static void serves_a_siblings_socket(void **state)
{
    (void)state;
    struct house h;
    open_house(&h);
    start_worker(&h);
    (void)expect(&h, CONTROL_SERVING, NULL);
    const int own_port = h.rig.port;
    int port, sibling = sibling_socket(&port);
    h.rig.port = port;
    int waiting = api_client(&h); /* in the kernel's queue, as when its worker is down */
    write_all(waiting, MODELS_ASK);
    tell(&h, CONTROL_WAKE, 0); /* words before it are read apart from it */
    lend(&h, 3, sibling);
    assert_non_null(strstr(read_until(waiting, "\r\n\r\n"), "HTTP/1.1 401 "));
    h.rig.port = own_port;
    int own = api_client(&h);
    write_all(own, MODELS_ASK);
    assert_non_null(strstr(read_until(own, "\r\n\r\n"), "HTTP/1.1 401 "));
    /* The master is lost and found: the socket stays, as nobody else may be there to serve it. */
    close(h.line);
    buf_clear(&h.in);
    h.line = accepted(h.master);
    (void)expect(&h, CONTROL_SERVING, NULL);
    h.rig.port = port;
    int second = api_client(&h);
    write_all(second, MODELS_ASK);
    assert_non_null(strstr(read_until(second, "\r\n\r\n"), "HTTP/1.1 401 "));
    /* Given back: what came goes on, what comes is another's. */
    take_back(&h, 2);
    take_back(&h, 3);
    tell(&h, CONTROL_WAKE, 0);
    write_all(second, MODELS_ASK);
    assert_non_null(strstr(read_until(second, "\r\n\r\n"), "HTTP/1.1 401 "));
    int third = api_client(&h);
    write_all(third, MODELS_ASK);
    struct pollfd p = { .fd = third, .events = POLLIN };
    assert_int_equal(poll(&p, 1, 200), 0);
    int taken = accepted(sibling);
    /* Words without the socket that they speak of: not our master. The worker looks for a better one. */
    lend(&h, 1, -1);
    close(h.line);
    buf_clear(&h.in);
    h.line = accepted(h.master);
    (void)expect(&h, CONTROL_SERVING, NULL);
    lend(&h, 5, sibling); /* held to the end: the drain closes it */
    tell(&h, CONTROL_DRAIN, 10000);
    assert_int_equal(end_of_worker(&h), 0);
    int *const fds[] = { &waiting, &own, &second, &third, &taken, &sibling };
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        close(*fds[i]);
    close_house(&h);
}

static void sigterm_drains_and_a_second_one_ends(void **state)
{
    (void)state;
    struct house h;
    open_house(&h);
    start_worker(&h);
    (void)expect(&h, CONTROL_SERVING, NULL);
    int client = api_client(&h);
    post(&h, client, STREAM_ASK);
    int provider = accepted(h.upstream);
    (void)read_until(provider, "\"x\":1.50");
    assert_int_equal(kill(h.pid, SIGTERM), 0);
    /* It asks first, and serves on until another is in its place. */
    (void)expect(&h, CONTROL_LEAVING, NULL);
    int late = api_client(&h);
    write_all(late, MODELS_ASK);
    assert_non_null(strstr(read_until(late, "\r\n\r\n"), "HTTP/1.1 401 "));
    close(late);
    tell(&h, CONTROL_DRAIN, 10000);
    /* Drains: the stream stays open. */
    struct pollfd p = { .fd = client, .events = POLLIN };
    assert_int_equal(poll(&p, 1, 100), 0);
    terminate(&h);
    assert_int_equal(end_of_worker(&h), 0);
    (void)read_until(client, NULL); /* cut */
    close(client);
    close(provider);
    close_house(&h);
}

static void no_board_is_an_error(void **state)
{
    (void)state;
    struct house h;
    open_house(&h);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(worker_run(&(struct worker_options){
            .config = &h.config, .slot = 0, .listeners = { .count = 1, .fds = { dup(h.api) } } }));
    }
    h.pid = pid;
    assert_int_equal(end_of_worker(&h), 1);
    h.line = dup(h.api);
    char *board = node_config_board_path(&h.config);
    assert_int_equal(board_create(board, 1, &h.rig.board), OK);
    free(board);
    assert_int_equal(tablestore_open(h.rig.store_path, false, &h.rig.store), OK);
    close_house(&h);
}

/* True: it serves a table. False: its process is about to end. */
static bool comes_to_serve(struct house *h)
{
    const uint64_t until_ms = clock_ms() + 20000;
    struct control_message message;
    while (clock_ms() < until_ms) {
        if (has_ended(h))
            return false;
        struct pollfd ready[] = { { .fd = h->master, .events = POLLIN }, { .fd = h->line, .events = POLLIN } };
        (void)poll(ready, 2, 5);
        struct control_fds fds = { .count = 0 };
        if (ready[0].revents) { /* the first time, or again after a line that broke */
            if (h->line >= 0)
                close(h->line);
            h->line = accepted(h->master);
            buf_clear(&h->in);
        } else if (ready[1].revents && control_recv_fds(h->line, &h->in, &fds) == OK) {
            control_fds_close(&fds);
            while (control_parse(&h->in, &message) == OK)
                if (message.kind == CONTROL_SERVING)
                    return true;
        }
    }
    fail_msg("it neither serves nor ends when allocation %llu fails", (unsigned long long)h->fails_at);
    return false;
}

/* A start without memory is an orderly end, by which the master knows; or it does without, and serves. */
static void each_allocation_fails_at_the_start(void **state)
{
    (void)state;
    int end = 1;
    unsigned ended = 0;
    for (uint64_t k = 0; end != 0; k++) {
        struct house h;
        open_house(&h);
        h.faulty = true;
        h.fails_at = k;
        start_worker(&h);
        if (comes_to_serve(&h))
            terminate(&h); /* the second signal ends it at once */
        end = end_of_worker(&h);
        if (end != 0 && end != 1 && end != ENDED_AFTER_FAULT)
            fail_msg("allocation %llu fails, and the worker ends with %d", (unsigned long long)k, end);
        ended += end == 1;
        if (h.line < 0)
            h.line = dup(h.api);
        close_house(&h);
    }
    assert_true(ended >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serves_follows_and_drains),
        cmocka_unit_test(serves_a_siblings_socket),
        cmocka_unit_test(sigterm_drains_and_a_second_one_ends),
        cmocka_unit_test(no_board_is_an_error),
        cmocka_unit_test(each_allocation_fails_at_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
