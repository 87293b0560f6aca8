#include "dataplane/node/heritage.h"
#include "common/file.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#define NUMBERS_MAX 9u

void heritage_init(struct heritage *h)
{
    *h = (struct heritage){ .lock_fd = -1, .hub_fd = -1, .operations_fd = -1, .asker_fd = -1 };
}

/* ---- every descriptor ---- */

static void each_fd(struct heritage *h, void (*what)(int *fd, bool flag), bool flag)
{
    int *const single[] = { &h->lock_fd, &h->hub_fd, &h->operations_fd, &h->asker_fd };
    for (size_t i = 0; i < ARRAY_LEN(single); i++)
        what(single[i], flag);
    for (unsigned slot = 0; slot < h->listening.slots; slot++) {
        for (unsigned line = 0; line < h->listening.count; line++)
            what(&h->listening.fds[slot][line], flag);
    }
}

static void keep_one_open(int *fd, bool keep)
{
    if (*fd >= 0)
        (void)fcntl(*fd, F_SETFD, keep ? 0 : FD_CLOEXEC);
}

void heritage_keep_open(struct heritage *h, bool keep)
{
    each_fd(h, keep_one_open, keep);
    for (unsigned i = 0; i < h->passed.count; i++)
        keep_one_open(&h->passed.fds[i], keep);
}

static void close_one(int *fd, UNUSED bool flag)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void heritage_close(struct heritage *h)
{
    each_fd(h, close_one, false);
}

/* ---- lines ---- */

static enum err write_listening(const struct listening *l, struct buf *out)
{
    enum err err = buf_printf(out, "slots %u\n", l->slots);
    for (unsigned i = 0; i < l->count && !err; i++) {
        char address[ADDRESS_TEXT_BYTES] = "-";
        if (l->lines[i].kind == LISTENER_TCP)
            (void)address_format(&l->lines[i].address, address);
        err = buf_printf(out, "line %u %u %s %s\n", (unsigned)l->lines[i].kind, l->lines[i].mode, address,
                         l->lines[i].text);
    }
    for (unsigned slot = 0; slot < l->slots; slot++) {
        for (unsigned i = 0; i < l->count && !err; i++) {
            if (l->fds[slot][i] >= 0)
                err = buf_printf(out, "socket %u %u %d\n", slot, i, l->fds[slot][i]);
        }
    }
    return err;
}

enum err heritage_write(const struct heritage *h, struct buf *out)
{
    enum err err =
        buf_printf(out, "heritage %u\nlayout %u\nlock %d\nhub %d\ncounts %u %llu %llu %llu\n", HERITAGE_FORMAT,
                   h->layout, h->lock_fd, h->hub_fd, h->generation, (unsigned long long)h->restarts,
                   (unsigned long long)h->stuck, (unsigned long long)h->starved);
    if (!err && h->operations_fd >= 0)
        err = buf_printf(out, "operations %d %s\n", h->operations_fd, h->operations);
    if (!err)
        err = write_listening(&h->listening, out);
    for (unsigned i = 0; i < h->passed.count && !err; i++) {
        if (h->passed.fds[i] >= 0)
            err = buf_printf(out, "passed %d %s\n", h->passed.fds[i], h->passed.names[i]);
    }
    for (unsigned i = 0; i < h->process_count && !err; i++) {
        const struct heritage_process *p = &h->processes[i];
        err = buf_printf(out, "process %llu %u %u %u %u %llu %llu %u %u\n", (unsigned long long)p->pid, p->slot,
                         p->region, p->generation, (unsigned)p->state, (unsigned long long)p->started_ms,
                         (unsigned long long)p->kill_ms, p->adopted, p->in_slot);
    }
    if (!err && h->asker_fd >= 0)
        err = buf_printf(out, "asker %d\n", h->asker_fd);
    if (!err && h->upgrade)
        err = buf_printf(out, "upgrade %llu\n", (unsigned long long)h->asked_ms);
    if (!err && h->last.at_ms > 0)
        err = buf_printf(out, "last %lld %llu %u %u %s\n", (long long)h->last.at_ms,
                         (unsigned long long)h->last.took_ms, h->last.upgrade, h->last.failed, h->last.why);
    return err;
}

/* `count` numbers; what follows them is left in *rest (nothing: rest->ptr is NULL). */
static bool numbers(struct span *rest, uint64_t *ret, unsigned count)
{
    struct span part;
    for (unsigned i = 0; i < count; i++) {
        if (!span_split(rest, ' ', &part) || span_to_u64(part, &ret[i]))
            return false;
    }
    return true;
}

static bool text(struct span from, char *out, size_t out_bytes)
{
    if (!from.ptr || from.len == 0 || from.len >= out_bytes)
        return false;
    memcpy(out, from.ptr, from.len);
    out[from.len] = '\0';
    return true;
}

static bool read_line(struct span rest, struct listening *l)
{
    uint64_t n[2];
    struct span address;
    struct listening_line *line = &l->lines[l->count];
    if (l->count == NODE_LISTENERS_MAX || !numbers(&rest, n, 2) || n[0] > LISTENER_SYSTEMD || n[1] > 07777 ||
        !span_split(&rest, ' ', &address) || !text(rest, line->text, sizeof(line->text)))
        return false;
    line->kind = (enum listener_kind)n[0];
    line->mode = (unsigned)n[1];
    l->count++;
    return line->kind != LISTENER_TCP || address_parse(address, &line->address) == OK;
}

static bool read_process(struct span rest, struct heritage *h)
{
    uint64_t n[NUMBERS_MAX];
    if (h->process_count == NODE_REGIONS_MAX || !numbers(&rest, n, 9) || rest.ptr)
        return false;
    if (n[0] < 2 || n[0] > INT32_MAX || n[1] >= NODE_WORKERS_MAX ||
        (n[2] >= NODE_REGIONS_MAX && n[2] != PROCESS_NO_REGION) || n[3] > UINT32_MAX || n[4] >= PROCESS_STATES)
        return false;
    h->processes[h->process_count++] = (struct heritage_process){ .pid = n[0],
                                                                  .slot = (unsigned)n[1],
                                                                  .region = (unsigned)n[2],
                                                                  .generation = (unsigned)n[3],
                                                                  .state = (enum process_state)n[4],
                                                                  .started_ms = n[5],
                                                                  .kill_ms = n[6],
                                                                  .adopted = n[7] != 0,
                                                                  .in_slot = n[8] != 0 };
    return true;
}

static bool read_socket(struct span rest, struct listening *l)
{
    uint64_t n[3];
    if (!numbers(&rest, n, 3) || rest.ptr || n[0] >= l->slots || n[1] >= l->count || n[2] > INT32_MAX)
        return false;
    l->fds[n[0]][n[1]] = (int)n[2];
    return true;
}

static bool read_fd(struct span *rest, int *ret)
{
    uint64_t n;
    if (!numbers(rest, &n, 1) || n > INT32_MAX)
        return false;
    *ret = (int)n;
    return true;
}

static bool read_last(struct span rest, struct heritage_change *last)
{
    uint64_t n[4];
    if (!numbers(&rest, n, 4) || !rest.ptr || n[0] > INT64_MAX || rest.len >= sizeof(last->why))
        return false;
    *last =
        (struct heritage_change){ .at_ms = (int64_t)n[0], .took_ms = n[1], .upgrade = n[2] != 0, .failed = n[3] != 0 };
    memcpy(last->why, rest.ptr, rest.len);
    return true;
}

static bool read_passed(struct span rest, struct passed *passed)
{
    if (passed->count == PASSED_MAX || !read_fd(&rest, &passed->fds[passed->count]) || !rest.ptr)
        return false;
    passed->names[passed->count] = strndup(rest.ptr, rest.len);
    return passed->names[passed->count] && ++passed->count;
}

static bool read_word(struct span word, struct span rest, struct heritage *h)
{
    uint64_t n[4];
    if (span_eq(word, SPAN("layout")) || span_eq(word, SPAN("slots"))) {
        const bool slots = span_eq(word, SPAN("slots"));
        if (!numbers(&rest, n, 1) || rest.ptr || n[0] > (slots ? NODE_WORKERS_MAX : UINT32_MAX))
            return false;
        *(slots ? &h->listening.slots : &h->layout) = (unsigned)n[0];
        return true;
    }
    if (span_eq(word, SPAN("lock")))
        return read_fd(&rest, &h->lock_fd) && !rest.ptr;
    if (span_eq(word, SPAN("hub")))
        return read_fd(&rest, &h->hub_fd) && !rest.ptr;
    if (span_eq(word, SPAN("asker")))
        return read_fd(&rest, &h->asker_fd) && !rest.ptr;
    if (span_eq(word, SPAN("operations")))
        return read_fd(&rest, &h->operations_fd) && text(rest, h->operations, sizeof(h->operations));
    if (span_eq(word, SPAN("counts"))) {
        if (!numbers(&rest, n, 4) || rest.ptr || n[0] > UINT32_MAX)
            return false;
        h->generation = (unsigned)n[0];
        h->restarts = n[1];
        h->stuck = n[2];
        h->starved = n[3];
        return true;
    }
    if (span_eq(word, SPAN("upgrade"))) {
        h->upgrade = true;
        return numbers(&rest, &h->asked_ms, 1) && !rest.ptr;
    }
    return span_eq(word, SPAN("line"))      ? read_line(rest, &h->listening)
           : span_eq(word, SPAN("socket"))  ? read_socket(rest, &h->listening)
           : span_eq(word, SPAN("process")) ? read_process(rest, h)
           : span_eq(word, SPAN("last"))    ? read_last(rest, &h->last)
           : span_eq(word, SPAN("passed"))  ? read_passed(rest, &h->passed)
                                            : false;
}

enum err heritage_read(struct span lines, struct heritage *ret)
{
    struct span line, word;
    uint64_t format;
    heritage_init(ret);
    for (unsigned slot = 0; slot < NODE_WORKERS_MAX; slot++) {
        for (unsigned i = 0; i < NODE_LISTENERS_MAX; i++)
            ret->listening.fds[slot][i] = -1;
    }
    if (!span_split(&lines, '\n', &line) || !span_split(&line, ' ', &word) || !span_eq(word, SPAN("heritage")) ||
        !numbers(&line, &format, 1))
        return ERR_SYNTAX;
    if (format != HERITAGE_FORMAT)
        return ERR_UNSUPPORTED;
    while (span_split(&lines, '\n', &line)) {
        if (line.len == 0 && !lines.ptr)
            break;
        if (!span_split(&line, ' ', &word) || !read_word(word, line, ret))
            return ERR_SYNTAX;
    }
    return ret->lock_fd >= 0 && ret->hub_fd >= 0 ? OK : ERR_SYNTAX;
}

/* ---- over an execve ---- */

void heritage_become(struct heritage *heritage, const char *program, const char *const *arguments)
{
    struct buf text = BUF_INIT(HERITAGE_BYTES_MAX);
    char number[16];
    const int fd = memfd_create("heritage", 0);
    bool good = fd >= 0 && heritage_write(heritage, &text) == OK &&
                write(fd, buf_span(&text).ptr, text.len) == (ssize_t)text.len && lseek(fd, 0, SEEK_SET) == 0;
    (void)snprintf(number, sizeof(number), "%d", fd);
    if (good && setenv(HERITAGE_ENV, number, 1) == 0) {
        heritage_keep_open(heritage, true);
        log_info("upgrade.exec", LOG_STR("program", program));
        (void)execv(program, (char **)(uintptr_t)arguments);
        heritage_keep_open(heritage, false);
        (void)unsetenv(HERITAGE_ENV);
    }
    (void)snprintf(heritage->failure, sizeof(heritage->failure), "%.150s cannot be executed: %s; the old one goes on",
                   program, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    buf_release(&text);
}

enum err heritage_inherit(const char *number, struct heritage *ret)
{
    char path[64];
    struct buf text = BUF_INIT(HERITAGE_BYTES_MAX);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%.16s", number);
    enum err err = file_read(path, HERITAGE_BYTES_MAX - 1, &text);
    if (!err)
        err = heritage_read(buf_span(&text), ret);
    if (!err)
        heritage_keep_open(ret, false);
    if (err)
        log_error("heritage.read", LOG_ERR(err), LOG_STR("hint", "the program before this one is too different"));
    uint64_t fd;
    if (span_to_u64(span_cstr(number), &fd) == OK && fd <= INT_MAX)
        (void)close((int)fd);
    buf_release(&text);
    return err;
}
