/* log.h - one event, one line, on stderr: key=value or JSON. Only programs and their exchange log; pure code does not.
 *
 * log_info("worker.started", LOG_U64("slot", 3), LOG_STR("version", FAIRLEAD_VERSION));
 *
 * A value whose key says secret (authorization, key, credential, token, password, secret, cookie; also as a suffix
 * after '_' or '-') is printed as "[redacted]"; so is a value that starts with "sk-", "fl-" or "Bearer ". Values are
 * cut at 2 KiB and control bytes are escaped. One write(2) a line, which starts with time, level, program, pid and
 * event. A line over 16 KiB loses its last fields and ends with cut=true. errno is kept. Thread-safe after log_setup.
 */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log_field {
    const char *key;
    enum { LOG_FIELD_SPAN, LOG_FIELD_U64, LOG_FIELD_I64 } kind;
    struct span span;
    uint64_t u64;
    int64_t i64;
};
#define LOG_SPAN(k, s)                                                                                                 \
    {                                                                                                                  \
        .key = (k), .kind = LOG_FIELD_SPAN, .span = (s)                                                                \
    }
#define LOG_STR(k, c)                                                                                                  \
    {                                                                                                                  \
        .key = (k), .kind = LOG_FIELD_SPAN, .span = span_cstr(c)                                                       \
    }
#define LOG_U64(k, v)                                                                                                  \
    {                                                                                                                  \
        .key = (k), .kind = LOG_FIELD_U64, .u64 = (uint64_t)(v)                                                        \
    }
#define LOG_I64(k, v)                                                                                                  \
    {                                                                                                                  \
        .key = (k), .kind = LOG_FIELD_I64, .i64 = (int64_t)(v)                                                         \
    }
#define LOG_ERR(e)                                                                                                     \
    {                                                                                                                  \
        .key = "error", .kind = LOG_FIELD_SPAN, .span = span_cstr(err_name(e))                                         \
    }

/* program: prefixed to each line; must outlive the process's logging. */
void log_setup(const char *program, enum log_level least, enum log_format format);
void log_set_fd(int fd); /* for tests; default 2 */
/* From now on what is logged as an error is written to this descriptor, too, from its event on, a line each: for who
 * started this process and waits for it. -1: no longer, as at first. */
void log_copy_errors(int fd);
bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count);
/* "debug", "info", "warn", "error"; "text", "json". ERR_INVALID. */
MUST_CHECK enum err log_parse_level(struct span text, enum log_level *ret);
MUST_CHECK enum err log_parse_format(struct span text, enum log_format *ret);

#define LOG_AT_(level, event, ...)                                                                                     \
    do {                                                                                                               \
        if (log_enabled(level)) {                                                                                      \
            const struct log_field log_fields_[] = { { .key = NULL }, __VA_ARGS__ };                                   \
            log_write((level), (event), log_fields_ + 1, ARRAY_LEN(log_fields_) - 1);                                  \
        }                                                                                                              \
    } while (0)
#define log_debug(...) LOG_AT_(LOG_LEVEL_DEBUG, __VA_ARGS__, )
#define log_info(...)  LOG_AT_(LOG_LEVEL_INFO, __VA_ARGS__, )
#define log_warn(...)  LOG_AT_(LOG_LEVEL_WARN, __VA_ARGS__, )
#define log_error(...) LOG_AT_(LOG_LEVEL_ERROR, __VA_ARGS__, )
