#include "dataplane/node/control.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const words[] = { [CONTROL_HELLO] = "hello",
                                     [CONTROL_SERVING] = "serving",
                                     [CONTROL_BAD_TABLE] = "bad-table",
                                     [CONTROL_LEAVING] = "leaving",
                                     [CONTROL_DRAINED] = "drained",
                                     [CONTROL_WAKE] = "wake",
                                     [CONTROL_DRAIN] = "drain",
                                     [CONTROL_ADOPT_LISTENER] = "adopt-listener",
                                     [CONTROL_DROP_LISTENER] = "drop-listener" };

/* One line holds no line ends, whatever a reason quotes. */
static void one_line(const char *text, char *out, size_t out_bytes)
{
    size_t n = 0;
    for (; text[n] && n < out_bytes - 1; n++)
        out[n] = (unsigned char)text[n] < ' ' || text[n] == 0x7f ? ' ' : text[n];
    out[n] = '\0';
}

enum err control_format(const struct control_message *message, struct buf *out)
{
    char reason[sizeof(message->reason)], boot[sizeof(message->boot)];
    const unsigned long long epoch = message->version.epoch, generation = message->version.generation;
    switch (message->kind) {
    case CONTROL_HELLO:
        one_line(message->boot, boot, sizeof(boot));
        return buf_printf(out, "hello pid=%llu slot=%llu region=%llu layout=%llu boot=%s\n",
                          (unsigned long long)message->pid, (unsigned long long)message->slot,
                          (unsigned long long)message->region, (unsigned long long)message->layout, boot);
    case CONTROL_SERVING:
        return buf_printf(out, "serving epoch=%llu generation=%llu evidence=%llu directory=%llu\n", epoch, generation,
                          (unsigned long long)message->version.evidence_seq,
                          (unsigned long long)message->version.directory_seq);
    case CONTROL_BAD_TABLE:
        one_line(message->reason, reason, sizeof(reason));
        return buf_printf(out, "bad-table epoch=%llu generation=%llu reason=%s\n", epoch, generation, reason);
    case CONTROL_DRAIN:
        return buf_printf(out, "drain ms=%llu\n", (unsigned long long)message->ms);
    case CONTROL_ADOPT_LISTENER:
    case CONTROL_DROP_LISTENER:
        return buf_printf(out, "%s slot=%llu\n", words[message->kind], (unsigned long long)message->slot);
    case CONTROL_LEAVING:
    case CONTROL_DRAINED:
    case CONTROL_WAKE:
        return buf_printf(out, "%s\n", words[message->kind]);
    }
    return ERR_INVALID;
}

/* The next part must be name=NUMBER. */
static bool take_number(struct span *rest, const char *name, uint64_t *ret)
{
    struct span part, key;
    if (!span_split(rest, ' ', &part) || !span_split(&part, '=', &key))
        return false;
    return part.ptr && span_eq(key, span_cstr(name)) && span_to_u64(part, ret) == OK;
}

/* All that is left must be name=TEXT that fits. */
static bool take_text(struct span *rest, const char *name, char *out, size_t out_bytes)
{
    struct span key;
    if (!span_split(rest, '=', &key) || !rest->ptr || !span_eq(key, span_cstr(name)) || rest->len >= out_bytes)
        return false;
    memcpy(out, rest->ptr, rest->len);
    out[rest->len] = '\0';
    *rest = span_of(NULL, 0);
    return true;
}

static bool parse_fields(struct span *rest, struct control_message *m)
{
    switch (m->kind) {
    case CONTROL_HELLO:
        return take_number(rest, "pid", &m->pid) && take_number(rest, "slot", &m->slot) &&
               take_number(rest, "region", &m->region) && take_number(rest, "layout", &m->layout) &&
               take_text(rest, "boot", m->boot, sizeof(m->boot));
    case CONTROL_SERVING:
        return take_number(rest, "epoch", &m->version.epoch) &&
               take_number(rest, "generation", &m->version.generation) &&
               take_number(rest, "evidence", &m->version.evidence_seq) &&
               take_number(rest, "directory", &m->version.directory_seq);
    case CONTROL_BAD_TABLE:
        return take_number(rest, "epoch", &m->version.epoch) &&
               take_number(rest, "generation", &m->version.generation) &&
               take_text(rest, "reason", m->reason, sizeof(m->reason));
    case CONTROL_DRAIN:
        return take_number(rest, "ms", &m->ms);
    case CONTROL_ADOPT_LISTENER:
    case CONTROL_DROP_LISTENER:
        return take_number(rest, "slot", &m->slot);
    case CONTROL_LEAVING:
    case CONTROL_DRAINED:
    case CONTROL_WAKE:
        return true;
    }
    return false;
}

static enum err parse_line(struct span line, struct control_message *ret)
{
    struct control_message message = { .kind = CONTROL_HELLO };
    struct span word;
    if (memchr(line.ptr, '\0', line.len) || !span_split(&line, ' ', &word))
        return ERR_SYNTAX;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!span_eq(word, span_cstr(words[i])))
            continue;
        message.kind = (enum control_kind)i;
        if (!parse_fields(&line, &message) || line.ptr)
            return ERR_SYNTAX; /* a field is missing, or more follows */
        *ret = message;
        return OK;
    }
    return ERR_SYNTAX;
}

enum err control_parse(struct buf *in, struct control_message *ret)
{
    const struct span bytes = buf_span(in);
    const size_t end = span_find_byte(bytes, '\n');
    if (end == SIZE_MAX)
        return bytes.len >= CONTROL_LINE_BYTES ? ERR_TOO_LARGE : ERR_AGAIN;
    if (end >= CONTROL_LINE_BYTES)
        return ERR_TOO_LARGE;
    const enum err err = parse_line(span_head(bytes, end), ret);
    buf_consume(in, end + 1);
    return err;
}

union ancillary { /* aligned for a header and the descriptors */
    struct cmsghdr align;
    char bytes[CMSG_SPACE(NODE_LISTENERS_MAX * sizeof(int))];
};

void control_fds_close(struct control_fds *fds)
{
    for (unsigned i = 0; i < fds->count; i++)
        (void)close(fds->fds[i]);
    fds->count = 0;
}

enum err control_send_fds(int socket, struct span bytes, const struct control_fds *fds)
{
    union ancillary control = { .bytes = { 0 } };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes.ptr, .iov_len = bytes.len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    REQUIRE(fds->count <= NODE_LISTENERS_MAX);
    if (fds->count > 0) {
        const size_t len = fds->count * sizeof(int);
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(len);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(len);
        memcpy(CMSG_DATA(c), fds->fds, len);
    }
    ssize_t n;
    do
        n = sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)bytes.len)
        return OK;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return ERR_AGAIN;
    return n < 0 && (errno == EPIPE || errno == ECONNRESET) ? ERR_CLOSED : ERR_IO; /* part of a line helps nobody */
}

static void take_descriptors(struct msghdr *msg, struct control_fds *fds)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (fds->count < NODE_LISTENERS_MAX)
                fds->fds[fds->count++] = fd;
            else
                (void)close(fd);
        }
    }
}

enum err control_recv_fds(int socket, struct buf *into, struct control_fds *fds)
{
    union ancillary control;
    char bytes[CONTROL_LINE_BYTES];
    struct iovec iov = { .iov_base = bytes, .iov_len = size_min(sizeof(bytes), buf_room(into)) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
    };
    if (iov.iov_len == 0)
        return ERR_FULL;
    ssize_t n;
    do
        n = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_AGAIN : errno == ECONNRESET ? ERR_CLOSED : ERR_IO;
    take_descriptors(&msg, fds);
    if (n == 0)
        return ERR_CLOSED;
    return buf_append(into, span_of(bytes, (size_t)n));
}
