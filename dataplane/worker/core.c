#include "dataplane/worker/core.h"
#include "common/clock.h"
#include "common/fault.h"
#include "dataplane/account/ledger.h"
#include "dataplane/worker/exchange.h"
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#define OTHER_DESCRIPTORS     256u         /* listeners, files, the resolver's sockets */
#define SCRATCH_BYTES_MAX     (8u << 20)   /* one callback's output: an event of the largest size with its frame */
#define ANSWER_HEAD_BYTES_MAX (64u << 10)  /* an answer's head: a provider's lines that come down, and ours */
#define CIPHER_BYTES_MAX      (256u << 10) /* what stream_tls writes at once, with what TLS itself says */
#define EVENT_ARENA_BYTES_MAX (32u << 20)  /* the index of the largest event */

static void on_never_ready(uv_poll_t *poll, int status, int events)
{
    (void)poll;
    (void)status;
    (void)events;
}

static void on_poll_closed(uv_handle_t *poll)
{
    free(poll);
}

/* libuv keeps a table of what it watches, as long as the highest descriptor's number, and aborts when that cannot grow
 * (uv__io_start, up to 1.50). So it gets its whole length here, where the lack of memory is an error: the highest
 * number there can be is watched once. */
static enum err make_room_for_descriptors(const struct core *core)
{
    const struct node_limits *limits = &core->config->limits;
    uint64_t highest = limits->connections + 2 * limits->upstream_connections + OTHER_DESCRIPTORS;
    struct rlimit most;
    if (getrlimit(RLIMIT_NOFILE, &most) == 0 && highest >= most.rlim_cur)
        highest = most.rlim_cur - 1;
    void *probe = fault_malloc(2 * (highest + 2) * sizeof(void *)); /* it takes the next power of two */
    uv_poll_t *poll = fault_malloc(sizeof(*poll));
    free(probe);
    int pipes[2], high = -1;
    if (probe && poll && pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0) {
        high = fcntl(pipes[0], F_DUPFD_CLOEXEC, (int)highest);
        close(pipes[0]);
        close(pipes[1]);
    }
    if (high < 0 || uv_poll_init(core->loop, poll, high)) {
        free(poll);
        if (high >= 0)
            close(high);
        return ERR_NOMEM;
    }
    (void)uv_poll_start(poll, UV_READABLE, on_never_ready);
    uv_close((uv_handle_t *)poll, on_poll_closed);
    close(high);
    return OK;
}

enum err core_init(struct core *core, const struct core_options *options)
{
    *core = (struct core){ .loop = options->loop,
                           .config = options->config,
                           .slot = options->slot,
                           .lane = options->lane,
                           .scratch = BUF_INIT(SCRATCH_BYTES_MAX),
                           .lines = BUF_INIT(ANSWER_HEAD_BYTES_MAX),
                           .head = BUF_INIT(ANSWER_HEAD_BYTES_MAX),
                           .cipher = BUF_INIT(CIPHER_BYTES_MAX),
                           .record = BUF_INIT(LEDGER_ROOM) };
    arena_init(&core->event_arena, EVENT_ARENA_BYTES_MAX);
    uint64_t seed;
    random_bytes(&seed, sizeof(seed));
    prng_seed(&core->prng, seed);
    random_bytes(core->ids.s, sizeof(core->ids.s));
    random_bytes(core->id_key.bytes, sizeof(core->id_key.bytes));
    core_renew_wall(core);
    enum err err = board_attach(options->board_path, &core->board);
    if (err)
        return err;
    if (options->region_number >= board_regions(core->board)) {
        core_release(core);
        return ERR_INVALID;
    }
    core->region = board_region(core->board, options->region_number);
    core->read_buffer = fault_malloc(CORE_READ_BYTES);
    core->cool_until_ms = fault_calloc(MODELS_MAX, sizeof(*core->cool_until_ms));
    char *line;
    err = core->read_buffer && core->cool_until_ms ? buf_reserve(&core->record, LEDGER_ROOM, &line) : ERR_NOMEM;
    if (err == OK)
        err = make_room_for_descriptors(core);
    if (err == OK)
        err = loader_init(&core->loader, options->store_path, core->board, options->events);
    if (err)
        core_release(core);
    return err;
}

void core_close(struct core *core)
{
    exchange_close_idle(core);
}

void core_release(struct core *core)
{
    loader_release(&core->loader);
    free(core->read_buffer);
    free(core->plain);
    free(core->cool_until_ms);
    arena_release(&core->event_arena);
    buf_release(&core->scratch);
    buf_release(&core->lines);
    buf_release(&core->head);
    buf_release(&core->cipher);
    buf_release(&core->record);
    if (core->board)
        board_close(core->board);
    core->read_buffer = NULL;
    core->plain = NULL;
    core->cool_until_ms = NULL;
    core->board = NULL;
}

void core_renew_wall(struct core *core)
{
    core->wall_offset_ms = clock_wall_ms() - (int64_t)uv_now(core->loop);
}

struct span core_date(struct core *core)
{
    int64_t now_ms = core_wall_ms(core);
    if (now_ms / 1000 != core->date_s || !core->date[0]) {
        core->date_s = now_ms / 1000;
        (void)http1_format_date(now_ms, core->date);
    }
    return span_cstr(core->date);
}
