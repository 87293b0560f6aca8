#include "dataplane/worker/link.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/board.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINK_RETRY_MS 50u
#define LINK_OUT_MAX  (64u * CONTROL_LINE_BYTES) /* a master that does not read must not fill our memory */

struct link_poll {
    uv_poll_t poll;
    int fd;
};

static void send_out(struct link *link);

static void on_poll_closed(uv_handle_t *handle)
{
    struct link_poll *poll = CONTAINER_OF((uv_poll_t *)handle, struct link_poll, poll);
    close(poll->fd);
    free(poll);
}

static void lose(struct link *link)
{
    if (!link->poll)
        return;
    uv_close((uv_handle_t *)&link->poll->poll, on_poll_closed);
    link->poll = NULL;
    link->hello_sent = false;
    control_fds_close(&link->given);
    buf_release(&link->in);
    buf_release(&link->out);
}

static void watch(struct link *link);

static void say(struct link *link, const struct control_message *message)
{
    if (!link->poll || !link->hello_sent)
        return;
    /* Full, as the master does not read, or no memory: it is told who serves what when we are connected again. */
    const enum err err = control_format(message, &link->out);
    if (err) {
        log_warn("link.unsaid", LOG_U64("slot", link->slot), LOG_ERR(err));
        lose(link);
        return;
    }
    send_out(link);
}

static void say_serving(struct link *link)
{
    if (link->has_version)
        say(link, &(struct control_message){ .kind = CONTROL_SERVING, .version = link->version });
}

static void say_hello(struct link *link)
{
    struct buf line = BUF_INIT(CONTROL_LINE_BYTES);
    struct control_message hello = { .kind = CONTROL_HELLO,
                                     .pid = (uint64_t)getpid(),
                                     .slot = link->slot,
                                     .region = link->region,
                                     .layout = BOARD_LAYOUT };
    memcpy(hello.boot, link->boot, sizeof(hello.boot));
    enum err err = control_format(&hello, &line);
    /* A fresh socket takes one line. */
    if (err == OK)
        err = control_send_fds(link->poll->fd, buf_span(&line), &link->listeners);
    buf_release(&line);
    if (err) {
        lose(link);
        return;
    }
    link->hello_sent = true;
    say_serving(link);
}

static void send_out(struct link *link)
{
    while (link->poll && link->out.len > 0) {
        struct span bytes = buf_span(&link->out);
        ssize_t n = write(link->poll->fd, bytes.ptr, bytes.len);
        if (n > 0) {
            buf_consume(&link->out, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            break;
        } else {
            lose(link);
        }
    }
    watch(link);
}

/* ERR_INVALID: not what a master says. ERR_NOMEM. */
static enum err obey(struct link *link, const struct control_message *message)
{
    struct control_fds given;
    switch (message->kind) {
    case CONTROL_WAKE:
        link->events.wake(link->events.user);
        break;
    case CONTROL_DRAIN:
        if (fault_hit(FAULT_DRAIN))
            return ERR_NOMEM;
        link->events.drain(link->events.user, message->ms);
        break;
    case CONTROL_ADOPT_LISTENER:
        given = link->given;
        link->given.count = 0;
        if (given.count == 0 || message->slot >= NODE_WORKERS_MAX) {
            control_fds_close(&given);
            return ERR_INVALID;
        }
        link->events.adopt_listener(link->events.user, (unsigned)message->slot, &given);
        break;
    case CONTROL_DROP_LISTENER:
        if (message->slot < NODE_WORKERS_MAX)
            link->events.drop_listener(link->events.user, (unsigned)message->slot);
        break;
    case CONTROL_HELLO:
    case CONTROL_SERVING:
    case CONTROL_BAD_TABLE:
    case CONTROL_LEAVING:
    case CONTROL_DRAINED:
        log_warn("link.odd", LOG_U64("kind", message->kind));
        break;
    }
    return OK;
}

/* Descriptors are kept until their words are whole: they come with the first byte of them. */
static void receive(struct link *link)
{
    enum err err = control_recv_fds(link->poll->fd, &link->in, &link->given);
    if (err == ERR_AGAIN)
        return;
    while (err == OK && link->poll) {
        struct control_message message;
        err = control_parse(&link->in, &message);
        if (err == OK)
            err = obey(link, &message);
    }
    if (err == OK || err == ERR_AGAIN)
        return;
    /* What it said is lost with the connection: it says again what holds when we are connected again. */
    if (err != ERR_CLOSED)
        log_warn("link.unheard", LOG_U64("slot", link->slot), LOG_ERR(err));
    lose(link);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct link *link = poll->data;
    if (status < 0) {
        lose(link);
        return;
    }
    if (events & UV_READABLE)
        receive(link);
    if (link->poll && (events & UV_WRITABLE))
        send_out(link);
}

static void watch(struct link *link)
{
    if (link->poll)
        uv_poll_start(&link->poll->poll, UV_READABLE | (link->out.len ? UV_WRITABLE : 0), on_poll);
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    if (len >= sizeof(address.sun_path))
        return -1;
    memcpy(address.sun_path, path, len + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void on_retry(uv_timer_t *timer)
{
    struct link *link = timer->data;
    if (link->poll || link->closed)
        return;
    int fd = connect_to(link->path);
    if (fd < 0)
        return;
    struct link_poll *poll = fault_calloc(1, sizeof(*poll));
    if (!poll || uv_poll_init(link->loop, &poll->poll, fd)) {
        free(poll);
        close(fd);
        return;
    }
    poll->fd = fd;
    poll->poll.data = link;
    link->poll = poll;
    buf_init(&link->in, 4 * CONTROL_LINE_BYTES);
    buf_init(&link->out, LINK_OUT_MAX);
    watch(link);
    say_hello(link);
}

/* The kernel's: a board of before a reboot is nobody's. Empty when it cannot be read. */
static void read_boot(struct link *link)
{
    struct buf text = BUF_INIT(sizeof(link->boot));
    if (file_read("/proc/sys/kernel/random/boot_id", sizeof(link->boot), &text) == OK) {
        size_t n = size_min(text.len, sizeof(link->boot) - 1);
        while (n > 0 && buf_span(&text).ptr[n - 1] == '\n')
            n--;
        memcpy(link->boot, buf_span(&text).ptr, n);
    }
    buf_release(&text);
}

static enum err duplicate(struct link *link, const struct control_fds *fds)
{
    for (unsigned i = 0; i < fds->count; i++) {
        const int fd = fcntl(fds->fds[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            control_fds_close(&link->listeners);
            return ERR_IO;
        }
        link->listeners.fds[link->listeners.count++] = fd;
    }
    return OK;
}

enum err link_open(struct link *link, const struct link_options *options)
{
    *link = (struct link){
        .loop = options->loop, .slot = options->slot, .region = options->region, .events = options->events
    };
    const size_t bytes = strlen(options->path) + 1;
    link->path = fault_malloc(bytes);
    if (!link->path)
        return ERR_NOMEM;
    memcpy(link->path, options->path, bytes);
    if (duplicate(link, options->listeners)) {
        free(link->path);
        return ERR_IO;
    }
    read_boot(link);
    REQUIRE(uv_timer_init(link->loop, &link->retry) == 0);
    link->retry.data = link;
    REQUIRE(uv_timer_start(&link->retry, on_retry, 0, LINK_RETRY_MS) == 0);
    return OK;
}

void link_serving(struct link *link, const struct table_version *version)
{
    link->version = *version;
    link->has_version = true;
    say_serving(link);
}

void link_bad_table(struct link *link, const struct table_version *version, const char *why)
{
    struct control_message message = { .kind = CONTROL_BAD_TABLE, .version = *version };
    (void)snprintf(message.reason, sizeof(message.reason), "%s", why);
    say(link, &message);
}

void link_drained(struct link *link)
{
    say(link, &(struct control_message){ .kind = CONTROL_DRAINED });
}

bool link_leaving(struct link *link)
{
    say(link, &(struct control_message){ .kind = CONTROL_LEAVING });
    return link->poll && link->hello_sent;
}

void link_drop_listeners(struct link *link)
{
    control_fds_close(&link->listeners);
}

void link_close(struct link *link)
{
    if (link->closed)
        return;
    link->closed = true;
    lose(link);
    link_drop_listeners(link);
    uv_close((uv_handle_t *)&link->retry, NULL);
    free(link->path);
    link->path = NULL;
}
