#include "controlplane/journal/journal.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_BYTES_MAX  200u /* of each text; six bytes each at most when escaped, four of them: cut further below */
#define PARSE_BYTES_MAX (64u << 10)

struct entry {
    int64_t at_ms;
    char *line; /* NUL-terminated */
};
struct journal {
    struct event_sink sink;
    struct entry ring[JOURNAL_EVENTS_MAX];
    size_t first, count;
    char *path; /* NULL: memory only */
    int fd;     /* -1: closed */
    size_t file_bytes;
    bool complained;
};

static struct entry *entry_at(const struct journal *j, size_t i)
{
    return (struct entry *)(uintptr_t)&j->ring[(j->first + i) % JOURNAL_EVENTS_MAX];
}

/* Takes a copy; the oldest goes when the ring is full. False: no memory, and nothing is kept. */
static bool keep(struct journal *j, int64_t at_ms, struct span line)
{
    char *copy = fault_malloc(line.len + 1);
    if (!copy)
        return false;
    memcpy(copy, line.ptr, line.len);
    copy[line.len] = '\0';
    if (j->count == JOURNAL_EVENTS_MAX) {
        free(j->ring[j->first].line);
        j->first = (j->first + 1) % JOURNAL_EVENTS_MAX;
        j->count--;
    }
    *entry_at(j, j->count++) = (struct entry){ .at_ms = at_ms, .line = copy };
    return true;
}

/* ---- the file ---- */

static void complain(struct journal *j, const char *what)
{
    if (!j->complained)
        log_warn("journal.file", LOG_STR("path", j->path), LOG_STR("what", what), LOG_STR("why", strerror(errno)));
    j->complained = true; /* once: the disk will be full for a while */
}

static char *former(const struct journal *j)
{
    const size_t bytes = strlen(j->path) + 3;
    char *path = fault_malloc(bytes);
    if (path)
        snprintf(path, bytes, "%s.1", j->path);
    return path;
}

static void open_file(struct journal *j)
{
    struct stat st;
    j->fd = open(j->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (j->fd < 0)
        complain(j, "open");
    else
        j->file_bytes = fstat(j->fd, &st) == 0 ? (size_t)st.st_size : 0;
}

static void rotate(struct journal *j)
{
    char *old = former(j);
    close(j->fd);
    j->fd = -1;
    if (old && rename(j->path, old) != 0)
        complain(j, "rename");
    free(old);
    open_file(j);
}

/* A line is one write: another process never reads half of it, and a crash tears the last one only. */
static void append(struct journal *j, struct span line)
{
    char text[JOURNAL_LINE_BYTES + 1];
    if (j->fd < 0 || line.len >= sizeof(text))
        return;
    if (j->file_bytes + line.len + 1 > JOURNAL_FILE_BYTES)
        rotate(j);
    if (j->fd < 0)
        return;
    memcpy(text, line.ptr, line.len);
    text[line.len] = '\n';
    if (write(j->fd, text, line.len + 1) == (ssize_t)line.len + 1) {
        j->file_bytes += line.len + 1;
        j->complained = false;
    } else {
        complain(j, "write");
        if (ftruncate(j->fd, (off_t)j->file_bytes) != 0) /* half a line would take the next one with it */
            complain(j, "truncate");
    }
}

static void take_line(struct journal *j, struct arena *arena, struct span line)
{
    struct json_index ix;
    int64_t at_ms;
    arena_reset(arena);
    if (line.len == 0 || line.len > JOURNAL_LINE_BYTES ||
        json_index(arena, line, &json_limits_default, &ix, NULL) != OK || json_kind(&ix, 0) != JSON_OBJECT)
        return;
    const uint32_t at = json_get(&ix, 0, SPAN("at_ms"));
    if (at != JSON_NONE && json_i64(&ix, at, &at_ms) == OK)
        (void)keep(j, at_ms, line);
}

static enum err read_file(struct journal *j, const char *path)
{
    struct buf text = BUF_INIT(2 * JOURNAL_FILE_BYTES);
    struct arena arena;
    enum err err = file_read(path, 2 * JOURNAL_FILE_BYTES, &text);
    struct span rest = buf_span(&text), line;
    arena_init(&arena, PARSE_BYTES_MAX);
    while (err == OK && span_split(&rest, '\n', &line))
        take_line(j, &arena, line);
    arena_release(&arena);
    buf_release(&text);
    if (err && err != ERR_NOT_FOUND && err != ERR_NOMEM)
        log_warn("journal.read", LOG_STR("path", path), LOG_ERR(err));
    return err == ERR_NOMEM ? err : OK;
}

/* A torn last line is ended, so that the next one stands alone. */
static void end_last_line(struct journal *j)
{
    char last = '\n';
    const int fd = open(j->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && j->file_bytes > 0 && pread(fd, &last, 1, (off_t)j->file_bytes - 1) == 1 && last != '\n' &&
        j->fd >= 0 && write(j->fd, "\n", 1) == 1)
        j->file_bytes++;
    if (fd >= 0)
        close(fd);
}

/* ---- the rest ---- */

/* The head of a text that escapes to little: no text may push the others out of the line. */
static struct span brief(struct span text)
{
    return span_head(text, TEXT_BYTES_MAX);
}

static enum err write_line(const struct event *e, int64_t now_ms, bool with_why, struct buf *out)
{
    struct json_writer w;
    buf_clear(out);
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_i64(&w, "at_ms", now_ms);
    json_member_cstr(&w, "kind", e->kind);
    json_member_string(&w, "where", brief(e->where));
    json_member_string(&w, "what", brief(e->what));
    json_member_string(&w, "why", with_why ? brief(e->why) : SPAN(""));
    json_member_string(&w, "node", brief(e->node));
    json_object_close(&w);
    return json_writer_end(&w);
}

static void happened(void *user, const struct event *event, int64_t now_ms)
{
    struct journal *j = user;
    struct buf line = BUF_INIT(JOURNAL_LINE_BYTES);
    enum err err = write_line(event, now_ms, true, &line);
    if (err == ERR_FULL)
        err = write_line(event, now_ms, false, &line);
    if (err == OK && keep(j, now_ms, buf_span(&line)))
        append(j, buf_span(&line));
    buf_release(&line);
}

enum err journal_open(const char *path, struct journal **ret)
{
    struct journal *j = fault_calloc(1, sizeof(*j));
    if (!j)
        return ERR_NOMEM;
    j->sink = (struct event_sink){ .happened = happened, .user = j };
    j->fd = -1;
    j->path = path ? strdup(path) : NULL;
    char *old = j->path ? former(j) : NULL;
    enum err err = path && (!j->path || !old) ? ERR_NOMEM : OK;
    if (!err && old)
        err = read_file(j, old);
    if (!err && j->path)
        err = read_file(j, j->path);
    free(old);
    if (err) {
        journal_close(j);
        return err;
    }
    if (j->path) {
        open_file(j);
        end_last_line(j);
    }
    *ret = j;
    return OK;
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    for (size_t i = 0; i < j->count; i++)
        free(entry_at(j, i)->line);
    if (j->fd >= 0)
        close(j->fd);
    free(j->path);
    free(j);
}

const struct event_sink *journal_sink(struct journal *journal)
{
    return &journal->sink;
}

void journal_each(const struct journal *journal, int64_t since_ms, journal_visit *visit, void *user)
{
    for (size_t i = 0; i < journal->count; i++) {
        const struct entry *e = entry_at(journal, i);
        if (e->at_ms >= since_ms && !visit(user, e->at_ms, span_cstr(e->line)))
            return;
    }
}
