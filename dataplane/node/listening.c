#include "dataplane/node/listening.h"
#include <fcntl.h>
#include <sys/un.h>
#include <unistd.h>

#define UNIX    "unix:"
#define SYSTEMD "systemd:"

void listening_plan(struct listening *l, const struct node_config *config)
{
    REQUIRE(config->workers <= NODE_WORKERS_MAX && config->listener_count <= NODE_LISTENERS_MAX);
    *l = (struct listening){ .slots = config->workers, .count = config->listener_count };
    for (unsigned i = 0; i < l->count; i++) {
        struct listening_line *line = &l->lines[i];
        const char *rest;
        line->kind = listener_kind(&config->listeners[i], &rest);
        line->mode = config->listeners[i].mode;
        line->tls = config->listeners[i].certificate != NULL;
        (void)snprintf(line->text, sizeof(line->text), "%s", config->listeners[i].address);
        if (line->kind == LISTENER_TCP)
            REQUIRE(address_parse(span_cstr(rest), &line->address) == OK); /* the configuration was checked */
    }
    for (unsigned slot = 0; slot < NODE_WORKERS_MAX; slot++) {
        for (unsigned i = 0; i < NODE_LISTENERS_MAX; i++)
            l->fds[slot][i] = -1;
    }
}

/* Port 0, written the same again, means the port that the system chose then. */
static bool same_line(const struct listening_line *wanted, const struct listening_line *have)
{
    if (wanted->kind != have->kind)
        return false;
    if (strcmp(wanted->text, have->text) == 0)
        return true;
    return wanted->kind == LISTENER_TCP && address_port(&wanted->address) != 0 &&
           address_agrees(&wanted->address, &have->address);
}

static int duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static enum err keep_line(struct listening *l, unsigned line, const struct listening *before, unsigned from)
{
    l->lines[line].address = before->lines[from].address;
    for (unsigned slot = 0; slot < l->slots && slot < before->slots; slot++) {
        if (before->fds[slot][from] < 0 || l->fds[slot][line] >= 0)
            continue;
        l->fds[slot][line] = duplicate(before->fds[slot][from]);
        if (l->fds[slot][line] < 0)
            return ERR_IO;
    }
    return OK;
}

enum err listening_keep(struct listening *l, const struct listening *before)
{
    bool used[NODE_LISTENERS_MAX] = { false };
    for (unsigned line = 0; line < l->count; line++) {
        unsigned from = 0;
        while (from < before->count && (used[from] || !same_line(&l->lines[line], &before->lines[from])))
            from++;
        if (from == before->count)
            continue;
        used[from] = true;
        if (keep_line(l, line, before, from))
            return ERR_IO;
    }
    return OK;
}

/* at: its place among those that the worker brings, in the order of the configuration. */
static bool is_socket_of(const struct listening_line *line, int fd, bool at)
{
    struct address have;
    switch (line->kind) {
    case LISTENER_TCP:
        return socket_address(fd, &have) == OK && address_agrees(&line->address, &have);
    case LISTENER_UNIX:
        return socket_is_listening(fd) && socket_is_at(fd, line->text + strlen(UNIX));
    case LISTENER_SYSTEMD:
        return at &&
               socket_is_listening(fd); /* systemd's unit says where it is; systemd gives the same one to each master */
    }
    return false;
}

/* The first line that this slot has no socket for, and that this one is a socket of; l->count: none. */
static unsigned line_of(const struct listening *l, unsigned slot, int fd, unsigned at)
{
    unsigned line = 0;
    while (line < l->count && (l->fds[slot][line] >= 0 || !is_socket_of(&l->lines[line], fd, at == line)))
        line++;
    return line;
}

bool listening_adopt(struct listening *l, unsigned slot, struct control_fds *fds)
{
    bool all = slot < l->slots;
    for (unsigned i = 0; i < fds->count; i++) {
        const unsigned line = slot < l->slots ? line_of(l, slot, fds->fds[i], i) : l->count;
        all = all && line < l->count;
        if (line == l->count) {
            (void)close(fds->fds[i]);
            continue;
        }
        struct address address;
        l->fds[slot][line] = fds->fds[i];
        if (l->lines[line].kind == LISTENER_TCP && socket_address(fds->fds[i], &address) == OK)
            l->lines[line].address = address; /* all slots share the port that the system chose then */
    }
    fds->count = 0;
    for (unsigned line = 0; all && line < l->count; line++)
        all = l->fds[slot][line] >= 0;
    return all;
}

/* One queue that all slots share: the kernel has no SO_REUSEPORT for it. */
static enum err open_shared(struct listening *l, unsigned line, const struct passed *passed, bool exclusive,
                            const char **ret_hint, int *ret_fd)
{
    const struct listening_line *it = &l->lines[line];
    int fd = -1;
    for (unsigned slot = 0; slot < l->slots && fd < 0; slot++)
        fd = l->fds[slot][line];
    if (fd < 0 && it->kind == LISTENER_UNIX)
        return socket_listen_unix(it->text + strlen(UNIX), it->mode, exclusive, ret_fd);
    if (fd < 0) {
        const enum err err = passed_find(passed, it->text + strlen(SYSTEMD), &fd, ret_hint);
        if (err)
            return err;
    }
    *ret_fd = duplicate(fd);
    return *ret_fd < 0 ? ERR_IO : OK;
}

static enum err open_one(struct listening *l, unsigned line, const struct passed *passed, bool exclusive,
                         const char **ret_hint, int *ret_fd)
{
    if (l->lines[line].kind == LISTENER_TCP)
        return socket_listen(&l->lines[line].address, exclusive, ret_fd);
    return open_shared(l, line, passed, exclusive, ret_hint, ret_fd);
}

static const char *hint_of(enum listener_kind kind, enum err err)
{
    const bool local = kind == LISTENER_UNIX;
    switch (err) {
    case ERR_EXISTS:
        return local ? "another program listens there, or the file is no socket: remove it, or choose another path"
                     : "another program listens there: stop it, or choose another address with --listen";
    case ERR_DENIED:
        return local ? "this user may not make a socket there"
                     : "this user may not listen there: choose a port from 1024 on, or let systemd pass the socket";
    case ERR_NOT_FOUND:
        return local ? "there is no such directory" : "this machine has no such address";
    default:
        return "";
    }
}

static enum err open_line(struct listening *l, unsigned line, const struct passed *passed, bool fresh,
                          const char **ret_hint)
{
    bool alone = fresh;
    for (unsigned slot = 0; slot < l->slots; slot++)
        alone = alone && l->fds[slot][line] < 0;
    for (unsigned slot = 0; slot < l->slots; slot++) {
        int fd;
        if (l->fds[slot][line] >= 0)
            continue;
        const enum err err = open_one(l, line, passed, alone, ret_hint, &fd);
        if (err)
            return err;
        l->fds[slot][line] = fd;
        alone = false;
    }
    return OK;
}

enum err listening_open(struct listening *l, const struct passed *passed, bool fresh, struct listening_fault *ret_fault)
{
    for (unsigned line = 0; line < l->count; line++) {
        const char *hint = NULL;
        const enum err err = open_line(l, line, passed, fresh, &hint);
        if (err) {
            *ret_fault =
                (struct listening_fault){ .line = line, .hint = hint ? hint : hint_of(l->lines[line].kind, err) };
            return err;
        }
    }
    return OK;
}

void listening_of(const struct listening *l, unsigned slot, struct control_fds *ret)
{
    *ret = (struct control_fds){ .count = slot < l->slots ? l->count : 0 };
    for (unsigned i = 0; i < ret->count; i++)
        ret->fds[i] = l->fds[slot][i];
}

char *listening_text(const struct listening_line *line, char *out)
{
    if (line->kind == LISTENER_TCP)
        return address_format(&line->address, out);
    (void)snprintf(out, LISTENING_TEXT_BYTES, "%s", line->text);
    return out;
}

void listening_close(struct listening *l)
{
    for (unsigned slot = 0; slot < l->slots; slot++) {
        for (unsigned i = 0; i < l->count; i++) {
            if (l->fds[slot][i] >= 0)
                (void)close(l->fds[slot][i]);
            l->fds[slot][i] = -1;
        }
    }
}

static enum err describe_line(const struct listening *l, unsigned line, bool named, struct buf *out)
{
    const struct listening_line *it = &l->lines[line];
    struct address address;
    struct sockaddr_un local = { .sun_family = AF_UNSPEC };
    socklen_t len = sizeof(local);
    char text[LISTENING_TEXT_BYTES];
    enum err err;
    if (it->kind != LISTENER_SYSTEMD)
        err = buf_append_cstr(out, listening_text(it, text));
    else if (socket_address(l->fds[0][line], &address) == OK)
        err = buf_append_cstr(out, address_format(&address, text));
    else if (getsockname(l->fds[0][line], (struct sockaddr *)&local, &len) == 0 && local.sun_family == AF_UNIX)
        err = buf_printf(out, UNIX "%.*s", (int)sizeof(local.sun_path), local.sun_path);
    else
        err = buf_append_cstr(out, "nowhere");
    if (!err && it->tls)
        err = buf_append_cstr(out, " tls");
    if (!err && named && it->kind == LISTENER_SYSTEMD)
        err = buf_printf(out, " %s", it->text);
    return err ? err : buf_append_cstr(out, "\n");
}

enum err listening_describe(const struct listening *l, struct buf *out)
{
    struct address address;
    unsigned first = l->count;
    for (unsigned line = 0; line < l->count; line++) {
        if ((first == l->count || (l->lines[first].tls && !l->lines[line].tls)) &&
            socket_address(l->fds[0][line], &address) == OK)
            first = line;
    }
    if (first == l->count)
        first = 0;
    enum err err = l->count > 0 ? describe_line(l, first, false, out) : OK;
    for (unsigned line = 0; line < l->count && !err; line++) {
        if (line != first)
            err = describe_line(l, line, true, out);
    }
    return err;
}

void listening_unlink(const struct listening *l, const struct listening *now)
{
    for (unsigned line = 0; line < l->count; line++) {
        bool stays = false;
        for (unsigned i = 0; now && i < now->count; i++)
            stays = stays || same_line(&now->lines[i], &l->lines[line]);
        if (l->lines[line].kind == LISTENER_UNIX && !stays)
            socket_unlink(l->lines[line].text + strlen(UNIX), now == NULL);
    }
}
