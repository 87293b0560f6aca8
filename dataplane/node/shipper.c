#include "dataplane/node/shipper.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/home.h"
#include "proto/record.h"
#include "proto/wire.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_MS      10000u
#define SHARE_ALL       1000000u
#define LINE_ARENA_MAX  ((size_t)1 << 20)
#define REPLY_ARENA_MAX ((size_t)1 << 20)
#define SCAN_BYTES_MAX  (8u << 20) /* of lines that are left out, at a stretch: the master's loop has more to do */

static void ship(struct shipper *s);

/* ---- where it stands ---- */

static int open_segment(const struct shipper *s, const char *name)
{
    char *path = file_join(s->options.records->dir, name);
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    free(path);
    return fd;
}

static void stand_at(struct shipper *s, const char *segment, uint64_t offset)
{
    if (s->fd >= 0 && strcmp(segment, s->segment) != 0) {
        (void)close(s->fd);
        s->fd = -1;
    }
    (void)snprintf(s->segment, sizeof(s->segment), "%s", segment);
    s->from = s->at = offset;
    s->known = true;
}

/* The first segment behind this one ("": the oldest). False: there is none (yet). */
static bool go_on(struct shipper *s)
{
    struct record_dir files;
    size_t i = 0;
    if (record_dir_list(s->options.records->dir, &files))
        return false;
    while (i < files.count && strcmp(files.names[i], s->segment) <= 0)
        i++;
    const bool found = i < files.count;
    const bool here = files.count > 0 && strcmp(files.names[files.count - 1], s->segment) >= 0;
    if (found)
        stand_at(s, files.names[i], 0);
    else if (files.count > 0 && !here && !s->elsewhere)
        log_warn("shipper.elsewhere", LOG_STR("segment", s->segment),
                 LOG_STR("hint", "the control plane has records of a node of this name that did not come from here: "
                                 "give each node its own name"));
    s->elsewhere = files.count > 0 && !found && !here;
    record_dir_release(&files);
    return found;
}

/* ERR_AGAIN: there is nothing to read now. */
static enum err open_here(struct shipper *s)
{
    if (s->fd >= 0)
        return OK;
    if (s->segment[0])
        s->fd = open_segment(s, s->segment);
    if (s->fd < 0 && s->segment[0] && errno != ENOENT)
        return ERR_IO;
    if (s->fd >= 0)
        return OK;
    if (!go_on(s))
        return ERR_AGAIN;
    s->fd = open_segment(s, s->segment);
    return s->fd < 0 ? ERR_AGAIN : OK;
}

/* ---- what to ship ---- */

/* Units whole: all of a unit's requests are shipped, or none. Not the unit's own hash, by which arms are chosen: its low
 * values are some arms' alone. */
static bool chosen(struct shipper *s, struct span line)
{
    static const uint8_t key[16] = "records.ship";
    char text[SHA256_HEX];
    struct record record;
    if (s->options.config->records_ship_ppm >= SHARE_ALL)
        return true;
    arena_reset(&s->arena);
    if (record_read(&s->arena, line, &record) || record.kind == RECORD_FEEDBACK)
        return true;
    (void)snprintf(text, sizeof(text), "%016llx", (unsigned long long)record.unit);
    const struct span unit = record.has_unit ? span_cstr(text) : record.key_id;
    return siphash24(key, unit) % SHARE_ALL < s->options.config->records_ship_ppm;
}

static enum err select_lines(struct shipper *s, struct span text)
{
    enum err err = OK;
    for (size_t end; !err && text.len > 0; text = span_skip(text, end + 1)) {
        end = span_find_byte(text, '\n');
        const struct span line = span_head(text, end);
        if (record_is_content(line))
            continue; /* personal data stays where its retention is decided */
        if (!record_line_good(line) || !chosen(s, line)) {
            s->left_out++;
            continue;
        }
        err = buf_append(&s->lines, span_head(text, end + 1));
        s->batch_lines++;
    }
    return err;
}

static size_t whole_lines(struct span text)
{
    while (text.len > 0 && text.ptr[text.len - 1] != '\n')
        text.len--;
    return text.len;
}

/* At the end of what was written of this segment, or behind it. True: another one is read now. */
static bool at_end(struct shipper *s)
{
    struct stat status;
    if (fstat(s->fd, &status) == 0 && (uint64_t)status.st_size < s->at) {
        /* The machine lost what it had acknowledged. What is written from now on must not hide behind it. */
        log_warn("shipper.shrunk", LOG_STR("segment", s->segment), LOG_U64("bytes", (uint64_t)status.st_size),
                 LOG_U64("acknowledged", s->from));
        records_roll(s->options.records);
        s->from = s->at = (uint64_t)status.st_size;
    }
    return go_on(s);
}

/* Reads on until there is something to ship, or no more. ERR_AGAIN: nothing. */
static enum err gather(struct shipper *s)
{
    buf_clear(&s->lines);
    s->batch_lines = 0;
    for (size_t scanned = 0; scanned < SCAN_BYTES_MAX;) {
        char *room;
        enum err err = open_here(s);
        buf_clear(&s->raw);
        if (!err)
            err = buf_reserve(&s->raw, RECORDS_BATCH_BYTES_MAX, &room);
        if (err)
            return err;
        const ssize_t n = pread(s->fd, room, RECORDS_BATCH_BYTES_MAX, (off_t)s->at);
        if (n < 0)
            return errno == EINTR ? ERR_AGAIN : ERR_IO;
        const size_t whole = whole_lines(span_of(room, (size_t)n));
        if (whole == 0) { /* the end; what a killed master tore is no line */
            if (!at_end(s))
                return ERR_AGAIN;
            continue;
        }
        err = select_lines(s, span_of(room, whole));
        if (err)
            return err;
        s->at += whole;
        scanned += whole;
        if (s->lines.len > 0)
            return OK;
    }
    return OK; /* nothing of so much was chosen: that is told, so that it is not read again */
}

/* ---- the link ---- */

static void take_reply(struct shipper *s, const struct evidence_reply *reply)
{
    char segment[RECORD_FILE_NAME_BYTES] = "";
    if (reply->records_segment.len < sizeof(segment) && reply->records_segment.len > 0)
        memcpy(segment, reply->records_segment.ptr, reply->records_segment.len);
    const bool named = record_file_begun_ms(segment) != 0; /* it becomes a path */
    if (!named && !span_empty(reply->records_segment)) {
        log_warn("shipper.position", LOG_SPAN("segment", reply->records_segment));
        s->known = false;
        s->not_before_ms = uv_now(s->options.loop) + SHIPPER_AGAIN_MS;
        return;
    }
    if (s->known && strcmp(segment, s->segment) == 0 && reply->records_offset == s->from && s->at > s->from)
        s->not_before_ms = uv_now(s->options.loop) + SHIPPER_AGAIN_MS; /* nothing was taken: not over and over */
    if (s->known && strcmp(segment, s->segment) == 0 && reply->records_offset == s->at)
        s->shipped += s->batch_lines;
    stand_at(s, segment, reply->records_offset);
}

static void on_done(void *user, enum err err, struct span bytes)
{
    struct shipper *s = user;
    struct arena arena;
    struct evidence_reply *reply;
    s->sending = false;
    if (s->closing)
        return;
    arena_init(&arena, REPLY_ARENA_MAX);
    if (!err)
        err = wire_decode_evidence_reply(&arena, bytes, &reply);
    const bool taken = !err && span_empty(reply->error);
    if (!taken && (s->contact || !s->told))
        log_warn("shipper.refused", LOG_STR("address", s->options.config->evidence), LOG_ERR(err),
                 LOG_SPAN("why", err ? SPAN("") : reply->error));
    s->contact = taken;
    s->told = true;
    s->known = s->known && !err; /* whether it was taken is not known: asked again */
    if (taken)
        take_reply(s, reply);
    else
        s->not_before_ms = uv_now(s->options.loop) + SHIPPER_AGAIN_MS;
    if (!taken && s->known)
        s->at = s->from; /* the same again */
    arena_release(&arena);
    if (taken)
        ship(s);
}

static enum err send_report(struct shipper *s)
{
    struct buf out = BUF_INIT(RECORDS_BATCH_BYTES_MAX + (64u << 10));
    struct evidence_report report = { .protocol = LINK_PROTOCOL,
                                      .source = EVIDENCE_FROM_NODE,
                                      .sender = span_cstr(s->options.config->name),
                                      .incarnation = SPAN("records"),
                                      .ships_records = true };
    if (s->known) {
        report.records_segment = span_cstr(s->segment);
        report.records_from = s->from;
        report.records_to = s->at;
        report.records = buf_span(&s->lines);
    }
    enum err err = wire_encode_evidence_report(&report, &out);
    if (!err)
        err = channel_send(s->client, buf_span(&out), TIMEOUT_MS, on_done, s);
    s->sending = err == OK;
    buf_release(&out);
    return err;
}

static void ship(struct shipper *s)
{
    if (s->sending || s->closing || uv_now(s->options.loop) < s->not_before_ms)
        return;
    enum err err = s->known ? gather(s) : OK;
    if (!err)
        err = send_report(s);
    if (err && err != ERR_AGAIN) {
        log_warn("shipper.read", LOG_STR("segment", s->segment), LOG_ERR(err));
        s->at = s->from;
        s->not_before_ms = uv_now(s->options.loop) + SHIPPER_AGAIN_MS;
    }
}

static void on_timer(uv_timer_t *timer)
{
    ship(timer->data);
}

static void wake(void *user)
{
    uv_async_send(user);
}

static void on_wake(uv_async_t *async)
{
    struct shipper *s = async->data;
    if (s->client)
        channel_client_dispatch(s->client);
}

/* ---- what goes before its time ---- */

static uint64_t count_lines(int fd)
{
    static char text[64u << 10];
    uint64_t lines = 0;
    ssize_t n;
    for (off_t at = 0; (n = pread(fd, text, sizeof(text), at)) > 0; at += n)
        for (const char *c = text; (c = memchr(c, '\n', (size_t)(text + n - c))); c++)
            lines++;
    return lines;
}

/* Without contact since this master began, what was acknowledged before is not known: it counts as lost. */
static void on_removing(void *user, const char *segment)
{
    struct shipper *s = user;
    const int order = s->known ? strcmp(segment, s->segment) : 1;
    if (order < 0 || (order == 0 && s->fd >= 0))
        return;
    const int fd = open_segment(s, segment);
    const uint64_t lines = fd >= 0 ? count_lines(fd) : 0;
    if (fd >= 0)
        (void)close(fd);
    s->lost += lines;
    log_warn("shipper.lost", LOG_STR("segment", segment), LOG_U64("records", lines),
             LOG_STR("hint", "the control plane was away for longer than limits.record_segments last"));
}

/* ---- open and close ---- */

enum err shipper_open(struct shipper *s, const struct shipper_options *options)
{
    *s = (struct shipper){ .options = *options, .fd = -1 };
    if (options->config->records_ship_ppm == 0) {
        s->options.loop = NULL;
        return OK;
    }
    buf_init(&s->raw, RECORDS_BATCH_BYTES_MAX);
    buf_init(&s->lines, RECORDS_BATCH_BYTES_MAX);
    arena_init(&s->arena, LINE_ARENA_MAX);
    REQUIRE(uv_async_init(options->loop, &s->wake, on_wake) == 0 && uv_timer_init(options->loop, &s->timer) == 0);
    s->wake.data = s->timer.data = s;
    const struct channel_client_options client = {
        .address = options->config->evidence, .parallel = 1, .wake = wake, .wake_user = &s->wake
    };
    const enum err err = channel_client_open(&client, &s->client);
    if (err) {
        log_error("shipper.open", LOG_STR("address", options->config->evidence), LOG_ERR(err));
        return err;
    }
    options->records->removing = on_removing;
    options->records->removing_user = s;
    uv_timer_start(&s->timer, on_timer, 0, SHIPPER_EVERY_MS);
    return OK;
}

void shipper_close(struct shipper *s)
{
    if (s->closing || !s->options.loop)
        return;
    s->closing = true;
    s->options.records->removing = NULL;
    if (s->client)
        channel_client_close(s->client);
    s->client = NULL;
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = -1;
    buf_release(&s->raw);
    buf_release(&s->lines);
    arena_release(&s->arena);
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
}
