#include "dataplane/node/sockets.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static enum err err_of(int number)
{
    switch (number) {
    case EADDRINUSE:
        return ERR_EXISTS;
    case EACCES:
    case EPERM:
        return ERR_DENIED;
    case EADDRNOTAVAIL:
        return ERR_NOT_FOUND;
    default:
        return ERR_IO;
    }
}

static int bound(const struct address *address, bool shared)
{
    const int on = 1;
    const int fd = socket(address->bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    bool good = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0; /* connections of before linger */
    if (shared)
        good = good && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0;
    if (address->bytes.ss_family == AF_INET6)
        good = good && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) == 0;
    if (good && bind(fd, (const struct sockaddr *)&address->bytes, address->len) == 0)
        return fd;
    const int number = errno;
    (void)close(fd);
    errno = number;
    return -1;
}

enum err socket_address(int fd, struct address *ret)
{
    int listening = 0;
    socklen_t len = sizeof(listening);
    struct address address = { .len = sizeof(address.bytes) };
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) || !listening)
        return ERR_INVALID;
    if (getsockname(fd, (struct sockaddr *)&address.bytes, &address.len))
        return ERR_IO;
    if (address.bytes.ss_family != AF_INET && address.bytes.ss_family != AF_INET6)
        return ERR_INVALID;
    *ret = address;
    return OK;
}

enum err socket_listen(struct address *address, bool exclusive, int *ret_fd)
{
    if (exclusive && address_port(address) != 0) {
        const int probe = bound(address, false);
        if (probe < 0)
            return err_of(errno);
        (void)close(probe);
    }
    const int fd = bound(address, true);
    if (fd < 0)
        return err_of(errno);
    enum err err = listen(fd, SOCKETS_BACKLOG) ? err_of(errno) : socket_address(fd, address);
    if (err) {
        (void)close(fd);
        return err;
    }
    *ret_fd = fd;
    return OK;
}

enum err socket_listen_unix(const char *path, int *ret_fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const size_t len = strlen(path);
    if (len >= sizeof(address.sun_path))
        return ERR_TOO_LARGE;
    memcpy(address.sun_path, path, len + 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ERR_IO;
    /* The home is locked by us: a socket that stands there is a dead master's. */
    if (unlink(path) != 0 && errno != ENOENT) {
        (void)close(fd);
        return ERR_IO;
    }
    const mode_t mask = umask(0177);
    const bool good = bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
    (void)umask(mask);
    if (!good || listen(fd, SOCKETS_BACKLOG)) {
        const enum err err = err_of(errno);
        (void)close(fd);
        return err;
    }
    *ret_fd = fd;
    return OK;
}
