/* horde - very many clients that all behave badly in one way: thousands of connections to one address, each of which
 * sends its request at once or byte by byte, and reads what comes or does not. For tests of limits.
 *
 * Says "connected" when no connection is being made any more, then obeys lines on standard input:
 *   read     all read from now on
 *   report   prints one JSON object of figures
 * and ends, with a last report, at the end of standard input. */
#include "common/opts.h"
#include "common/json.h"
#include "common/buf.h"
#include "common/clock.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXIT_USAGE   2
#define MEMBERS_MAX  100000u
#define CONNECTS_MAX 256u /* at once: more overflow the listener's queue, and each of those waits a second */
#define EVENTS_MAX   512
#define STATUSES_MAX 600u
#define TAIL_BYTES   16u

static const struct opt options[] = {
    { "target", 0, OPT_TEXT, "ADDR:PORT", "IPv4 address to connect to" },
    { "count", 0, OPT_TEXT, "N", "connections, default 1000" },
    { "request", 0, OPT_TEXT, "TEXT", "what each sends; default nothing" },
    { "at-once", 0, OPT_TEXT, "N", "bytes of it that are sent at once, default all; the rest comes byte by byte" },
    { "drip-ms", 0, OPT_TEXT, "N", "milliseconds between those bytes, default 1000" },
    { "deaf", 0, OPT_FLAG, NULL, "nobody reads until told to" },
    { "receive-buffer", 0, OPT_TEXT, "N", "bytes of each socket's receive buffer; default the system's" },
    { "sources", 0, OPT_TEXT, "N", "loopback addresses to come from, 127.0.0.2 and up; default 4" },
    { "help", 'h', OPT_FLAG, NULL, "print this" },
};

struct member {
    int fd; /* -1: not begun, or over */
    bool connected, over, judged;
    size_t sent, received;
    char head[16]; /* first bytes of the answer */
    char tail[TAIL_BYTES];
};

struct horde {
    struct sockaddr_in target;
    struct span request;
    size_t at_once;
    uint64_t drip_ms, next_drip_ms;
    bool deaf, said_connected;
    int receive_buffer;
    unsigned sources;
    struct member *members;
    unsigned count, begun, connecting, open;
    unsigned failed, closed, reset; /* connects that failed; ends without and with an error */
    unsigned statuses[STATUSES_MAX];
    unsigned done;   /* answers that ended with a stream's [DONE] */
    unsigned silent; /* ends without a byte */
    uint64_t received, began_ms, last_end_ms;
    int epoll;
    struct buf in; /* of standard input */
};

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "horde: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- one of them ---- */

static void watch(const struct horde *h, const struct member *m, int operation)
{
    const bool writes = !m->connected || m->sent < h->at_once;
    struct epoll_event event = { .events = (writes ? EPOLLOUT : 0u) | (h->deaf ? 0u : EPOLLIN | EPOLLRDHUP),
                                 .data.u32 = (uint32_t)(m - h->members) };
    must(epoll_ctl(h->epoll, operation, m->fd, &event) == 0, "epoll_ctl");
}

static void end(struct horde *h, struct member *m, bool failed)
{
    close(m->fd);
    m->fd = -1;
    m->over = true;
    h->last_end_ms = clock_ms();
    if (!m->connected) {
        h->connecting--;
        h->failed++;
        return;
    }
    h->open--;
    *(failed ? &h->reset : &h->closed) += 1;
    if (m->received == 0)
        h->silent++;
}

static void begin(struct horde *h)
{
    struct member *m = &h->members[h->begun++];
    const int on = 1;
    struct sockaddr_in source = { .sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + h->begun % h->sources) };
    m->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(m->fd >= 0, "socket");
    if (h->receive_buffer)
        (void)setsockopt(m->fd, SOL_SOCKET, SO_RCVBUF, &h->receive_buffer, sizeof(h->receive_buffer));
    (void)setsockopt(m->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    must(bind(m->fd, (const struct sockaddr *)&source, sizeof(source)) == 0, "bind");
    h->connecting++;
    if (connect(m->fd, (const struct sockaddr *)&h->target, sizeof(h->target)) == 0 || errno == EINPROGRESS)
        watch(h, m, EPOLL_CTL_ADD);
    else
        end(h, m, true);
}

static void send_until(struct horde *h, struct member *m, size_t most)
{
    while (m->sent < most) {
        const ssize_t n = send(m->fd, h->request.ptr + m->sent, most - m->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return; /* a dead one shows when it is read */
        m->sent += (size_t)n;
    }
}

static void keep(struct member *m, const char *bytes, size_t n)
{
    if (m->received < sizeof(m->head) - 1)
        memcpy(m->head + m->received, bytes, size_min(n, sizeof(m->head) - 1 - m->received));
    const size_t kept = size_min(n, TAIL_BYTES);
    memmove(m->tail, m->tail + kept, TAIL_BYTES - kept);
    memcpy(m->tail + TAIL_BYTES - kept, bytes + n - kept, kept);
    m->received += n;
}

/* Once for each: of its first answer. */
static void count_status(struct horde *h, struct member *m)
{
    unsigned status = 0;
    if (m->judged || m->received < 12)
        return;
    m->judged = true;
    if (sscanf(m->head, "HTTP/1.%*1[01] %3u", &status) == 1 && status < STATUSES_MAX)
        h->statuses[status]++;
}

static void take(struct horde *h, struct member *m)
{
    static char bytes[65536];
    for (;;) {
        const ssize_t n = recv(m->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n > 0) {
            const bool was_done = memmem(m->tail, TAIL_BYTES, "[DONE]", 6) != NULL;
            keep(m, bytes, (size_t)n);
            count_status(h, m);
            h->received += (uint64_t)n;
            h->done += !was_done && memmem(m->tail, TAIL_BYTES, "[DONE]", 6) != NULL;
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        end(h, m, n < 0);
        return;
    }
}

static void on_event(struct horde *h, struct member *m, uint32_t events)
{
    int error = 0;
    socklen_t bytes = sizeof(error);
    if (m->fd < 0)
        return;
    if (!m->connected) {
        if (getsockopt(m->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0 || error != 0) {
            end(h, m, true);
            return;
        }
        m->connected = true;
        h->connecting--;
        h->open++;
    }
    send_until(h, m, h->at_once);
    if (h->deaf && events & (EPOLLERR | EPOLLHUP))
        end(h, m, true);
    else if (!h->deaf)
        take(h, m);
    if (m->fd >= 0)
        watch(h, m, EPOLL_CTL_MOD);
}

/* ---- all of them ---- */

static void report(const struct horde *h)
{
    struct buf out = BUF_INIT(1u << 20);
    struct json_writer w;
    char status[8];
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_member_u64(&w, "count", h->count);
    json_member_u64(&w, "connecting", h->connecting);
    json_member_u64(&w, "failed", h->failed);
    json_member_u64(&w, "open", h->open);
    json_member_u64(&w, "closed", h->closed);
    json_member_u64(&w, "reset", h->reset);
    json_member_u64(&w, "silent", h->silent);
    json_member_u64(&w, "done", h->done);
    json_member_u64(&w, "received", h->received);
    json_member_u64(&w, "last_end_ms", h->last_end_ms ? h->last_end_ms - h->began_ms : 0);
    json_key(&w, SPAN("statuses"));
    json_object_open(&w);
    for (unsigned i = 0; i < STATUSES_MAX; i++) {
        (void)snprintf(status, sizeof(status), "%u", i);
        if (h->statuses[i])
            json_member_u64(&w, status, h->statuses[i]);
    }
    json_object_close(&w);
    json_object_close(&w);
    must(json_writer_end(&w) == OK, "report");
    printf("%.*s\n", (int)out.len, out.data);
    fflush(stdout);
    buf_release(&out);
}

static void obey(struct horde *h, struct span line)
{
    if (span_eq(line, SPAN("report"))) {
        report(h);
    } else if (span_eq(line, SPAN("read")) && h->deaf) {
        h->deaf = false;
        for (unsigned i = 0; i < h->begun; i++)
            if (h->members[i].fd >= 0)
                watch(h, &h->members[i], EPOLL_CTL_MOD);
    }
}

/* False: standard input has ended. */
static bool listen_to_test(struct horde *h)
{
    char bytes[1024];
    const ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
    if (n <= 0)
        return n < 0 && errno == EINTR;
    must(buf_append(&h->in, span_of(bytes, (size_t)n)) == OK, "standard input");
    for (;;) {
        const struct span all = buf_span(&h->in);
        const size_t at = span_find_byte(all, '\n');
        if (at == SIZE_MAX)
            return true;
        obey(h, span_head(all, at));
        buf_consume(&h->in, at + 1);
    }
}

static void drip(struct horde *h)
{
    const uint64_t now_ms = clock_ms();
    if (now_ms < h->next_drip_ms)
        return;
    h->next_drip_ms = now_ms + h->drip_ms;
    for (unsigned i = 0; i < h->begun; i++) {
        struct member *m = &h->members[i];
        if (m->fd >= 0 && m->connected && m->sent >= h->at_once && m->sent < h->request.len)
            send_until(h, m, m->sent + 1);
    }
}

static void run(struct horde *h)
{
    static const uint32_t test = UINT32_MAX; /* standard input's mark */
    struct epoll_event events[EVENTS_MAX], input = { .events = EPOLLIN, .data.u32 = test };
    bool goes_on = true;
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    must(h->epoll >= 0 && epoll_ctl(h->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &input) == 0, "epoll");
    h->began_ms = clock_ms();
    h->next_drip_ms = h->began_ms + h->drip_ms;
    while (goes_on) {
        while (h->begun < h->count && h->connecting < CONNECTS_MAX)
            begin(h);
        if (!h->said_connected && h->connecting == 0) {
            h->said_connected = true;
            printf("connected\n");
            fflush(stdout);
        }
        const int n = epoll_wait(h->epoll, events, EVENTS_MAX, h->at_once < h->request.len ? 10 : 1000);
        must(n >= 0 || errno == EINTR, "epoll_wait");
        for (int i = 0; i < n && goes_on; i++) {
            if (events[i].data.u32 == test)
                goes_on = listen_to_test(h);
            else
                on_event(h, &h->members[events[i].data.u32], events[i].events);
        }
        drip(h);
    }
    report(h);
}

static bool number(const struct opts_result *given, const char *name, uint64_t otherwise, uint64_t most, uint64_t *ret)
{
    const char *text = opts_text(given, name, NULL);
    *ret = otherwise;
    if (!text || (span_to_u64(span_cstr(text), ret) == OK && *ret <= most))
        return true;
    fprintf(stderr, "horde: --%s: \"%s\" is not a number up to %llu\n", name, text, (unsigned long long)most);
    return false;
}

static bool set_up(struct horde *h, const struct opts_result *given)
{
    char host[64] = "";
    unsigned port = 0;
    uint64_t count, at_once, receive_buffer, sources;
    const char *target = opts_text(given, "target", "");
    h->request = span_cstr(opts_text(given, "request", ""));
    h->deaf = opts_flag(given, "deaf");
    if (sscanf(target, "%63[0-9.]:%5u", host, &port) != 2 || port > 65535 ||
        inet_pton(AF_INET, host, &h->target.sin_addr) != 1) {
        fprintf(stderr, "horde: --target: \"%s\" is not ADDR:PORT\n", target);
        return false;
    }
    h->target.sin_family = AF_INET;
    h->target.sin_port = htons((uint16_t)port);
    if (!number(given, "count", 1000, MEMBERS_MAX, &count) || !number(given, "drip-ms", 1000, 3600000, &h->drip_ms) ||
        !number(given, "at-once", h->request.len, UINT32_MAX, &at_once) ||
        !number(given, "receive-buffer", 0, 1u << 30, &receive_buffer) || !number(given, "sources", 4, 200, &sources))
        return false;
    h->count = (unsigned)count;
    h->at_once = size_min(at_once, h->request.len);
    h->receive_buffer = (int)receive_buffer;
    h->sources = sources ? (unsigned)sources : 1;
    return true;
}

int main(int argc, char **argv)
{
    static struct horde h;
    struct opts_result given;
    struct rlimit files;
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) != OK) {
        fprintf(stderr, "horde: %s\n", message ? message : "out of memory");
        free(message);
        return EXIT_USAGE;
    }
    if (opts_flag(&given, "help")) {
        struct buf out = BUF_INIT(64 * 1024);
        must(opts_help(options, ARRAY_LEN(options), &out) == OK, "help");
        fwrite(out.data, 1, out.len, stdout);
        buf_release(&out);
        return 0;
    }
    if (!set_up(&h, &given))
        return EXIT_USAGE;
    (void)signal(SIGPIPE, SIG_IGN);
    must(getrlimit(RLIMIT_NOFILE, &files) == 0, "getrlimit");
    files.rlim_cur = files.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &files) == 0, "setrlimit");
    if (files.rlim_cur < h.count + 16u) {
        fprintf(stderr, "horde: the system allows only %llu descriptors\n", (unsigned long long)files.rlim_cur);
        return 1;
    }
    buf_init(&h.in, 1u << 20);
    h.members = calloc(h.count ? h.count : 1, sizeof(*h.members));
    must(h.members, "memory");
    for (unsigned i = 0; i < h.count; i++)
        h.members[i].fd = -1;
    run(&h);
    buf_release(&h.in);
    free(h.members);
    return 0;
}
