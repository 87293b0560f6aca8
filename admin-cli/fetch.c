#include "admin-cli/fetch.h"
#include "common/clock.h"
#include "common/span.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES_MAX 16384u

static int left_ms(uint64_t deadline_ms)
{
    const uint64_t now = clock_ms();
    return now >= deadline_ms ? 0 : (int)(deadline_ms - now);
}

static enum err split(const char *address, char *host, size_t room, const char **ret_port)
{
    const char *colon = strrchr(address, ':');
    const bool brackets = address[0] == '[';
    if (!colon || colon == address || (brackets && colon[-1] != ']'))
        return ERR_INVALID;
    const int len = snprintf(host, room, "%.*s", (int)(colon - address) - 2 * brackets, address + brackets);
    *ret_port = colon + 1;
    return len > 0 && (size_t)len < room && **ret_port ? OK : ERR_INVALID;
}

bool fetch_is_address(const char *address)
{
    char host[256];
    const char *port;
    uint64_t number;
    return split(address, host, sizeof(host), &port) == OK && span_to_u64(span_cstr(port), &number) == OK &&
           number > 0 && number <= UINT16_MAX;
}

static enum err wait_for(int fd, short events, uint64_t deadline_ms)
{
    for (;;) {
        struct pollfd one = { .fd = fd, .events = events };
        const int n = poll(&one, 1, left_ms(deadline_ms));
        if (n > 0)
            return OK;
        if (n == 0)
            return ERR_TIMEOUT;
        if (errno != EINTR)
            return ERR_IO;
    }
}

static enum err connect_to(const char *address, uint64_t deadline_ms, int *ret_fd)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL;
    const char *port;
    char host[256];
    int number = 0;
    socklen_t len = sizeof(number);
    enum err err = split(address, host, sizeof(host), &port);
    if (err)
        return err;
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return ERR_NOT_FOUND;
    const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        err = ERR_IO;
    else if (connect(fd, found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS)
        err = errno == ECONNREFUSED ? ERR_REFUSED : ERR_IO;
    freeaddrinfo(found);
    if (!err)
        err = wait_for(fd, POLLOUT, deadline_ms);
    if (!err && (getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &len) != 0 || number != 0))
        err = number == ECONNREFUSED ? ERR_REFUSED : ERR_IO;
    if (err && fd >= 0)
        close(fd);
    else
        *ret_fd = fd;
    return err;
}

/* Everything until the other side ends, as we ask it to. */
static enum err read_all(int fd, uint64_t deadline_ms, struct buf *in)
{
    for (;;) {
        char *at;
        enum err err = wait_for(fd, POLLIN, deadline_ms);
        if (!err)
            err = buf_reserve(in, 65536, &at);
        if (err)
            return err;
        const ssize_t n = read(fd, at, 65536);
        if (n == 0)
            return OK;
        if (n > 0)
            buf_commit(in, (size_t)n);
        else if (errno != EINTR && errno != EAGAIN)
            return ERR_IO;
    }
}

enum err fetch_page(const char *address, const char *path, unsigned timeout_ms, struct buf *out)
{
    const uint64_t deadline_ms = clock_ms() + timeout_ms;
    struct buf in = BUF_INIT(out->max + HEAD_BYTES_MAX + 65536);
    char request[1024];
    int fd = -1;
    const int len =
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address);
    enum err err = len > 0 && (size_t)len < sizeof(request) ? connect_to(address, deadline_ms, &fd) : ERR_INVALID;
    if (!err && send(fd, request, (size_t)len, MSG_NOSIGNAL) != len)
        err = ERR_IO;
    if (!err)
        err = read_all(fd, deadline_ms, &in);
    if (fd >= 0)
        close(fd);
    const struct span answer = buf_span(&in);
    const size_t body = span_find(answer, SPAN("\r\n\r\n"));
    if (!err && (!span_starts(answer, SPAN("HTTP/1.1 ")) || body == SIZE_MAX))
        err = ERR_CORRUPT;
    if (!err && !span_starts(answer, SPAN("HTTP/1.1 200 ")))
        err = ERR_NOT_FOUND;
    if (!err)
        err = buf_append(out, span_skip(answer, body + 4));
    buf_release(&in);
    return err;
}
