/* fuzz.h - what every fuzz target has. */
#pragma once
#include "common/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that every input must have; stays on in every build. */
#define MUST(condition) ((condition) ? (void)0 : fuzz_failed(#condition, __FILE__, __LINE__))
_Noreturn static inline void fuzz_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}
