#include "common/err.h"

const char *err_name(enum err err)
{
    static const char *const names[ERR_COUNT] = {
        [OK] = "ok",
        [ERR_AGAIN] = "again",
        [ERR_TIMEOUT] = "timeout",
        [ERR_CLOSED] = "closed",
        [ERR_REFUSED] = "refused",
        [ERR_CANCELLED] = "cancelled",
        [ERR_SYNTAX] = "syntax",
        [ERR_INVALID] = "invalid",
        [ERR_DUPLICATE] = "duplicate",
        [ERR_UNSUPPORTED] = "unsupported",
        [ERR_CORRUPT] = "corrupt",
        [ERR_STALE] = "stale",
        [ERR_CONFLICT] = "conflict",
        [ERR_NOT_FOUND] = "not_found",
        [ERR_EXISTS] = "exists",
        [ERR_UNAUTHORIZED] = "unauthorized",
        [ERR_DENIED] = "denied",
        [ERR_NO_CANDIDATE] = "no_candidate",
        [ERR_TOO_LARGE] = "too_large",
        [ERR_TOO_DEEP] = "too_deep",
        [ERR_TOO_MANY] = "too_many",
        [ERR_FULL] = "full",
        [ERR_NOMEM] = "nomem",
        [ERR_NOSPACE] = "nospace",
        [ERR_IO] = "io",
    };
    /* Also called with numbers that came over a link. */
    size_t index = (size_t)err;
    return index < ARRAY_LEN(names) && names[index] ? names[index] : "unknown";
}
