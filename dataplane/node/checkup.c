#include "dataplane/node/checkup.h"
#include "common/fault.h"
#include <signal.h>
#include <sys/wait.h>

struct checkup_run {
    struct checkup *checkup; /* NULL: closed, nobody waits */
    checkup_done *done;
    void *user;
    uv_process_t process;
    uv_pipe_t output, errors;
    uv_timer_t timer;
    unsigned open;    /* handles */
    unsigned pending; /* of exit and the two ends of output */
    char said[CHECKUP_SAID_BYTES];
    size_t len;
    char failure[64];
};

static void on_closed(uv_handle_t *handle)
{
    struct checkup_run *run = handle->data;
    if (--run->open == 0)
        free(run);
}

static void close_one(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void close_all(struct checkup_run *run)
{
    close_one((uv_handle_t *)&run->output);
    close_one((uv_handle_t *)&run->errors);
    close_one((uv_handle_t *)&run->timer);
    close_one((uv_handle_t *)&run->process);
}

static void settle(struct checkup_run *run)
{
    struct checkup *checkup = run->checkup;
    if (--run->pending > 0 || !checkup)
        return;
    checkup->run = NULL;
    run->checkup = NULL;
    run->said[run->len] = '\0';
    char *end = strchr(run->said, '\n');
    if (end)
        *end = '\0';
    run->done(run->user, run->said, run->failure[0] ? run->failure : NULL);
    close_all(run);
}

static void on_process_exit(uv_process_t *process, int64_t status, int number)
{
    struct checkup_run *run = process->data;
    if (!run->failure[0] && number)
        (void)snprintf(run->failure, sizeof(run->failure), "ended by signal %d", number);
    else if (!run->failure[0] && status)
        (void)snprintf(run->failure, sizeof(run->failure), "ended with status %d", (int)status);
    settle(run);
}

static void on_timeout(uv_timer_t *timer)
{
    struct checkup_run *run = timer->data;
    (void)snprintf(run->failure, sizeof(run->failure), "took longer than %us", CHECKUP_TIMEOUT_MS / 1000);
    (void)uv_process_kill(&run->process, SIGKILL);
}

/* What does not fit is read and dropped, or the program would wait for us. */
static void on_alloc(uv_handle_t *handle, UNUSED size_t suggested, uv_buf_t *ret)
{
    static char rest[4096];
    struct checkup_run *run = handle->data;
    const size_t room = sizeof(run->said) - 1 - run->len;
    *ret = room ? uv_buf_init(run->said + run->len, (unsigned)room) : uv_buf_init(rest, sizeof(rest));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct checkup_run *run = stream->data;
    if (n > 0 && buf->base == run->said + run->len)
        run->len += (size_t)n;
    if (n < 0) {
        (void)uv_read_stop(stream);
        settle(run);
    }
}

void checkup_init(struct checkup *checkup, uv_loop_t *loop)
{
    *checkup = (struct checkup){ .loop = loop };
}

static int spawn(struct checkup_run *run, const char *const *args)
{
    uv_stdio_container_t stdio[] = {
        { .flags = UV_IGNORE },
        { .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&run->output },
        { .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&run->errors },
    };
    const uv_process_options_t options = { .file = args[0],
                                           .args = (char **)(uintptr_t)args,
                                           .stdio = stdio,
                                           .stdio_count = ARRAY_LEN(stdio),
                                           .exit_cb = on_process_exit };
    return uv_spawn(run->checkup->loop, &run->process, &options);
}

enum err checkup_start(struct checkup *checkup, const char *const *args, checkup_done *done, void *user)
{
    REQUIRE(!checkup->run);
    struct checkup_run *run = fault_calloc(1, sizeof(*run));
    if (!run)
        return ERR_NOMEM;
    *run = (struct checkup_run){ .checkup = checkup, .done = done, .user = user, .open = 4, .pending = 3 };
    REQUIRE(uv_pipe_init(checkup->loop, &run->output, 0) == 0 && uv_pipe_init(checkup->loop, &run->errors, 0) == 0 &&
            uv_timer_init(checkup->loop, &run->timer) == 0);
    run->output.data = run->errors.data = run->timer.data = run->process.data = run;
    const int rc = spawn(run, args);
    run->process.data = run;
    if (rc || uv_read_start((uv_stream_t *)&run->output, on_alloc, on_read) ||
        uv_read_start((uv_stream_t *)&run->errors, on_alloc, on_read)) {
        if (rc == 0)
            (void)uv_process_kill(&run->process, SIGKILL);
        run->checkup = NULL;
        close_all(run); /* a failed uv_spawn leaves an initialised handle, too */
        return ERR_IO;
    }
    checkup->run = run;
    uv_timer_start(&run->timer, on_timeout, CHECKUP_TIMEOUT_MS, 0);
    return OK;
}

void checkup_close(struct checkup *checkup)
{
    struct checkup_run *run = checkup->run;
    if (!run)
        return;
    checkup->run = NULL;
    run->checkup = NULL;
    /* Waited for here: who closes this may be about to become another program, which knows nothing of it. */
    if (uv_process_kill(&run->process, SIGKILL) == 0)
        (void)waitpid(run->process.pid, NULL, 0);
    close_all(run);
}
