#include "dataplane/node/process.h"
#include "common/buf.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SELF          "/proc/self/exe" /* the image that runs, even when another file stands at its path by now */
#define CMDLINE_BYTES 65536u

struct process_watch {
    uv_poll_t poll;
    int pidfd;
    int said_fd; /* what it fails of as it starts; -1 */
    struct process *process;
};

static void hear_no_more(struct process_watch *watch)
{
    if (watch->said_fd >= 0)
        (void)close(watch->said_fd);
    watch->said_fd = -1;
}

static void on_closed(uv_handle_t *handle)
{
    struct process_watch *watch = CONTAINER_OF((uv_poll_t *)handle, struct process_watch, poll);
    (void)close(watch->pidfd);
    hear_no_more(watch);
    free(watch->process);
    free(watch);
}

void process_forget(struct process *p)
{
    uv_close((uv_handle_t *)&p->watch->poll, on_closed);
}

static void on_process_exit(uv_poll_t *poll, UNUSED int poll_status, UNUSED int events)
{
    struct process *p = CONTAINER_OF(poll, struct process_watch, poll)->process;
    struct process_end end = { .known = false };
    int status;
    if (waitpid((pid_t)p->pid, &status, WNOHANG) == (pid_t)p->pid) {
        end.known = true;
        end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        end.status = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    }
    uv_poll_stop(poll);
    p->ended(p, &end);
    process_forget(p);
}

enum err process_watch(struct process *p, uv_loop_t *loop)
{
    struct process_watch *watch = fault_calloc(1, sizeof(*watch));
    if (!watch)
        return ERR_NOMEM;
    watch->process = p;
    watch->said_fd = -1;
    watch->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)p->pid, 0);
    if (watch->pidfd < 0 || uv_poll_init(loop, &watch->poll, watch->pidfd)) {
        log_warn("worker.watch", LOG_U64("pid", p->pid), LOG_STR("why", strerror(errno)));
        if (watch->pidfd >= 0)
            (void)close(watch->pidfd);
        free(watch);
        return ERR_IO;
    }
    REQUIRE(uv_poll_start(&watch->poll, UV_READABLE, on_process_exit) == 0);
    p->watch = watch;
    return OK;
}

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

/* libuv's own handle of it is closed at once: its end shows by the pidfd, as that of any other. */
static int spawn(const struct process_start *start, int said_fd, pid_t *ret_pid)
{
    uv_stdio_container_t stdio[CONTROL_LISTENER_FD + NODE_LISTENERS_MAX] = {
        { .flags = said_fd < 0 ? UV_IGNORE : UV_INHERIT_FD, .data.fd = said_fd },
        { .flags = UV_INHERIT_FD, .data.fd = 1 },
        { .flags = UV_INHERIT_FD, .data.fd = 2 },
    };
    for (unsigned i = 0; i < start->listeners->count; i++) {
        stdio[CONTROL_LISTENER_FD + i].flags = UV_INHERIT_FD;
        stdio[CONTROL_LISTENER_FD + i].data.fd = start->listeners->fds[i];
    }
    const uv_process_options_t options = { .file = SELF,
                                           .args = (char **)(uintptr_t)start->args,
                                           .stdio = stdio,
                                           .stdio_count = CONTROL_LISTENER_FD + (int)start->listeners->count };
    uv_process_t *handle = fault_calloc(1, sizeof(*handle));
    if (!handle)
        return UV_ENOMEM;
    const int rc = uv_spawn(start->loop, handle, &options);
    if (rc == 0)
        *ret_pid = handle->pid;
    uv_close((uv_handle_t *)handle, on_handle_closed);
    return rc;
}

enum err process_start(struct process *p, const struct process_start *start)
{
    pid_t pid = 0;
    const int said_fd = memfd_create("said", MFD_CLOEXEC); /* without it we know less */
    const int rc = spawn(start, said_fd, &pid);
    if (rc) {
        if (said_fd >= 0)
            (void)close(said_fd);
        log_error("worker.spawn", LOG_U64("slot", p->slot), LOG_STR("why", uv_strerror(rc)));
        return rc == UV_ENOMEM ? ERR_NOMEM : ERR_IO;
    }
    p->pid = (uint64_t)pid;
    const enum err err = process_watch(p, start->loop);
    if (err) {
        (void)kill(pid, SIGKILL); /* who cannot be watched cannot be kept */
        (void)waitpid(pid, NULL, 0);
        p->pid = 0;
        if (said_fd >= 0)
            (void)close(said_fd);
        return err;
    }
    p->watch->said_fd = said_fd;
    p->state = PROCESS_STARTING;
    p->started_ms = uv_now(start->loop);
    return OK;
}

void process_move(struct process *p, enum process_state to)
{
    static const unsigned allowed[PROCESS_STATES] = {
        [PROCESS_STARTING] = 1u << PROCESS_UP | 1u << PROCESS_DRAINING,
        [PROCESS_UP] = 1u << PROCESS_DRAINING,
    };
    REQUIRE(allowed[p->state] & 1u << to);
    p->state = to;
    if (to == PROCESS_UP)
        hear_no_more(p->watch);
}

void process_said(const struct process *p, char *out, size_t out_bytes)
{
    const ssize_t n = p->watch->said_fd < 0 ? -1 : pread(p->watch->said_fd, out, out_bytes - 1, 0);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

void process_signal(const struct process *p, int number)
{
    (void)syscall(SYS_pidfd_send_signal, p->watch->pidfd, number, NULL, 0);
}

bool process_is_worker(uint64_t pid)
{
    char path[64];
    struct buf cmdline = BUF_INIT(CMDLINE_BYTES);
    bool worker = false;
    (void)snprintf(path, sizeof(path), "/proc/%llu/cmdline", (unsigned long long)pid);
    if (pid != 0 && file_read(path, CMDLINE_BYTES - 1, &cmdline) == OK) {
        struct span rest = buf_span(&cmdline), word;
        while (span_split(&rest, '\0', &word))
            worker = worker || span_eq(word, SPAN("--worker"));
    }
    buf_release(&cmdline);
    return worker;
}
