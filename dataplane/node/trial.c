#include "dataplane/node/trial.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/node/selftest.h"
#include <signal.h>
#include <sys/wait.h>

#define WHY_BYTES 256u

struct trial_run {
    struct trial *trial; /* NULL: closed, nobody waits */
    uv_process_t process;
    uv_pipe_t input, output;
    uv_timer_t timer;
    uv_write_t write;
    struct buf frames;
    trial_done *done;
    void *user;
    char why[WHY_BYTES];
    size_t why_len;
    bool timed_out, exited, output_ended;
    int64_t status;
    int signal;
    unsigned open; /* handles */
};

static void on_closed(uv_handle_t *handle)
{
    struct trial_run *run = handle->data;
    if (--run->open > 0)
        return;
    buf_release(&run->frames);
    free(run);
}

static void close_one(uv_handle_t *handle)
{
    if (handle->data && !uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void close_all(struct trial_run *run)
{
    close_one((uv_handle_t *)&run->process);
    close_one((uv_handle_t *)&run->input);
    close_one((uv_handle_t *)&run->output);
    close_one((uv_handle_t *)&run->timer);
}

/* Both must have come: the process's end, and the end of what it said. */
static void settle(struct trial_run *run)
{
    if (!run->exited || !run->output_ended)
        return;
    struct trial *trial = run->trial;
    const bool ok = run->status == 0 && run->signal == 0;
    run->why[run->why_len] = '\0';
    if (run->timed_out)
        (void)snprintf(run->why, sizeof(run->why), "the self-test took longer than %u ms", SELFTEST_TIMEOUT_MS);
    else if (run->signal)
        (void)snprintf(run->why, sizeof(run->why), "the self-test ended by signal %d", run->signal);
    else if (!ok && run->why_len == 0)
        (void)snprintf(run->why, sizeof(run->why), "the self-test ended with %lld", (long long)run->status);
    if (trial) {
        trial->run = NULL;
        run->trial = NULL;
        run->done(run->user, ok, run->why);
    }
    close_all(run);
}

static void on_trial_exit(uv_process_t *process, int64_t status, int signal)
{
    struct trial_run *run = process->data;
    run->exited = true;
    run->status = status;
    run->signal = signal;
    settle(run);
}

static void on_timeout(uv_timer_t *timer)
{
    struct trial_run *run = timer->data;
    run->timed_out = true;
    (void)uv_process_kill(&run->process, SIGKILL);
}

static void on_alloc(uv_handle_t *handle, UNUSED size_t suggested, uv_buf_t *buf)
{
    struct trial_run *run = handle->data;
    static char beyond[WHY_BYTES]; /* what is too much is read and dropped */
    const size_t room = sizeof(run->why) - 1 - run->why_len;
    *buf = room ? uv_buf_init(run->why + run->why_len, (unsigned)room) : uv_buf_init(beyond, sizeof(beyond));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct trial_run *run = stream->data;
    if (n < 0) {
        run->output_ended = true;
        while (run->why_len > 0 && run->why[run->why_len - 1] == '\n')
            run->why_len--;
        (void)uv_read_stop(stream);
        settle(run);
    } else if (buf->base == run->why + run->why_len) {
        run->why_len += (size_t)n;
    }
}

static void on_written(uv_write_t *write, UNUSED int status)
{
    struct trial_run *run = write->data;
    close_one((uv_handle_t *)&run->input); /* end of file; a child that is gone already shows by its exit */
}

static bool adopt_handle(struct trial_run *run, int rc, uv_handle_t *handle)
{
    handle->data = rc == 0 ? run : NULL;
    run->open += rc == 0;
    return rc == 0;
}

static int spawn(struct trial_run *run, const char *program)
{
    char *args[] = { (char *)(uintptr_t)program, (char *)(uintptr_t) "--selftest", NULL };
    uv_stdio_container_t stdio[] = {
        { .flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&run->input },
        { .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&run->output },
        { .flags = UV_INHERIT_FD, .data.fd = 2 },
    };
    const uv_process_options_t options = {
        .file = program, .args = args, .stdio = stdio, .stdio_count = ARRAY_LEN(stdio), .exit_cb = on_trial_exit
    };
    return uv_spawn(run->trial->loop, &run->process, &options);
}

static void feed(struct trial_run *run)
{
    const struct span bytes = buf_span(&run->frames);
    const uv_buf_t out = uv_buf_init((char *)(uintptr_t)bytes.ptr, (unsigned)bytes.len);
    run->write.data = run;
    if (uv_write(&run->write, (uv_stream_t *)&run->input, &out, 1, on_written))
        close_one((uv_handle_t *)&run->input);
    if (uv_read_start((uv_stream_t *)&run->output, on_alloc, on_read))
        run->output_ended = true;
    uv_timer_start(&run->timer, on_timeout, SELFTEST_TIMEOUT_MS, 0);
}

void trial_init(struct trial *trial, uv_loop_t *loop, const char *program)
{
    *trial = (struct trial){ .loop = loop, .program = program };
}

enum err trial_start(struct trial *trial, struct buf *frames, trial_done *done, void *user)
{
    if (trial->run)
        return ERR_AGAIN;
    struct trial_run *run = fault_calloc(1, sizeof(*run));
    if (!run)
        return ERR_NOMEM;
    *run = (struct trial_run){ .trial = trial, .done = done, .user = user, .frames = *frames };
    buf_init(frames, frames->max);
    bool made = adopt_handle(run, uv_pipe_init(trial->loop, &run->input, 0), (uv_handle_t *)&run->input);
    made = adopt_handle(run, uv_pipe_init(trial->loop, &run->output, 0), (uv_handle_t *)&run->output) && made;
    made = adopt_handle(run, uv_timer_init(trial->loop, &run->timer), (uv_handle_t *)&run->timer) && made;
    const int rc = made ? spawn(run, trial->program) : UV_ENOMEM;
    /* A failed uv_spawn leaves an initialised handle, too. */
    if (made)
        (void)adopt_handle(run, 0, (uv_handle_t *)&run->process);
    if (rc) {
        log_error("selftest.spawn", LOG_STR("program", trial->program), LOG_STR("why", uv_strerror(rc)));
        run->trial = NULL;
        close_all(run); /* at least one handle is open: initialising a pipe cannot fail */
        return ERR_IO;
    }
    trial->run = run;
    feed(run);
    return OK;
}

bool trial_running(const struct trial *trial)
{
    return trial->run != NULL;
}

void trial_close(struct trial *trial)
{
    struct trial_run *run = trial->run;
    if (!run)
        return;
    trial->run = NULL;
    run->trial = NULL;
    /* Waited for here: who closes this may be about to become another program, which knows nothing of it. */
    if (uv_process_kill(&run->process, SIGKILL) == 0)
        (void)waitpid(run->process.pid, NULL, 0);
    close_all(run);
}
