#include "dataplane/node/sockets.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    default:
        return ERR_IO;
    }
}

/* What the kernel takes of an answer beyond what the client's window lets go. Without it some megabytes for each client
 * that reads slowly: a thousand of them fill the machine. Connections inherit it. */
#define SOCKETS_UNSENT_BYTES (128 << 10)

static int bound(const struct address *address, bool shared)
{
    const int on = 1, unsent = SOCKETS_UNSENT_BYTES;
    const int fd = socket(address->bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    bool good = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0; /* connections of before linger */
    if (shared)
        good = good && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent)); /* as well as without */
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

/* May the file at this address be replaced by a socket? */
static enum err clear_way(const struct sockaddr_un *address, bool exclusive)
{
    struct stat file;
    if (lstat(address->sun_path, &file))
        return errno == ENOENT ? OK : err_of(errno);
    if (!S_ISSOCK(file.st_mode))
        return ERR_EXISTS;
    if (exclusive) {
        const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return ERR_IO;
        const int number = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
        (void)close(fd);
        if (number != ECONNREFUSED && number != ENOENT) /* EAGAIN: its queue is full */
            return number == EACCES || number == EPERM ? ERR_DENIED : ERR_EXISTS;
    }
    return unlink(address->sun_path) == 0 || errno == ENOENT ? OK : err_of(errno);
}

/* Nobody may connect before its mode stands. */
static enum err bind_unix(int fd, const struct sockaddr_un *address, unsigned mode)
{
    const mode_t mask = umask(0777);
    const int rc = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    const int number = errno;
    (void)umask(mask);
    if (rc)
        return err_of(number);
    if (listen(fd, SOCKETS_BACKLOG) || chmod(address->sun_path, mode)) {
        const enum err err = err_of(errno);
        (void)unlink(address->sun_path);
        return err;
    }
    return OK;
}

static bool unix_address(const char *path, struct sockaddr_un *ret)
{
    const size_t len = strlen(path);
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (len >= sizeof(ret->sun_path))
        return false;
    memcpy(ret->sun_path, path, len + 1);
    return true;
}

void socket_unlink(const char *path, bool only_stale)
{
    struct sockaddr_un address;
    if (unix_address(path, &address) && clear_way(&address, only_stale))
        return; /* it is not ours to remove, or there is nothing to do about it */
}

enum err socket_listen_unix(const char *path, unsigned mode, bool exclusive, int *ret_fd)
{
    struct sockaddr_un address;
    if (!unix_address(path, &address))
        return ERR_TOO_LARGE;
    enum err err = clear_way(&address, exclusive);
    if (err)
        return err;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ERR_IO;
    err = bind_unix(fd, &address, mode);
    if (err)
        (void)close(fd);
    else
        *ret_fd = fd;
    return err;
}

bool socket_is_listening(int fd)
{
    struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
    socklen_t address_len = sizeof(address), len = sizeof(int);
    int type = 0, listening = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) || !listening ||
        getsockname(fd, (struct sockaddr *)&address, &address_len))
        return false;
    return address.ss_family == AF_INET || address.ss_family == AF_INET6 || address.ss_family == AF_UNIX;
}

bool socket_is_at(int fd, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNSPEC };
    socklen_t len = sizeof(address);
    return getsockname(fd, (struct sockaddr *)&address, &len) == 0 && address.sun_family == AF_UNIX &&
           len > offsetof(struct sockaddr_un, sun_path) &&
           strncmp(address.sun_path, path, sizeof(address.sun_path)) == 0;
}
