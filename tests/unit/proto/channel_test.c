#include "proto/channel.h"
#include "common/clock.h"
#include "proto/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define HELD_MAX 256
extern char **environ;

/* nng 1.5.2 loses a connection's memory when its listener or dialer closes in mid-handshake. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng.so";
}

/* A loop of its own: one eventfd that both sides wake, and a server that answers, holds or swallows what it is asked.
 */
struct rig {
    char dir[64], address[128], path[100];
    int event;
    struct channel_server *server;
    struct channel_client *client;
    bool hold;          /* keep calls instead of answering */
    struct span silent; /* and those that ask this */
    struct channel_call *held[HELD_MAX];
    unsigned held_count, seen;
    struct channel_peer peer;
    char last[64];
};

struct asked { /* one request's fate */
    unsigned done;
    enum err err;
    char reply[64];
    size_t reply_len;
};

static void wake(void *user)
{
    uint64_t one = 1;
    ssize_t n = write(*(int *)user, &one, sizeof(one));
    (void)n;
}

static void handle(void *user, struct channel_call *call, struct span request, const struct channel_peer *peer)
{
    struct rig *rig = user;
    rig->seen++;
    rig->peer = *peer;
    (void)snprintf(rig->last, sizeof(rig->last), SPAN_FMT, SPAN_ARG(span_head(request, 60)));
    if ((rig->hold || (rig->silent.len > 0 && span_eq(request, rig->silent))) && rig->held_count < HELD_MAX)
        rig->held[rig->held_count++] = call;
    else
        channel_reply(call, request);
}

static void answered(void *user, enum err err, struct span reply)
{
    struct asked *asked = user;
    asked->done++;
    asked->err = err;
    asked->reply_len = reply.len;
    (void)snprintf(asked->reply, sizeof(asked->reply), SPAN_FMT, SPAN_ARG(span_head(reply, 60)));
}

static enum err serve(struct rig *rig, unsigned parallel)
{
    const struct channel_server_options options = { .address = rig->address,
                                                    .parallel = parallel,
                                                    .handler = handle,
                                                    .user = rig,
                                                    .wake = wake,
                                                    .wake_user = &rig->event };
    return channel_server_open(&options, &rig->server);
}

static enum err dial(struct rig *rig, unsigned parallel)
{
    const struct channel_client_options options = {
        .address = rig->address, .parallel = parallel, .wake = wake, .wake_user = &rig->event
    };
    return channel_client_open(&options, &rig->client);
}

#define PATIENCE_MS 30000 /* nothing waits longer: what hangs fails, and says where */

/* Runs the loop until *what has reached `least`. */
static void run_until(struct rig *rig, const unsigned *what, unsigned least)
{
    uint64_t end = clock_ms() + PATIENCE_MS;
    while (*what < least) {
        struct pollfd fd = { .fd = rig->event, .events = POLLIN };
        uint64_t now = clock_ms();
        if (now >= end || poll(&fd, 1, (int)(end - now)) <= 0)
            fail_msg("nothing happened: %u of %u", *what, least);
        uint64_t count;
        assert_int_equal(read(rig->event, &count, sizeof(count)), sizeof(count));
        if (rig->server)
            channel_server_dispatch(rig->server);
        if (rig->client)
            channel_client_dispatch(rig->client);
    }
}

static void release_held(struct rig *rig)
{
    for (unsigned i = 0; i < rig->held_count; i++)
        channel_reply(rig->held[i], SPAN("late"));
    rig->held_count = 0;
}

static int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    (void)snprintf(rig->dir, sizeof(rig->dir), "/tmp/fairlead-channel-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    (void)snprintf(rig->path, sizeof(rig->path), "%s/link.sock", rig->dir);
    (void)snprintf(rig->address, sizeof(rig->address), "ipc://%s", rig->path);
    rig->event = eventfd(0, EFD_CLOEXEC);
    *state = rig;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    channel_client_close(rig->client);
    if (rig->server) {
        channel_server_close(rig->server);
        release_held(rig);
    }
    close(rig->event);
    (void)unlink(rig->path);
    (void)rmdir(rig->dir);
    free(rig);
    return 0;
}

static void a_request_is_answered(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 };
    assert_int_equal(serve(rig, 4), OK);
    assert_int_equal(dial(rig, 4), OK);
    assert_int_equal(channel_send(rig->client, SPAN("hello"), 5000, answered, &asked), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, OK);
    assert_string_equal(asked.reply, "hello");
    assert_true(rig->peer.local);
    assert_int_equal(rig->peer.uid, getuid());
    assert_int_equal(rig->peer.pid, getpid());
    struct stat st;
    assert_int_equal(stat(rig->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void many_requests_run_at_once(void **state)
{
    struct rig *rig = *state;
    static struct asked asked[200];
    unsigned done = 0;
    memset(asked, 0, sizeof(asked));
    rig->hold = true;
    assert_int_equal(serve(rig, 200), OK);
    assert_int_equal(dial(rig, 200), OK);
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%u", i);
        assert_int_equal(channel_send(rig->client, span_cstr(text), 8000, answered, &asked[i]), OK);
    }
    struct asked more;
    assert_int_equal(channel_send(rig->client, SPAN("x"), 8000, answered, &more), ERR_FULL);
    run_until(rig, &rig->seen, 200); /* all are in hand together: none waits for another */
    for (unsigned i = rig->held_count; i-- > 0;)
        channel_reply(rig->held[i], SPAN("yes"));
    rig->held_count = 0;
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++) {
        run_until(rig, &asked[i].done, 1);
        assert_int_equal(asked[i].err, OK);
        done += asked[i].done;
    }
    assert_int_equal(done, 200);
    assert_int_equal(rig->seen, 200);
}

static void thousands_of_requests_one_after_another(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(serve(rig, 8), OK);
    assert_int_equal(dial(rig, 8), OK);
    for (unsigned i = 0; i < 3000; i++) {
        struct asked asked = { 0 };
        char text[16];
        (void)snprintf(text, sizeof(text), "%u", i);
        assert_int_equal(channel_send(rig->client, span_cstr(text), 5000, answered, &asked), OK);
        run_until(rig, &asked.done, 1);
        assert_int_equal(asked.err, OK);
        assert_string_equal(asked.reply, text);
    }
}

static void large_messages_pass_and_larger_are_refused(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 };
    size_t most = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES;
    char *bytes = malloc(most + 1);
    memset(bytes, 'x', most + 1);
    assert_int_equal(serve(rig, 1), OK);
    assert_int_equal(dial(rig, 1), OK);
    assert_int_equal(channel_send(rig->client, span_of(bytes, most + 1), 5000, answered, &asked), ERR_TOO_LARGE);
    assert_int_equal(channel_send(rig->client, span_of(bytes, most), 9000, answered, &asked), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, OK);
    assert_int_equal(asked.reply_len, most);
    free(bytes);
}

static void silence_is_a_timeout_and_the_slot_is_free_again(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 }, again = { 0 };
    rig->hold = true;
    assert_int_equal(serve(rig, 4), OK);
    assert_int_equal(dial(rig, 1), OK);
    uint64_t begin = clock_ms();
    assert_int_equal(channel_send(rig->client, SPAN("silence"), 100, answered, &asked), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, ERR_TIMEOUT);
    assert_in_range(clock_ms() - begin, 90, 5000);
    release_held(rig); /* the late answer goes nowhere */
    rig->hold = false;
    assert_int_equal(channel_send(rig->client, SPAN("again"), 5000, answered, &again), OK);
    run_until(rig, &again.done, 1);
    assert_int_equal(again.err, OK);
    assert_string_equal(again.reply, "again");
}

static void a_request_waits_for_a_server_that_comes_later(void **state)
{
    struct rig *rig = *state;
    struct asked never = { 0 }, asked = { 0 };
    assert_int_equal(dial(rig, 2), OK);
    assert_int_equal(channel_send(rig->client, SPAN("never"), 60, answered, &never), OK);
    run_until(rig, &never.done, 1);
    assert_int_equal(never.err, ERR_TIMEOUT);
    assert_int_equal(channel_send(rig->client, SPAN("wait"), 9000, answered, &asked), OK);
    assert_int_equal(serve(rig, 2), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, OK);
    assert_int_equal(rig->seen, 1); /* what timed out before is not sent */
}

static void a_server_that_closes_breaks_what_it_holds_once(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 }, again = { 0 };
    rig->hold = true;
    assert_int_equal(serve(rig, 2), OK);
    assert_int_equal(dial(rig, 2), OK);
    assert_int_equal(channel_send(rig->client, SPAN("push"), 9000, answered, &asked), OK);
    run_until(rig, &rig->seen, 1);
    channel_server_close(rig->server);
    rig->server = NULL;
    release_held(rig); /* replying to a closed server is harmless */
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, ERR_CLOSED);
    rig->hold = false;
    assert_int_equal(serve(rig, 2), OK);
    assert_int_equal(channel_send(rig->client, SPAN("next"), 9000, answered, &again), OK);
    run_until(rig, &again.done, 1);
    assert_int_equal(again.err, OK);
    assert_int_equal(rig->seen, 2); /* "push" was not repeated behind our back */
    assert_string_equal(rig->last, "next");
}

/* ---- a server in a process of its own, to be killed ---- */

/* Writes a byte to stdout for each request and answers none: "program serve ADDRESS". */
static void tell(void *user, struct channel_call *call, struct span request, const struct channel_peer *peer)
{
    (void)user;
    (void)call;
    (void)peer;
    ssize_t n = write(1, request.len ? request.ptr : "?", 1);
    (void)n;
}

static int child_main(const char *address)
{
    int event = eventfd(0, 0);
    struct channel_server *server;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind who holds ctest's pipe */
    const struct channel_server_options options = {
        .address = address, .parallel = 8, .handler = tell, .wake = wake, .wake_user = &event
    };
    if (channel_server_open(&options, &server) != OK || write(1, "+", 1) != 1)
        return 1;
    for (uint64_t count; read(event, &count, sizeof(count)) == sizeof(count);)
        channel_server_dispatch(server);
    return 0;
}

/* -1: the writer is gone. */
static int read_byte(int fd)
{
    char byte;
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    if (poll(&readable, 1, PATIENCE_MS) != 1)
        fail_msg("nothing to read");
    return read(fd, &byte, 1) == 1 ? byte : -1;
}

static pid_t spawn_server(const char *address, int *ret_out)
{
    int out[2];
    pid_t pid;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    char *argv[] = { (char *)"channel_test", (char *)"serve", (char *)(uintptr_t)address, NULL };
    assert_int_equal(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    assert_int_equal(read_byte(out[0]), '+');
    *ret_out = out[0];
    return pid;
}

static void kill_server(pid_t pid)
{
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void a_killed_server_never_sees_a_request_again_unless_asked(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 }, again = { 0 };
    int out;
    pid_t pid = spawn_server(rig->address, &out);
    assert_int_equal(dial(rig, 2), OK);
    assert_int_equal(channel_send(rig->client, SPAN("mutation"), 9000, answered, &asked), OK);
    assert_int_equal(read_byte(out), 'm');
    kill_server(pid);
    close(out);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, ERR_CLOSED);
    pid = spawn_server(rig->address, &out); /* over the stale socket file of the dead one */
    assert_int_equal(channel_send(rig->client, SPAN("new"), 20000, answered, &again), OK);
    assert_int_equal(read_byte(out), 'n'); /* requests come in order: a repeated one would have come first */
    kill_server(pid);
    assert_int_equal(read_byte(out), -1);
    close(out);
    run_until(rig, &again.done, 1);
    assert_int_equal(again.err, ERR_CLOSED);
}

/* ---- strangers ---- */

static int raw_connect(const struct rig *rig)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "%s", rig->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval patience = { .tv_sec = PATIENCE_MS / 1000 };
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static void raw_write(int fd, const void *bytes, size_t n)
{
    ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
    (void)sent; /* the server may have closed already: that is an answer too */
}

static int raw_listen(const struct rig *rig)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s", rig->path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(listener, 4), 0);
    return listener;
}

static bool readable_within(int fd, int wait_ms)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    return poll(&readable, 1, wait_ms) == 1;
}

static int raw_accept(int listener) /* -1: nobody came */
{
    return readable_within(listener, PATIENCE_MS) ? accept(listener, NULL, NULL) : -1;
}

/* Until the other side closes. */
static bool raw_drain(int fd)
{
    char bytes[256];
    ssize_t n = 1;
    while (n > 0 && readable_within(fd, PATIENCE_MS))
        n = recv(fd, bytes, sizeof(bytes), 0);
    return n <= 0;
}

static void garbage_is_counted_and_harms_nobody(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 };
    assert_int_equal(serve(rig, 2), OK);
    assert_int_equal(dial(rig, 2), OK);

    /* No SP header. */
    int fd = raw_connect(rig);
    raw_write(fd, "GET / HTTP/1.1\r\n\r\n", 18);
    assert_true(raw_drain(fd));
    close(fd);

    /* An SP header of a requester, then a message that claims to be larger than a frame. */
    static const char hello[] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 };
    fd = raw_connect(rig);
    raw_write(fd, hello, sizeof(hello));
    static const unsigned char huge[] = { 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff };
    char theirs[8];
    assert_int_equal(recv(fd, theirs, sizeof(theirs), MSG_WAITALL), sizeof(theirs));
    raw_write(fd, huge, sizeof(huge));
    assert_true(raw_drain(fd));
    close(fd);

    /* A proper request whose body is not our frame: answered with an empty one. */
    fd = raw_connect(rig);
    raw_write(fd, hello, sizeof(hello));
    assert_int_equal(recv(fd, theirs, sizeof(theirs), MSG_WAITALL), sizeof(theirs));
    static const unsigned char odd[] = { 1, 0, 0, 0, 0, 0, 0, 0, 7, 0x80, 0, 0, 1, 'o', 'd', 'd' };
    static const unsigned char empty[] = { 1, 0, 0, 0, 0, 0, 0, 0, 4, 0x80, 0, 0, 1 };
    unsigned char reply[sizeof(empty)];
    for (unsigned i = 0; i < 3; i++) {
        raw_write(fd, odd, sizeof(odd));
        assert_int_equal(recv(fd, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
        assert_memory_equal(reply, empty, sizeof(empty));
    }
    assert_int_equal(channel_server_refused(rig->server), 3);
    assert_int_equal(rig->seen, 0);

    assert_int_equal(channel_send(rig->client, SPAN("still here"), 5000, answered, &asked), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, OK);
    close(fd);
}

/* nng 1.5.2 alone stops accepting for good after one of these. */
static void strangers_that_leave_at_once_do_not_end_the_server(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(serve(rig, 2), OK);
    for (unsigned round = 0; round < 5; round++) {
        struct asked asked = { 0 };
        for (unsigned i = 0; i < 20; i++) {
            int fd = raw_connect(rig);
            shutdown(fd, SHUT_RDWR);
            close(fd);
        }
        assert_int_equal(dial(rig, 2), OK);
        /* What was sent to the listener that ended is lost and says so; asking again is the caller's. */
        for (unsigned tries = 0; tries < 5 && (tries == 0 || asked.err == ERR_CLOSED); tries++) {
            asked = (struct asked){ 0 };
            assert_int_equal(channel_send(rig->client, SPAN("here"), 15000, answered, &asked), OK);
            run_until(rig, &asked.done, 1);
        }
        assert_int_equal(asked.err, OK);
        channel_client_close(rig->client);
        rig->client = NULL;
    }
}

/* The same on the other side: servers that die in mid-handshake do not end the client. */
static void a_client_outlives_servers_that_leave_at_once(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 };
    int listener = raw_listen(rig);
    assert_int_equal(dial(rig, 1), OK);
    assert_int_equal(channel_send(rig->client, SPAN("patience"), 25000, answered, &asked), OK);
    for (unsigned i = 0; i < 3; i++) {
        int fd = raw_accept(listener);
        assert_true(fd >= 0);
        shutdown(fd, SHUT_RDWR);
        close(fd);
    }
    close(listener);
    assert_int_equal(serve(rig, 1), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, OK);
}

/* Who leaves in mid-handshake can end an nng listener: a client whose server went must give the next one the time to
 * greet it. */
static void a_client_does_not_hang_up_on_a_slow_greeting(void **state)
{
    struct rig *rig = *state;
    static const char hello[] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };
    char theirs[sizeof(hello)];
    int listener = raw_listen(rig);
    assert_int_equal(dial(rig, 1), OK);
    int fd = raw_accept(listener);
    raw_write(fd, hello, sizeof(hello));
    assert_int_equal(recv(fd, theirs, sizeof(theirs), MSG_WAITALL), sizeof(theirs));
    close(fd);
    fd = raw_accept(listener);
    assert_int_equal(recv(fd, theirs, sizeof(theirs), MSG_WAITALL), sizeof(theirs));
    assert_false(readable_within(fd, 400)); /* it is the end that would be readable */
    raw_write(fd, hello, sizeof(hello));
    channel_client_close(rig->client);
    rig->client = NULL;
    close(fd);
    close(listener);
}

/* A server that speaks SP but not our frames. */
static void *speak_nonsense(void *arg)
{
    int listener = *(int *)arg;
    static const char hello[] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };
    unsigned char request[64];
    int fd = raw_accept(listener);
    raw_write(fd, hello, sizeof(hello));
    if (fd >= 0 && recv(fd, request, 8 + 9 + 4 + 4 + 2, MSG_WAITALL) == 27) {
        unsigned char reply[] = { 1, 0,           0,           0,           0,           0,   0,   0,
                                  7, request[17], request[18], request[19], request[20], 'o', 'd', 'd' };
        raw_write(fd, reply, sizeof(reply));
    }
    raw_drain(fd);
    close(fd);
    return NULL;
}

static void a_reply_that_is_no_frame_is_corrupt(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 };
    int listener = raw_listen(rig);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, speak_nonsense, &listener), 0);
    assert_int_equal(dial(rig, 1), OK);
    assert_int_equal(channel_send(rig->client, SPAN("hi"), 5000, answered, &asked), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, ERR_CORRUPT);
    channel_client_close(rig->client);
    rig->client = NULL;
    pthread_join(thread, NULL);
    close(listener);
}

static void closing_the_client_settles_every_request_once(void **state)
{
    struct rig *rig = *state;
    struct asked asked[8] = { 0 };
    rig->hold = true;
    assert_int_equal(serve(rig, 8), OK);
    assert_int_equal(dial(rig, 8), OK);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(channel_send(rig->client, SPAN("x"), 60000, answered, &asked[i]), OK);
    run_until(rig, &rig->seen, 4); /* some in hand, some perhaps not yet */
    channel_client_close(rig->client);
    rig->client = NULL;
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(asked[i].done, 1);
        assert_int_equal(asked[i].err, ERR_CANCELLED);
    }
}

static void opening_and_closing_under_load_leaks_nothing(void **state)
{
    struct rig *rig = *state;
    for (unsigned round = 0; round < 40; round++) {
        struct asked asked[16] = { 0 };
        rig->hold = round % 3 == 0;
        assert_int_equal(serve(rig, 4), OK);
        assert_int_equal(dial(rig, 16), OK);
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(channel_send(rig->client, SPAN("load"), 60000, answered, &asked[i]), OK);
        if (round % 2)
            run_until(rig, &rig->seen, 1);
        rig->seen = 0;
        struct channel_server *server = rig->server;
        rig->server = NULL;
        if (round % 4 < 2) {
            channel_client_close(rig->client);
            channel_server_close(server);
        } else {
            channel_server_close(server);
            channel_client_close(rig->client);
        }
        rig->client = NULL;
        release_held(rig);
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(asked[i].done, 1);
    }
}

/* ---- opening ---- */

static void an_address_is_judged_before_it_is_used(void **state)
{
    struct rig *rig = *state;
    static const struct {
        const char *address;
        enum err err;
    } cases[] = {
        { "", ERR_INVALID },
        { "http://127.0.0.1:1", ERR_INVALID },
        { "ipc://relative", ERR_INVALID },
        { "tcp://0.0.0.0:7000", ERR_DENIED },
        { "tcp://192.0.2.1:7000", ERR_DENIED },
        { "tcp://127.0.0.1.example.com:7000", ERR_DENIED },
        { "tls+tcp://127.0.0.1:7000", ERR_INVALID }, /* without certificates */
        { "ipc:///nowhere/at/all/link.sock", ERR_IO },
    };
    struct channel_server *server;
    struct channel_server_options options = {
        .parallel = 1, .handler = handle, .wake = wake, .wake_user = &rig->event
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        options.address = cases[i].address;
        enum err err = channel_server_open(&options, &server);
        if (err != cases[i].err)
            fail_msg("%s: %s", cases[i].address, err_name(err));
    }
    char longest[IPC_PATH_BYTES_MAX + 8];
    (void)snprintf(longest, sizeof(longest), "ipc:///%0*d", (int)IPC_PATH_BYTES_MAX, 0);
    options.address = longest;
    assert_int_equal(channel_server_open(&options, &server), ERR_TOO_LARGE);
}

static void a_second_server_is_refused_and_a_file_is_kept(void **state)
{
    struct rig *rig = *state;
    struct asked asked = { 0 };
    assert_int_equal(serve(rig, 1), OK);
    struct channel_server *first = rig->server;
    assert_int_equal(serve(rig, 1), ERR_EXISTS);
    assert_ptr_equal(rig->server, first);
    assert_int_equal(dial(rig, 1), OK);
    assert_int_equal(channel_send(rig->client, SPAN("first"), 5000, answered, &asked), OK);
    run_until(rig, &asked.done, 1);
    assert_int_equal(asked.err, OK); /* the first one lives on */
    channel_server_close(rig->server);
    rig->server = NULL;
    int fd = open(rig->path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(serve(rig, 1), ERR_EXISTS);
    struct stat st;
    assert_int_equal(lstat(rig->path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
}

/* ---- without a loop ---- */

struct questions { /* cmocka's assertions belong to the test's own thread */
    struct rig *rig;
    enum err status, silence;
    struct buf reply;
    size_t silence_bytes;
};

static void *ask_it(void *arg)
{
    struct questions *q = arg;
    struct buf nothing = BUF_INIT(100);
    q->status = channel_ask(q->rig->address, NULL, SPAN("status"), 20000, &q->reply);
    q->silence = channel_ask(q->rig->address, NULL, SPAN("silence"), 1000, &nothing);
    q->silence_bytes = nothing.len;
    buf_release(&nothing);
    return NULL;
}

static void a_program_without_a_loop_can_ask(void **state)
{
    struct rig *rig = *state;
    struct questions q = { .rig = rig, .reply = BUF_INIT(100) };
    assert_int_equal(channel_ask(rig->address, NULL, SPAN("status"), 5000, &q.reply), ERR_REFUSED); /* soon */
    assert_int_equal(channel_ask("tcp://192.0.2.1:1", NULL, SPAN("status"), 5000, &q.reply), ERR_DENIED);
    rig->silent = SPAN("silence");
    assert_int_equal(serve(rig, 2), OK);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask_it, &q), 0);
    run_until(rig, &rig->seen, 2);
    pthread_join(thread, NULL);
    assert_int_equal(q.status, OK);
    assert_true(span_eq(buf_span(&q.reply), SPAN("status")));
    assert_int_equal(q.silence, ERR_TIMEOUT);
    assert_int_equal(q.silence_bytes, 0);
    buf_release(&q.reply);
}

/* nng would wait ten seconds for its greeting. */
static void asking_one_that_does_not_answer_ends_with_its_timeout(void **state)
{
    struct rig *rig = *state;
    struct buf reply = BUF_INIT(100);
    int listener = raw_listen(rig);
    uint64_t begin = clock_ms();
    assert_int_equal(channel_ask(rig->address, NULL, SPAN("status"), 100, &reply), ERR_TIMEOUT);
    assert_in_range(clock_ms() - begin, 100, 8000);
    buf_release(&reply);
    close(listener);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return child_main(argv[2]);
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(a_request_is_answered),
        T(many_requests_run_at_once),
        T(thousands_of_requests_one_after_another),
        T(large_messages_pass_and_larger_are_refused),
        T(silence_is_a_timeout_and_the_slot_is_free_again),
        T(a_request_waits_for_a_server_that_comes_later),
        T(a_server_that_closes_breaks_what_it_holds_once),
        T(a_killed_server_never_sees_a_request_again_unless_asked),
        T(garbage_is_counted_and_harms_nobody),
        T(strangers_that_leave_at_once_do_not_end_the_server),
        T(a_client_outlives_servers_that_leave_at_once),
        T(a_client_does_not_hang_up_on_a_slow_greeting),
        T(a_reply_that_is_no_frame_is_corrupt),
        T(closing_the_client_settles_every_request_once),
        T(opening_and_closing_under_load_leaks_nothing),
        T(an_address_is_judged_before_it_is_used),
        T(a_second_server_is_refused_and_a_file_is_kept),
        T(a_program_without_a_loop_can_ask),
        T(asking_one_that_does_not_answer_ends_with_its_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
