#include "dataplane/simulate/tool.h"
#include "common/arena.h"
#include "common/clock.h"
#include "dataplane/simulate/files.h"
#include "dataplane/simulate/simulate.h"
#include "proto/simulation.h"
#include <stdio.h>

#define PROGRESS_MS       100u
#define PROGRESS_LINES    512u /* the clock is asked so often */
#define SCRATCH_BYTES_MAX (1u << 20)
#define REPORT_BYTES_MAX  (16u << 20)

struct run {
    const struct simulate_tool_options *options;
    struct simulate *simulate;
    uint64_t limit, lines, unreadable, bytes_done, bytes_total;
    uint64_t told_ms;
    bool full;
};

static int fail(const char *what)
{
    struct buf out = BUF_INIT(64u << 10);
    struct json_writer w;
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_member_cstr(&w, "error", what);
    json_object_close(&w);
    if (json_writer_end(&w) == OK)
        (void)fwrite(buf_span(&out).ptr, 1, out.len, stdout);
    (void)fputs("\n", stdout);
    (void)fflush(stdout);
    buf_release(&out);
    return 1;
}

static void tell_progress(struct run *r, bool now)
{
    const uint64_t now_ms = clock_ms();
    if (!now && now_ms - r->told_ms < PROGRESS_MS)
        return;
    r->told_ms = now_ms;
    printf("{\"progress\":{\"records\":%llu,\"bytes\":%llu,\"bytes_total\":%llu}}\n", (unsigned long long)r->lines,
           (unsigned long long)r->bytes_done, (unsigned long long)r->bytes_total);
    (void)fflush(stdout);
}

static enum err take_line(struct run *r, struct arena *scratch, struct span line)
{
    struct record record;
    arena_reset(scratch);
    r->lines++;
    if (r->lines % PROGRESS_LINES == 0)
        tell_progress(r, false);
    const enum err err = record_read(scratch, line, &record);
    if (err == ERR_NOMEM)
        return err;
    if (err) {
        r->unreadable += err != ERR_UNSUPPORTED;
        return OK;
    }
    return record.time_ms < r->options->since_ms ? OK : simulate_take(r->simulate, &record);
}

static enum err take_file(struct run *r, struct arena *scratch, const struct record_source *file)
{
    struct record_lines lines;
    struct span line;
    if (record_lines_open(file, &lines))
        return OK; /* it was removed since: the oldest go first */
    enum err err = OK;
    while (!err && !r->full && record_lines_next(&lines, &line)) {
        const uint64_t before = r->bytes_done;
        if (!span_empty(line))
            err = take_line(r, scratch, line);
        r->bytes_done = before + line.len + 1;
        r->full = simulate_taken(r->simulate) >= r->limit;
    }
    record_lines_close(&lines);
    if (err == ERR_FULL) {
        r->full = true;
        err = OK;
    }
    return err;
}

static enum err take_all(struct run *r, const struct record_sources *files)
{
    struct arena scratch;
    enum err err = OK;
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    r->bytes_total = files->bytes;
    for (unsigned i = 0; i < files->count && !err && !r->full; i++)
        err = take_file(r, &scratch, &files->items[i]);
    arena_release(&scratch);
    tell_progress(r, true);
    return err;
}

static int report(struct run *r)
{
    struct buf out = BUF_INIT(REPORT_BYTES_MAX);
    struct json_writer w;
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_member_u64(&w, "lines", r->lines);
    json_member_u64(&w, "lines_unreadable", r->unreadable);
    json_member_bool(&w, "limited", r->full);
    json_key(&w, SPAN("result"));
    enum err err = simulate_report(r->simulate, &w);
    json_object_close(&w);
    if (!err)
        err = json_writer_end(&w);
    if (!err)
        err = buf_append_byte(&out, '\n');
    int status = err ? fail(err_name(err)) : 0;
    if (!err && (fwrite(buf_span(&out).ptr, 1, out.len, stdout) != out.len || fflush(stdout) != 0))
        status = 1;
    buf_release(&out);
    return status;
}

/* The objects' bytes need not outlive this: the simulation borrows nothing. */
static enum err begin(const char *dir, struct simulate **ret, const char **ret_why)
{
    struct buf live = BUF_INIT(ARTIFACT_BYTES_MAX), candidate = BUF_INIT(ARTIFACT_BYTES_MAX);
    struct buf head = BUF_INIT(HEAD_BYTES_MAX), evidence = BUF_INIT(EVIDENCE_BYTES_MAX);
    struct buf directory = BUF_INIT(FRAME_BYTES_MAX);
    struct buf *bufs[] = { &live, &candidate, &head, &evidence, &directory };
    static const char *const names[] = { SIMULATION_LIVE, SIMULATION_CANDIDATE, SIMULATION_HEAD, SIMULATION_EVIDENCE,
                                         SIMULATION_DIRECTORY };
    enum err err = OK;
    for (size_t i = 0; i < ARRAY_LEN(bufs) && !err; i++)
        err = files_read(dir, names[i], bufs[i]->max, bufs[i]);
    *ret_why = err ? err_name(err) : NULL;
    if (!err && (live.len == 0 || candidate.len == 0)) {
        *ret_why = "the live policy or the candidate is not in the simulation's directory";
        err = ERR_NOT_FOUND;
    }
    if (!err) {
        const struct simulate_input input = { .live = buf_span(&live),
                                              .candidate = buf_span(&candidate),
                                              .head = buf_span(&head),
                                              .evidence = buf_span(&evidence),
                                              .directory = buf_span(&directory),
                                              .now_ms = clock_wall_ms() };
        err = simulate_new(&input, ret, ret_why);
    }
    for (size_t i = 0; i < ARRAY_LEN(bufs); i++)
        buf_release(bufs[i]);
    return err;
}

int simulate_tool(const struct simulate_tool_options *options)
{
    struct run r = { .options = options,
                     .limit =
                         options->limit && options->limit < SIMULATE_ROWS_MAX ? options->limit : SIMULATE_ROWS_MAX };
    struct record_sources files = { .items = NULL };
    const char *why = NULL;
    int status;
    if (begin(options->dir, &r.simulate, &why))
        return fail(why ? why : "the simulation's files cannot be used");
    enum err err = record_sources_find(options->records, options->record_count, options->since_ms, &files, &why);
    if (err) {
        status = fail(err == ERR_NOMEM ? err_name(err) : "the records cannot be read");
    } else {
        err = take_all(&r, &files);
        status = err ? fail(err_name(err)) : report(&r);
    }
    record_sources_release(&files);
    simulate_free(r.simulate);
    return status;
}
