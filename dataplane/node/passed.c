#include "dataplane/node/passed.h"
#include "common/fault.h"
#include "common/span.h"
#include "dataplane/node/sockets.h"
#include <fcntl.h>
#include <unistd.h>

#define PASSED_FD_FIRST 3 /* sd_listen_fds(3) */

static unsigned number_in_environment(const char *name)
{
    uint64_t number;
    const char *text = getenv(name);
    return text && span_to_u64(span_cstr(text), &number) == OK && number <= INT32_MAX ? (unsigned)number : 0;
}

enum err passed_take(struct passed *p)
{
    const bool ours = number_in_environment("LISTEN_PID") == (unsigned)getpid();
    const unsigned count = ours ? number_in_environment("LISTEN_FDS") : 0;
    const char *const names_text = getenv("LISTEN_FDNAMES");
    struct span names = span_cstr(names_text), name;
    enum err err = OK;
    *p = (struct passed){ .count = 0 };
    for (unsigned i = 0; i < count && i < PASSED_MAX && !err; i++) {
        const int fd = PASSED_FD_FIRST + (int)i;
        if (!names_text || !span_split(&names, ':', &name))
            name = SPAN("unknown"); /* as sd_listen_fds_with_names(3) calls them */
        p->fds[i] = fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? fd : -1;
        p->names[i] = fault_malloc(name.len + 1);
        p->count++;
        if (p->names[i]) {
            memcpy(p->names[i], name.ptr, name.len);
            p->names[i][name.len] = '\0';
        }
        err = p->names[i] ? OK : ERR_NOMEM;
    }
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    if (err)
        passed_release(p);
    return err;
}

enum err passed_find(const struct passed *p, const char *name, int *ret_fd, const char **ret_hint)
{
    int found = -1;
    unsigned matches = 0;
    *ret_hint = "";
    for (unsigned i = 0; i < p->count; i++) {
        if (p->fds[i] >= 0 && (!*name || strcmp(p->names[i], name) == 0)) {
            found = p->fds[i];
            matches++;
        }
    }
    if (matches == 0) {
        *ret_hint = "systemd passed no such socket: look at FileDescriptorName= of the socket unit and at Sockets= of "
                    "the service";
        return ERR_NOT_FOUND;
    }
    if (matches > 1) {
        *ret_hint = "systemd passed several such sockets: give each its own FileDescriptorName=";
        return ERR_INVALID;
    }
    const int flags = fcntl(found, F_GETFL);
    if (!socket_is_listening(found) || flags < 0 || fcntl(found, F_SETFL, flags | O_NONBLOCK) != 0) {
        *ret_hint = "what systemd passed is no listening stream: it takes ListenStream= and Accept=no";
        return ERR_INVALID;
    }
    *ret_fd = found;
    return OK;
}

void passed_release(struct passed *p)
{
    for (unsigned i = 0; i < p->count; i++) {
        if (p->fds[i] >= 0)
            (void)close(p->fds[i]);
        free(p->names[i]);
    }
    *p = (struct passed){ .count = 0 };
}
