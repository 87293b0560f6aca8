#include "common/base.h"

#include <unistd.h>

_Noreturn void base_require_failed(const char *condition, const char *file, int line)
{
    /* Not through the logger: whatever is wrong may be there. */
    (void)dprintf(STDERR_FILENO, "%s:%d: required: %s\n", file, line, condition);
    abort();
}
