#include "tests/bench/replay/trace.h"
#include "common/arena.h"
#include "common/json.h"
#include "common/span.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_BYTES_MAX (1024u * 1024) /* a row of a million prompt tokens lists some 14 KB of block hashes */
#define NS_PER_MS      UINT64_C(1000000)
#define NS_PER_S       UINT64_C(1000000000)

extern char **environ;

struct source {
    FILE *lines;
    pid_t unzip; /* 0: the file is read as it is */
};

/* ---- where lines come from ---- */

static enum err open_unzip(const char *path, struct source *ret)
{
    char *argv[] = { (char[]){ "gzip" }, (char[]){ "-dc" }, (char[]){ "--" }, (char *)(uintptr_t)path, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t broken_pipe; /* ends it in silence when the slice ends before the file; we ignore that signal */
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return ERR_IO;
    (void)sigemptyset(&broken_pipe);
    (void)sigaddset(&broken_pipe, SIGPIPE);
    (void)posix_spawn_file_actions_init(&actions); /* these three cannot fail in glibc */
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setsigdefault(&attributes, &broken_pipe);
    int code = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    if (code == 0)
        code = posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    if (code == 0)
        code = posix_spawnp(&ret->unzip, "gzip", &actions, &attributes, argv, environ);
    (void)posix_spawnattr_destroy(&attributes);
    (void)posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (code == 0)
        ret->lines = fdopen(ends[0], "r");
    if (ret->lines)
        return OK;
    close(ends[0]);
    if (code != 0)
        ret->unzip = 0;
    else
        (void)waitpid(ret->unzip, NULL, 0);
    return ERR_IO;
}

static enum err source_open(const char *path, struct source *ret)
{
    *ret = (struct source){ 0 };
    if (access(path, R_OK) != 0)
        return errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO;
    if (span_ends(span_cstr(path), SPAN(".gz")))
        return open_unzip(path, ret);
    ret->lines = fopen(path, "re");
    return ret->lines ? OK : ERR_IO;
}

/* all_read: then gzip has to end well; before, the closed pipe ends it. */
static enum err source_close(struct source *source, bool all_read)
{
    int status = 0;
    (void)fclose(source->lines);
    if (source->unzip == 0)
        return OK;
    while (waitpid(source->unzip, &status, 0) < 0 && errno == EINTR)
        ;
    return all_read && status != 0 ? ERR_IO : OK;
}

/* ---- rows ---- */

/* Days since 1970-01-01 in the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms"). */
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d)
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + (int64_t)doe - 719468;
}

static bool take_digits(struct span *text, size_t n, unsigned *ret)
{
    uint64_t value;
    if (text->len < n || span_to_u64(span_head(*text, n), &value) != OK)
        return false;
    *text = span_skip(*text, n);
    *ret = (unsigned)value;
    return true;
}

static bool take_byte(struct span *text, char byte)
{
    if (text->len == 0 || text->ptr[0] != byte)
        return false;
    *text = span_skip(*text, 1);
    return true;
}

/* "2023-11-16 18:15:46[.6805900][+00:00]", to nanoseconds since 1970. */
static bool read_time(struct span text, uint64_t *ret_ns)
{
    unsigned y, mo, d, h, mi, s;
    if (!take_digits(&text, 4, &y) || !take_byte(&text, '-') || !take_digits(&text, 2, &mo) || !take_byte(&text, '-') ||
        !take_digits(&text, 2, &d) || !take_byte(&text, ' ') || !take_digits(&text, 2, &h) || !take_byte(&text, ':') ||
        !take_digits(&text, 2, &mi) || !take_byte(&text, ':') || !take_digits(&text, 2, &s))
        return false;
    if (y < 1970 || y > 2261 || mo < 1 || mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 || s > 60)
        return false;
    uint64_t fraction = 0;
    if (take_byte(&text, '.')) {
        uint64_t unit = NS_PER_S / 10;
        unsigned digit;
        if (text.len == 0)
            return false;
        for (; take_digits(&text, 1, &digit); unit /= 10)
            fraction += digit * unit;
    }
    if (text.len > 0 && !span_eq(text, SPAN("+00:00")))
        return false;
    uint64_t seconds = (uint64_t)days_from_civil(y, mo, d) * 86400 + h * 3600u + mi * 60u + s;
    *ret_ns = seconds * NS_PER_S + fraction;
    return true;
}

static bool set_tokens(uint64_t input, uint64_t output, struct trace_row *row)
{
    if (input > TRACE_TOKENS_MAX || output > TRACE_TOKENS_MAX)
        return false;
    row->input_tokens = input > 0 ? (uint32_t)input : 1;
    row->output_tokens = output > 0 ? (uint32_t)output : 1;
    return true;
}

static bool read_csv(struct span line, struct trace_row *row)
{
    struct span time, in;
    uint64_t input, output;
    return span_split(&line, ',', &time) && span_split(&line, ',', &in) && read_time(time, &row->at_ns) &&
           span_to_u64(in, &input) == OK && span_to_u64(line, &output) == OK && set_tokens(input, output, row);
}

static bool get_u64(const struct json_index *ix, struct span name, uint64_t *ret)
{
    uint32_t token = json_get(ix, 0, name);
    return token != JSON_NONE && json_u64(ix, token, ret) == OK;
}

static bool read_json(struct arena *arena, struct span line, struct trace_row *row)
{
    struct json_index ix;
    uint64_t ms, input, output;
    arena_reset(arena);
    if (json_index(arena, line, &json_limits_default, &ix, NULL) != OK || json_kind(&ix, 0) != JSON_OBJECT ||
        !get_u64(&ix, SPAN("timestamp"), &ms) || !get_u64(&ix, SPAN("input_length"), &input) ||
        !get_u64(&ix, SPAN("output_length"), &output) || ms > UINT64_MAX / NS_PER_MS)
        return false;
    row->at_ns = ms * NS_PER_MS;
    return set_tokens(input, output, row);
}

/* ---- the slice ---- */

struct reader {
    const struct trace_slice *slice;
    struct arena arena; /* of one JSON line */
    bool csv;
    uint64_t line, row; /* line from 1, row from 0 */
    uint64_t first_ns, last_ns;
    struct trace trace;
    size_t cap;
    const char *why;
};

static enum err keep(struct reader *r, const struct trace_row *row)
{
    if (r->trace.count == TRACE_ROWS_MAX) {
        r->why = "the slice is too long";
        return ERR_TOO_MANY;
    }
    if (r->trace.count == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 1024;
        struct trace_row *rows = realloc(r->trace.rows, cap * sizeof(*rows));
        if (!rows) {
            r->why = "out of memory";
            return ERR_NOMEM;
        }
        r->trace.rows = rows;
        r->cap = cap;
    }
    r->trace.rows[r->trace.count++] = *row;
    return OK;
}

/* ERR_CLOSED: this row and all behind it are past the slice. */
static enum err take_row(struct reader *r, struct trace_row row)
{
    const struct trace_slice *slice = r->slice;
    if (r->row == 0)
        r->first_ns = r->last_ns = row.at_ns;
    if (row.at_ns < r->last_ns) {
        r->why = "is earlier than the one before";
        return ERR_INVALID;
    }
    r->last_ns = row.at_ns;
    row.at_ns -= r->first_ns;
    uint64_t number = r->row++;
    if (number < slice->first_row || row.at_ns < slice->from_ns)
        return OK;
    if (number - slice->first_row >= slice->rows || row.at_ns - slice->from_ns >= slice->for_ns)
        return ERR_CLOSED;
    return keep(r, &row);
}

static enum err take_line(struct reader *r, struct span line)
{
    struct trace_row row = { 0 };
    while (line.len > 0 && (line.ptr[line.len - 1] == '\n' || line.ptr[line.len - 1] == '\r'))
        line.len--;
    if (++r->line == 1 && span_starts(line, SPAN("TIMESTAMP,ContextTokens,GeneratedTokens"))) {
        r->csv = true;
        return OK;
    }
    if (line.len == 0)
        return OK;
    if (line.len > LINE_BYTES_MAX || !(r->csv ? read_csv(line, &row) : read_json(&r->arena, line, &row))) {
        r->why = r->csv ? "is not TIMESTAMP,ContextTokens,GeneratedTokens"
                        : "is neither a CSV header nor an object with timestamp, input_length and output_length";
        return ERR_SYNTAX;
    }
    return take_row(r, row);
}

static enum err take_lines(struct reader *r, FILE *lines)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    enum err err = OK;
    while (err == OK && (n = getline(&line, &cap, lines)) > 0)
        err = take_line(r, span_of(line, (size_t)n));
    if (err == OK && ferror(lines)) {
        r->why = "cannot be read";
        err = ERR_IO;
    }
    free(line);
    return err;
}

enum err trace_read(const char *path, const struct trace_slice *slice, struct trace *ret, char *why, size_t why_bytes)
{
    struct source source;
    struct reader r = { .slice = slice };
    enum err err = source_open(path, &source);
    if (err != OK) {
        (void)snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
        return err;
    }
    arena_init(&r.arena, 16u * LINE_BYTES_MAX);
    err = take_lines(&r, source.lines);
    bool past = err == ERR_CLOSED;
    enum err closed = source_close(&source, err == OK);
    arena_release(&r.arena);
    if (past || err == OK)
        err = closed;
    if (err == OK) {
        *ret = r.trace;
        return OK;
    }
    if (r.why)
        (void)snprintf(why, why_bytes, "%s: line %llu %s", path, (unsigned long long)r.line, r.why);
    else
        (void)snprintf(why, why_bytes, "%s: gzip cannot unpack it", path);
    trace_release(&r.trace);
    return err;
}

void trace_release(struct trace *trace)
{
    free(trace->rows);
    *trace = (struct trace){ 0 };
}
