#include "controlplane/jobs/simulations.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/digest.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "proto/home.h"
#include "proto/simulation.h"
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESULT_BYTES_MAX (20u << 20) /* of a line of the child: the report's own bound, with room */
#define WHY_BYTES        256u
#define PRIORITY         10 /* nice: what serves comes first */
#define PROGRAM          "fairlead-dataplane"

struct simulation {
    struct simulations *owner; /* NULL: forgotten; freed when its handles are closed */
    char id[SIMULATIONS_ID_BYTES];
    char *dir;
    uv_process_t process;
    uv_pipe_t output;
    uv_timer_t timer;
    unsigned open; /* handles */
    struct buf line;
    char chunk[65536];
    enum simulation_state state;
    struct simulation_status seen; /* progress */
    struct buf result;
    char why[WHY_BYTES];
    bool exited, output_ended, timed_out, cancelled;
    int64_t status;
    int signal;
    uint64_t order; /* of starts */
};
struct simulations {
    uv_loop_t *loop;
    const char *home;
    char *dir, *program;
    struct simulation *items[SIMULATIONS_KEPT_MAX];
    uint64_t started;
};

const char *simulation_state_name(enum simulation_state state)
{
    static const char *const names[] = { "running", "done", "failed", "cancelled" };
    REQUIRE((size_t)state < ARRAY_LEN(names));
    return names[state];
}

/* ---- directories ---- */

/* The files directly in it, and itself. */
static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    for (const struct dirent *entry; d && (entry = readdir(d));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *path = file_join(dir, entry->d_name);
        if (path)
            (void)unlink(path);
        free(path);
    }
    if (d)
        closedir(d);
    (void)rmdir(dir);
}

static void remove_leftovers(const char *dir)
{
    DIR *d = opendir(dir);
    for (const struct dirent *entry; d && (entry = readdir(d));) {
        if (entry->d_name[0] == '.')
            continue;
        char *path = file_join(dir, entry->d_name);
        if (path)
            remove_dir(path);
        free(path);
    }
    if (d)
        closedir(d);
}

static char *find_program(const char *given)
{
    char path[PATH_MAX + sizeof(PROGRAM) + 1];
    if (given)
        return strdup(given);
    const ssize_t len = readlink("/proc/self/exe", path, PATH_MAX);
    if (len > 0) {
        path[len] = '\0';
        char *slash = strrchr(path, '/');
        if (slash) {
            memcpy(slash + 1, PROGRAM, sizeof(PROGRAM));
            if (access(path, X_OK) == 0)
                return strdup(path);
        }
    }
    return strdup(PROGRAM);
}

enum err simulations_new(const struct simulations_options *options, struct simulations **ret)
{
    struct simulations *s = fault_calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    s->loop = options->loop;
    s->home = options->home;
    s->dir = file_join(options->home, HOME_SIMULATIONS);
    s->program = find_program(options->program);
    const enum err err = s->dir && s->program ? file_make_dirs(s->dir, 0700) : ERR_NOMEM;
    if (err) {
        simulations_close(s);
        return err;
    }
    remove_leftovers(s->dir);
    *ret = s;
    return OK;
}

/* ---- the end of one ---- */

static void free_simulation(struct simulation *job)
{
    buf_release(&job->line);
    buf_release(&job->result);
    free(job->dir);
    free(job);
}

static void on_closed(uv_handle_t *handle)
{
    struct simulation *job = handle->data;
    if (--job->open == 0 && !job->owner)
        free_simulation(job);
}

static void close_one(uv_handle_t *handle)
{
    if (handle->data && !uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void close_handles(struct simulation *job)
{
    close_one((uv_handle_t *)&job->process);
    close_one((uv_handle_t *)&job->output);
    close_one((uv_handle_t *)&job->timer);
}

static void forget(struct simulation *job)
{
    job->owner = NULL;
    if (job->open == 0)
        free_simulation(job);
    else
        close_handles(job);
}

/* Both must have come: the process's end, and the end of what it said. */
static void settle(struct simulation *job)
{
    if (!job->exited || !job->output_ended || job->state != SIMULATION_RUNNING)
        return;
    const bool good = job->status == 0 && job->signal == 0 && job->result.len > 0;
    job->state = good ? SIMULATION_DONE : job->cancelled ? SIMULATION_CANCELLED : SIMULATION_FAILED;
    if (job->timed_out)
        (void)snprintf(job->why, sizeof(job->why), "it took too long; ask for less with --since or --limit");
    else if (!good && !job->why[0] && job->signal)
        (void)snprintf(job->why, sizeof(job->why), "its process ended by signal %d", job->signal);
    else if (!good && !job->why[0])
        (void)snprintf(job->why, sizeof(job->why), "its process ended with %lld", (long long)job->status);
    if (job->state == SIMULATION_FAILED)
        log_warn("simulation.failed", LOG_STR("id", job->id), LOG_STR("why", job->why));
    buf_release(&job->line);
    remove_dir(job->dir);
    close_handles(job);
}

static void on_job_exit(uv_process_t *process, int64_t status, int signal)
{
    struct simulation *job = process->data;
    job->exited = true;
    job->status = status;
    job->signal = signal;
    settle(job);
}

static void on_timeout(uv_timer_t *timer)
{
    struct simulation *job = timer->data;
    job->timed_out = true;
    (void)uv_process_kill(&job->process, SIGKILL);
}

/* ---- what it says ---- */

static void take_progress(struct simulation *job, const struct json_index *ix, uint32_t progress)
{
    static const char *const names[] = { "records", "bytes", "bytes_total" };
    uint64_t *const values[] = { &job->seen.records, &job->seen.bytes, &job->seen.bytes_total };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const uint32_t token = json_get(ix, progress, span_cstr(names[i]));
        if (token != JSON_NONE && json_u64(ix, token, values[i]) != OK)
            *values[i] = 0;
    }
}

static void take_line(struct simulation *job, struct span line)
{
    struct arena arena;
    struct json_index ix;
    struct span text;
    const struct json_limits limits = {
        .bytes_max = RESULT_BYTES_MAX, .depth_max = 64, .tokens_max = 1u << 20, .depth_kept = 2
    };
    arena_init(&arena, 64u << 20);
    if (json_index(&arena, line, &limits, &ix, NULL) == OK) {
        const uint32_t progress = json_get(&ix, 0, SPAN("progress")), error = json_get(&ix, 0, SPAN("error"));
        if (progress != JSON_NONE)
            take_progress(job, &ix, progress);
        else if (error != JSON_NONE && json_string(&arena, &ix, error, &text) == OK)
            (void)snprintf(job->why, sizeof(job->why), SPAN_FMT, SPAN_ARG(span_head(text, WHY_BYTES - 1)));
        else if (json_get(&ix, 0, SPAN("result")) != JSON_NONE && buf_append(&job->result, line) != OK)
            (void)snprintf(job->why, sizeof(job->why), "out of memory");
    }
    arena_release(&arena);
}

static void on_alloc(uv_handle_t *handle, UNUSED size_t suggested, uv_buf_t *buf)
{
    struct simulation *job = handle->data;
    *buf = uv_buf_init(job->chunk, sizeof(job->chunk));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct simulation *job = stream->data;
    if (n < 0) {
        job->output_ended = true;
        (void)uv_read_stop(stream);
        settle(job);
        return;
    }
    struct span rest = span_of(buf->base, (size_t)n);
    for (size_t end; (end = span_find_byte(rest, '\n')) != SIZE_MAX; rest = span_skip(rest, end + 1)) {
        if (buf_append(&job->line, span_head(rest, end)) == OK)
            take_line(job, buf_span(&job->line));
        buf_clear(&job->line);
    }
    if (buf_append(&job->line, rest) != OK) /* longer than any line of ours: its rest fails to parse */
        buf_clear(&job->line);
}

/* ---- the beginning of one ---- */

static enum err write_file(const struct simulation *job, const char *name, struct span bytes)
{
    char *path = file_join(job->dir, name);
    FILE *file = path ? fopen(path, "wbe") : NULL;
    free(path);
    if (!file)
        return path ? ERR_IO : ERR_NOMEM;
    bool written = fwrite(bytes.ptr ? bytes.ptr : "", 1, bytes.len, file) == bytes.len;
    written = fclose(file) == 0 && written;
    return written ? OK : ERR_NOSPACE;
}

static enum err write_files(const struct simulation *job, const struct simulation_order *order)
{
    const struct {
        const char *name;
        struct span bytes;
    } files[] = { { SIMULATION_LIVE, order->live },
                  { SIMULATION_CANDIDATE, order->candidate },
                  { SIMULATION_HEAD, order->head },
                  { SIMULATION_EVIDENCE, order->evidence },
                  { SIMULATION_DIRECTORY, order->directory } };
    if (mkdir(job->dir, 0700) != 0)
        return ERR_IO;
    enum err err = OK;
    for (size_t i = 0; i < ARRAY_LEN(files) && !err; i++)
        if (!span_empty(files[i].bytes))
            err = write_file(job, files[i].name, files[i].bytes);
    return err;
}

static bool adopt_handle(struct simulation *job, int rc, uv_handle_t *handle)
{
    handle->data = rc == 0 ? job : NULL;
    job->open += rc == 0;
    return rc == 0;
}

static enum err spawn(struct simulation *job, const struct simulation_order *order)
{
    char since[32], limit[32];
    const struct simulations *s = job->owner;
    (void)snprintf(since, sizeof(since), "%lld", (long long)order->since_ms);
    (void)snprintf(limit, sizeof(limit), "%llu", (unsigned long long)order->limit);
    const char *const args[] = { s->program, "--simulate", job->dir,  "--records", order->records,
                                 "--since",  since,        "--limit", limit,       NULL };
    uv_stdio_container_t stdio[] = {
        { .flags = UV_IGNORE },
        { .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&job->output },
        { .flags = UV_INHERIT_FD, .data.fd = 2 },
    };
    const uv_process_options_t options = { .file = s->program,
                                           .args = (char **)(uintptr_t)args,
                                           .stdio = stdio,
                                           .stdio_count = ARRAY_LEN(stdio),
                                           .exit_cb = on_job_exit };
    bool made = adopt_handle(job, uv_pipe_init(s->loop, &job->output, 0), (uv_handle_t *)&job->output);
    made = adopt_handle(job, uv_timer_init(s->loop, &job->timer), (uv_handle_t *)&job->timer) && made;
    const int rc = made ? uv_spawn(s->loop, &job->process, &options) : UV_ENOMEM;
    if (made) /* a failed uv_spawn leaves an initialised handle, too */
        (void)adopt_handle(job, 0, (uv_handle_t *)&job->process);
    if (rc) {
        log_error("simulation.spawn", LOG_STR("program", s->program), LOG_STR("why", uv_strerror(rc)));
        return ERR_IO;
    }
    (void)uv_os_setpriority(job->process.pid, PRIORITY);
    if (uv_read_start((uv_stream_t *)&job->output, on_alloc, on_read))
        job->output_ended = true;
    return uv_timer_start(&job->timer, on_timeout, order->timeout_ms, 0) ? ERR_IO : OK;
}

/* A place for one more: free, or the oldest that is done. NULL: too many run. */
static struct simulation **find_place(struct simulations *s)
{
    struct simulation **place = NULL;
    unsigned running = 0;
    for (size_t i = 0; i < SIMULATIONS_KEPT_MAX; i++) {
        struct simulation *job = s->items[i];
        if (job && job->state == SIMULATION_RUNNING)
            running++;
        else if (!place || (*place && (!job || job->order < (*place)->order)))
            place = &s->items[i];
    }
    return running < SIMULATIONS_RUNNING_MAX ? place : NULL;
}

enum err simulations_start(struct simulations *s, const struct simulation_order *order, const char **ret_id)
{
    struct simulation **place = find_place(s);
    if (!place)
        return ERR_AGAIN;
    struct simulation *job = fault_calloc(1, sizeof(*job));
    if (!job)
        return ERR_NOMEM;
    job->owner = s;
    buf_init(&job->line, RESULT_BYTES_MAX);
    buf_init(&job->result, RESULT_BYTES_MAX);
    (void)random_id("sim-", 12, job->id);
    job->dir = file_join(s->dir, job->id);
    enum err err = job->dir ? write_files(job, order) : ERR_NOMEM;
    if (!err)
        err = spawn(job, order);
    if (err) {
        if (job->process.pid > 0 && uv_process_kill(&job->process, SIGKILL) == 0)
            (void)waitpid(job->process.pid, NULL, 0);
        if (job->dir)
            remove_dir(job->dir);
        forget(job);
        return err;
    }
    if (*place)
        forget(*place);
    job->order = ++s->started;
    *place = job;
    *ret_id = job->id;
    return OK;
}

/* ---- looking and ending ---- */

static struct simulation *find(const struct simulations *s, struct span id)
{
    for (size_t i = 0; i < SIMULATIONS_KEPT_MAX; i++)
        if (s->items[i] && span_eq(id, span_cstr(s->items[i]->id)))
            return s->items[i];
    return NULL;
}

enum err simulations_look(const struct simulations *s, struct span id, struct simulation_status *ret)
{
    const struct simulation *job = find(s, id);
    if (!job)
        return ERR_NOT_FOUND;
    *ret = job->seen;
    ret->state = job->state;
    ret->why = job->why;
    ret->result = job->state == SIMULATION_DONE ? buf_span(&job->result) : SPAN("");
    return OK;
}

enum err simulations_cancel(struct simulations *s, struct span id)
{
    struct simulation *job = find(s, id);
    if (!job)
        return ERR_NOT_FOUND;
    if (job->state == SIMULATION_RUNNING && !job->exited) {
        job->cancelled = true;
        (void)uv_process_kill(&job->process, SIGKILL);
    }
    return OK;
}

void simulations_close(struct simulations *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < SIMULATIONS_KEPT_MAX; i++) {
        struct simulation *job = s->items[i];
        if (job && job->state == SIMULATION_RUNNING) {
            /* Waited for here: the loop may not run again. */
            if (!job->exited && uv_process_kill(&job->process, SIGKILL) == 0)
                (void)waitpid(job->process.pid, NULL, 0);
            job->state = SIMULATION_CANCELLED;
            remove_dir(job->dir);
        }
        if (job)
            forget(job);
    }
    free(s->dir);
    free(s->program);
    free(s);
}
