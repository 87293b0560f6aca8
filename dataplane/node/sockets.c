#include "dataplane/node/sockets.h"
#include "common/fault.h"
#include <errno.h>
#include <fcntl.h>
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
    case ENOENT:
    case ENOTDIR:
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

enum err socket_listen_unix(const char *path, unsigned mode, bool exclusive, int *ret_fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const size_t len = strlen(path);
    if (len >= sizeof(address.sun_path))
        return ERR_TOO_LARGE;
    memcpy(address.sun_path, path, len + 1);
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

/* ---- what systemd passed ---- */

/* The first passed descriptor, sd_listen_fds(3). */
#define PASSED_FD_FIRST 3

static unsigned number_in_environment(const char *name)
{
    uint64_t number;
    const char *text = getenv(name);
    return text && span_to_u64(span_cstr(text), &number) == OK && number <= INT32_MAX ? (unsigned)number : 0;
}

static enum err take_passed(struct sockets *s)
{
    const bool ours = number_in_environment("LISTEN_PID") == (unsigned)getpid();
    const unsigned count = ours ? number_in_environment("LISTEN_FDS") : 0;
    const char *const names_text = getenv("LISTEN_FDNAMES");
    struct span names = span_cstr(names_text), name;
    enum err err = OK;
    for (unsigned i = 0; i < count && i < SOCKETS_PASSED_MAX && !err; i++) {
        struct sockets_passed *passed = &s->passed[i];
        const int fd = PASSED_FD_FIRST + (int)i;
        if (!names_text || !span_split(&names, ':', &name))
            name = SPAN("unknown"); /* as sd_listen_fds_with_names(3) calls them */
        passed->fd = fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? fd : -1;
        passed->name = fault_malloc(name.len + 1);
        if (passed->name) {
            memcpy(passed->name, name.ptr, name.len);
            passed->name[name.len] = '\0';
        }
        s->passed_count++;
        err = passed->name ? OK : ERR_NOMEM;
    }
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    return err;
}

/* A stream that listens, whose connections we can serve. */
static bool is_listening_stream(int fd)
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

static bool set_flags(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

/* name "": the only one. */
static enum err open_passed(struct sockets *s, struct sockets_place *place, const char *name, const char **ret_hint)
{
    struct sockets_passed *found = NULL;
    unsigned matches = 0;
    for (unsigned i = 0; i < s->passed_count; i++) {
        if (s->passed[i].fd >= 0 && (!*name || strcmp(s->passed[i].name, name) == 0)) {
            found = &s->passed[i];
            matches++;
        }
    }
    if (matches == 0) {
        *ret_hint = "systemd passed no such socket: look at FileDescriptorName= of the socket unit and at Sockets= of "
                    "the service";
        return ERR_NOT_FOUND;
    }
    if (matches > 1) {
        *ret_hint = "systemd passed several sockets of this name: give each its own FileDescriptorName=";
        return ERR_INVALID;
    }
    if (!is_listening_stream(found->fd) || !set_flags(found->fd)) {
        *ret_hint = "what systemd passed is no listening stream: ListenStream= and Accept=no";
        return ERR_INVALID;
    }
    place->fds[0] = found->fd;
    found->fd = -1;
    return OK;
}

/* ---- a place ---- */

static const char *rest_of(const struct sockets_place *place)
{
    const char *rest;
    (void)listener_kind(&(struct listener_config){ .address = place->address }, &rest);
    return rest;
}

static struct sockets_place *new_place(const struct listener_config *config)
{
    struct sockets_place *place = fault_calloc(1, sizeof(*place));
    const size_t bytes = strlen(config->address) + 1;
    const char *rest;
    if (!place)
        return NULL;
    place->address = fault_malloc(bytes);
    if (!place->address) {
        free(place);
        return NULL;
    }
    memcpy(place->address, config->address, bytes);
    place->kind = listener_kind(config, &rest);
    place->mode = config->mode;
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++)
        place->fds[i] = -1;
    if (place->kind == LISTENER_TCP)
        REQUIRE(address_parse(span_cstr(rest), &place->bound) == OK); /* was checked with the configuration */
    return place;
}

/* Closes the sockets of slots from `slots` on. */
static void trim(struct sockets_place *place, unsigned slots)
{
    for (unsigned i = slots; i < NODE_WORKERS_MAX; i++) {
        if (place->fds[i] >= 0)
            (void)close(place->fds[i]);
        place->fds[i] = -1;
    }
}

static void free_place(struct sockets_place *place, bool leave)
{
    struct stat file;
    if (leave && place->inode && lstat(rest_of(place), &file) == 0 && file.st_ino == place->inode &&
        file.st_dev == place->device)
        (void)unlink(rest_of(place));
    trim(place, 0);
    free(place->address);
    free(place);
}

static void remember_file(struct sockets_place *place)
{
    struct stat file;
    if (place->kind == LISTENER_UNIX && lstat(rest_of(place), &file) == 0) {
        place->inode = file.st_ino;
        place->device = file.st_dev;
    }
}

static enum err open_tcp(struct sockets_place *place, unsigned slots, bool exclusive)
{
    enum err err = OK;
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++)
        exclusive = exclusive && place->fds[i] < 0; /* a socket of ours shares it already */
    for (unsigned i = 0; i < slots && !err; i++) {
        if (place->fds[i] < 0)
            err = socket_listen(&place->bound, exclusive, &place->fds[i]);
        exclusive = false;
    }
    return err;
}

static const char *hint_of(const struct sockets_place *place, enum err err)
{
    switch (err) {
    case ERR_EXISTS:
        return place->kind == LISTENER_UNIX
                   ? "another program listens there, or the file is no socket: remove it, or choose another path"
                   : "another program listens there: stop it, or choose another address with --listen";
    case ERR_DENIED:
        return place->kind == LISTENER_UNIX
                   ? "this user may not make a socket there"
                   : "this user may not listen there: choose a port from 1024 on, or let systemd pass the socket";
    case ERR_NOT_FOUND:
        return place->kind == LISTENER_UNIX ? "there is no such directory" : "this machine has no such address";
    default:
        return "";
    }
}

static enum err open_place(struct sockets *s, struct sockets_place *place, unsigned slots, bool exclusive,
                           struct sockets_fault *ret_fault)
{
    const char *hint = NULL;
    enum err err = OK;
    if (place->kind == LISTENER_TCP) {
        err = open_tcp(place, slots, exclusive);
    } else if (place->fds[0] < 0 && place->kind == LISTENER_UNIX) {
        err = socket_listen_unix(rest_of(place), place->mode, exclusive, &place->fds[0]);
        if (!err)
            remember_file(place);
    } else if (place->fds[0] < 0) {
        err = open_passed(s, place, rest_of(place), &hint);
    }
    if (err) {
        (void)snprintf(ret_fault->address, sizeof(ret_fault->address), "%s", place->address);
        ret_fault->hint = hint ? hint : hint_of(place, err);
    }
    return err;
}

/* ---- all of them ---- */

enum err sockets_init(struct sockets *s, const struct node_config *config)
{
    *s = (struct sockets){ .slots = config->workers };
    enum err err = take_passed(s);
    for (unsigned i = 0; i < config->listener_count && !err; i++) {
        s->places[i] = new_place(&config->listeners[i]);
        err = s->places[i] ? OK : ERR_NOMEM;
        s->count += !err;
    }
    if (err)
        sockets_close(s, false);
    return err;
}

static bool is_bound_to(int fd, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNSPEC };
    socklen_t len = sizeof(address);
    return getsockname(fd, (struct sockaddr *)&address, &len) == 0 && address.sun_family == AF_UNIX &&
           len > offsetof(struct sockaddr_un, sun_path) &&
           strncmp(address.sun_path, path, sizeof(address.sun_path)) == 0;
}

enum err sockets_adopt(struct sockets *s, unsigned listener, unsigned slot, int fd)
{
    struct address address;
    if (listener >= s->count || slot >= s->slots || !is_listening_stream(fd))
        return ERR_INVALID;
    struct sockets_place *place = s->places[listener];
    if (place->kind == LISTENER_TCP) {
        if (socket_address(fd, &address) || !address_agrees(&place->bound, &address))
            return ERR_INVALID;
        if (place->fds[slot] >= 0)
            return ERR_EXISTS;
        place->bound = address; /* all slots share the port that the system chose then */
    } else if (place->kind == LISTENER_UNIX && !is_bound_to(fd, rest_of(place))) {
        return ERR_INVALID;
    }
    if (!set_flags(fd))
        return ERR_INVALID;
    const unsigned at = place->kind == LISTENER_TCP ? slot : 0;
    if (place->fds[at] >= 0) {
        (void)close(fd);
        return OK;
    }
    place->fds[at] = fd;
    remember_file(place);
    return OK;
}

enum err sockets_open(struct sockets *s, bool exclusive, struct sockets_fault *ret_fault)
{
    enum err err = OK;
    for (unsigned i = 0; i < s->count && !err; i++)
        err = open_place(s, s->places[i], s->slots, exclusive, ret_fault);
    return err;
}

static bool is_at(const struct sockets_place *place, const char *address)
{
    struct address wanted;
    if (strcmp(place->address, address) == 0)
        return true;
    return place->kind == LISTENER_TCP && address_parse(span_cstr(address), &wanted) == OK &&
           address_port(&wanted) != 0 && address_agrees(&wanted, &place->bound);
}

static unsigned find_place(const struct sockets *s, const bool *taken, const char *address)
{
    unsigned i = 0;
    while (i < s->count && (taken[i] || !is_at(s->places[i], address)))
        i++;
    return i;
}

/* A port that we hold already, on another address: that it is in use tells nothing. */
static bool has_port_of(const struct sockets *s, const struct sockets_place *place)
{
    for (unsigned i = 0; i < s->count; i++) {
        if (place->kind == LISTENER_TCP && s->places[i]->kind == LISTENER_TCP &&
            address_port(&s->places[i]->bound) == address_port(&place->bound))
            return true;
    }
    return false;
}

/* Sockets that were passed and go to nobody now may be wanted by the next configuration. */
static void give_back(struct sockets *s, struct sockets_place *place)
{
    for (unsigned i = 0; i < s->passed_count && place->kind == LISTENER_SYSTEMD; i++) {
        if (s->passed[i].fd < 0 && (!*rest_of(place) || strcmp(s->passed[i].name, rest_of(place)) == 0)) {
            s->passed[i].fd = place->fds[0];
            place->fds[0] = -1;
            return;
        }
    }
}

enum err sockets_change(struct sockets *s, const struct node_config *config, struct sockets_fault *ret_fault)
{
    struct sockets_place *next[NODE_LISTENERS_MAX] = { NULL };
    bool stays[NODE_LISTENERS_MAX] = { false }, fresh[NODE_LISTENERS_MAX] = { false };
    enum err err = OK;
    *ret_fault = (struct sockets_fault){ .hint = "" };
    unsigned count = 0;
    for (; count < config->listener_count && !err; count++) {
        const struct listener_config *l = &config->listeners[count];
        const unsigned at = find_place(s, stays, l->address);
        fresh[count] = at == s->count;
        if (at < s->count)
            stays[at] = true;
        next[count] = fresh[count] ? new_place(l) : s->places[at];
        err = next[count] ? open_place(s, next[count], config->workers, !has_port_of(s, next[count]), ret_fault)
                          : ERR_NOMEM;
    }
    if (err) {
        for (unsigned i = 0; i < count && next[i]; i++) {
            if (fresh[i])
                give_back(s, next[i]);
            if (fresh[i])
                free_place(next[i], true);
            else
                trim(next[i], s->slots);
        }
        return err;
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (!stays[i]) {
            give_back(s, s->places[i]);
            free_place(s->places[i], true);
        }
    }
    memcpy(s->places, next, sizeof(next));
    s->count = count;
    s->slots = config->workers;
    for (unsigned i = 0; i < count; i++) {
        trim(next[i], next[i]->kind == LISTENER_TCP ? s->slots : 1);
        if (next[i]->inode && next[i]->mode != config->listeners[i].mode)
            (void)chmod(rest_of(next[i]), config->listeners[i].mode);
        next[i]->mode = config->listeners[i].mode;
    }
    return OK;
}

int sockets_fd(const struct sockets *s, unsigned listener, unsigned slot)
{
    REQUIRE(listener < s->count && slot < s->slots);
    return s->places[listener]->fds[sockets_shared(s, listener) ? 0 : slot];
}

bool sockets_shared(const struct sockets *s, unsigned listener)
{
    REQUIRE(listener < s->count);
    return s->places[listener]->kind != LISTENER_TCP;
}

static enum err describe_one(const struct sockets_place *place, bool named, struct buf *out)
{
    struct address address;
    struct sockaddr_un un = { .sun_family = AF_UNSPEC };
    socklen_t len = sizeof(un);
    char text[ADDRESS_TEXT_BYTES];
    enum err err;
    if (place->kind == LISTENER_TCP)
        err = buf_append_cstr(out, address_format(&place->bound, text));
    else if (place->kind == LISTENER_UNIX)
        err = buf_append_cstr(out, place->address);
    else if (socket_address(place->fds[0], &address) == OK)
        err = buf_append_cstr(out, address_format(&address, text));
    else if (getsockname(place->fds[0], (struct sockaddr *)&un, &len) == 0 && un.sun_family == AF_UNIX)
        err = buf_printf(out, "unix:%.*s", (int)sizeof(un.sun_path), un.sun_path);
    else
        err = buf_append_cstr(out, "none");
    if (!err && named && place->kind == LISTENER_SYSTEMD)
        err = buf_printf(out, " %s", place->address);
    return err ? err : buf_append_cstr(out, "\n");
}

enum err sockets_describe(const struct sockets *s, struct buf *out)
{
    struct address address;
    unsigned first = 0;
    while (first < s->count && socket_address(s->places[first]->fds[0], &address) != OK)
        first++;
    if (first == s->count)
        first = 0;
    enum err err = s->count ? describe_one(s->places[first], false, out) : OK;
    for (unsigned i = 0; i < s->count && !err; i++) {
        if (i != first)
            err = describe_one(s->places[i], true, out);
    }
    return err;
}

void sockets_close(struct sockets *s, bool leave)
{
    for (unsigned i = 0; i < s->count; i++)
        free_place(s->places[i], leave);
    for (unsigned i = 0; i < s->passed_count; i++) {
        if (s->passed[i].fd >= 0)
            (void)close(s->passed[i].fd);
        free(s->passed[i].name);
    }
    *s = (struct sockets){ .count = 0 };
}
