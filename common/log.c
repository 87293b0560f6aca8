#include "common/log.h"
#include "common/clock.h"

#include <errno.h>
#include <unistd.h>

#define VALUE_BYTES_MAX 2048  /* a provider's error page must not fill the log */
#define LINE_BYTES      16384 /* on the stack: logging works when memory is out */
#define LINE_TAIL_BYTES 64    /* kept free for what must close a line: quote, "cut" marker, brace, newline */

static struct {
    const char *program;
    enum log_level least;
    enum log_format format;
    int fd, errors_fd;
} settings = {
    .program = "fairlead", .least = LOG_LEVEL_INFO, .format = LOG_FORMAT_TEXT, .fd = STDERR_FILENO, .errors_fd = -1
};

struct line {
    size_t len;
    bool full;
    char data[LINE_BYTES];
};

void log_setup(const char *program, enum log_level least, enum log_format format)
{
    settings.program = program;
    settings.least = least;
    settings.format = format;
}

void log_set_fd(int fd)
{
    settings.fd = fd;
}

void log_copy_errors(int fd)
{
    settings.errors_fd = fd;
}

bool log_enabled(enum log_level level)
{
    return level >= settings.least;
}

static const char *const level_names[] = {
    [LOG_LEVEL_DEBUG] = "debug",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_ERROR] = "error",
};

/* All of the bytes or none of them, so that an escape is never cut in two. `reserve` bytes are left free. */
static bool put(struct line *line, struct span bytes, size_t reserve)
{
    if (bytes.len > LINE_BYTES - reserve - line->len) {
        line->full = true;
        return false;
    }
    memcpy(line->data + line->len, bytes.ptr, bytes.len);
    line->len += bytes.len;
    return true;
}

/* For closing what was opened: the tail was kept free for it. */
static void put_tail(struct line *line, struct span bytes)
{
    (void)put(line, bytes, 0);
}

/* Length of the well-formed UTF-8 sequence at the front (RFC 3629, section 4), 0 when there is none. */
static size_t utf8_length(struct span text)
{
    unsigned char first = (unsigned char)text.ptr[0];
    if (first < 0x80)
        return 1;
    size_t length = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : 4;
    if (first < 0xc2 || first > 0xf4 || text.len < length)
        return 0;
    unsigned char second = (unsigned char)text.ptr[1];
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (second < low || second > high)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if (((unsigned char)text.ptr[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

/* One byte or character of a quoted value as it stands in the line. */
static struct span escaped(struct span text, bool json, char scratch[8])
{
    unsigned char c = (unsigned char)text.ptr[0];
    size_t length = utf8_length(text);
    const char *format = json ? "\\u%04x" : "\\x%02x";
    if (c == '"' || c == '\\')
        return span_of(scratch, (size_t)snprintf(scratch, 8, "\\%c", c));
    if (c == '\n')
        return SPAN("\\n");
    if (length == 0 && json)
        return SPAN("\xef\xbf\xbd"); /* JSON is UTF-8: U+FFFD */
    /* C1 controls (U+0080 to U+009F) also drive terminals. */
    bool c1 = length == 2 && c == 0xc2 && (unsigned char)text.ptr[1] < 0xa0;
    if (c1)
        return span_of(scratch, (size_t)snprintf(scratch, 8, "\\u%04x", (unsigned char)text.ptr[1]));
    if (c < 0x20 || c == 0x7f || length == 0)
        return span_of(scratch, (size_t)snprintf(scratch, 8, format, c));
    return span_head(text, length);
}

static void put_quoted(struct line *line, struct span text, bool json)
{
    bool cut = text.len > VALUE_BYTES_MAX;
    if (!put(line, SPAN("\""), LINE_TAIL_BYTES))
        return;
    size_t shown = 0;
    while (shown < size_min(text.len, VALUE_BYTES_MAX)) {
        struct span rest = span_skip(text, shown);
        size_t length = size_max(utf8_length(rest), 1);
        char scratch[8];
        if (shown + length > VALUE_BYTES_MAX || !put(line, escaped(rest, json, scratch), LINE_TAIL_BYTES)) {
            cut = true;
            break;
        }
        shown += length;
    }
    if (cut)
        put_tail(line, SPAN("..."));
    put_tail(line, SPAN("\""));
}

/* What may stand in key=value without quotes. */
static bool plain(struct span text)
{
    if (text.len == 0 || text.len > VALUE_BYTES_MAX)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
            return false;
    }
    return true;
}

static void put_key(struct line *line, const char *key)
{
    bool json = settings.format == LOG_FORMAT_JSON;
    if (line->len > (json ? 1 : 0))
        (void)put(line, json ? SPAN(",") : SPAN(" "), LINE_TAIL_BYTES);
    if (json)
        put_quoted(line, span_cstr(key), true);
    else
        (void)put(line, span_cstr(key), LINE_TAIL_BYTES);
    (void)put(line, json ? SPAN(":") : SPAN("="), LINE_TAIL_BYTES);
}

/* A member that does not fit is taken back whole: a half one would make the JSON invalid. */
static void put_text(struct line *line, const char *key, struct span value)
{
    size_t before = line->len;
    put_key(line, key);
    if (!line->full) {
        if (settings.format == LOG_FORMAT_TEXT && plain(value))
            (void)put(line, value, LINE_TAIL_BYTES);
        else
            put_quoted(line, value, settings.format == LOG_FORMAT_JSON);
    }
    if (line->full)
        line->len = before;
}

static void put_number(struct line *line, const char *key, const char *digits)
{
    size_t before = line->len;
    put_key(line, key);
    if (!put(line, span_cstr(digits), LINE_TAIL_BYTES) || line->full)
        line->len = before;
}

static bool secret_key(struct span key)
{
    static const char *const words[] = {
        "authorization", "key", "credential", "token", "password", "secret", "cookie"
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        struct span word = span_cstr(words[i]);
        if (key.len < word.len || !span_eq_nocase(span_skip(key, key.len - word.len), word))
            continue;
        if (key.len == word.len || key.ptr[key.len - word.len - 1] == '_' || key.ptr[key.len - word.len - 1] == '-')
            return true;
    }
    return false;
}

static bool secret_value(struct span value)
{
    value = span_trim(value);
    return span_starts(value, SPAN("sk-")) || span_starts(value, SPAN("fl-")) ||
           span_starts_nocase(value, SPAN("Bearer "));
}

static void put_field(struct line *line, const struct log_field *field)
{
    if (secret_key(span_cstr(field->key)) || (field->kind == LOG_FIELD_SPAN && secret_value(field->span))) {
        put_text(line, field->key, SPAN("[redacted]"));
        return;
    }
    char digits[24];
    switch (field->kind) {
    case LOG_FIELD_SPAN:
        put_text(line, field->key, field->span);
        return;
    case LOG_FIELD_U64:
        (void)snprintf(digits, sizeof digits, "%llu", (unsigned long long)field->u64);
        put_number(line, field->key, digits);
        return;
    case LOG_FIELD_I64:
        (void)snprintf(digits, sizeof digits, "%lld", (long long)field->i64);
        put_number(line, field->key, digits);
        return;
    }
}

/* A log that cannot be written has nobody to tell. */
static void write_out(int fd, struct span bytes)
{
    ssize_t wrote;
    do {
        wrote = write(fd, bytes.ptr, bytes.len);
    } while (wrote < 0 && errno == EINTR);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count)
{
    int kept = errno; /* logging what failed must not change why */
    bool json = settings.format == LOG_FORMAT_JSON;
    struct line line;
    line.len = 0;
    line.full = false;
    if (json)
        (void)put(&line, SPAN("{"), LINE_TAIL_BYTES);
    char text[CLOCK_TEXT_BYTES], pid[24];
    put_text(&line, "time", span_cstr(clock_format_wall(clock_wall_ms(), text)));
    put_text(&line, "level", span_cstr(level_names[level]));
    put_text(&line, "program", span_cstr(settings.program));
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    put_number(&line, "pid", pid);
    const size_t head = json ? 0 : line.len + 1; /* what only tells who speaks */
    put_text(&line, "event", span_cstr(event));
    for (size_t i = 0; i < count && !line.full; i++)
        put_field(&line, &fields[i]);
    if (line.full)
        put_tail(&line, json ? SPAN(",\"cut\":true") : SPAN(" cut=true"));
    put_tail(&line, json ? SPAN("}\n") : SPAN("\n"));
    write_out(settings.fd, span_of(line.data, line.len));
    if (level == LOG_LEVEL_ERROR && settings.errors_fd >= 0)
        write_out(settings.errors_fd, span_of(line.data + head, line.len - head));
    errno = kept;
}

enum err log_parse_level(struct span text, enum log_level *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (span_eq(text, span_cstr(level_names[i]))) {
            *ret = (enum log_level)i;
            return OK;
        }
    }
    return ERR_INVALID;
}

enum err log_parse_format(struct span text, enum log_format *ret)
{
    if (!span_eq(text, SPAN("text")) && !span_eq(text, SPAN("json")))
        return ERR_INVALID;
    *ret = span_eq(text, SPAN("text")) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
    return OK;
}
