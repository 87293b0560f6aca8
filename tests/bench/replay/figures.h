/* figures.h - numbers as people read them. Each returns out. */
#pragma once
#include "common/base.h"

#define FIGURE_BYTES 40

char *figure_count(uint64_t value, char *out); /* "1,234,567" */
char *figure_time(uint64_t us, char *out);     /* "0.4 ms", "612 ms", "1.24 s" */
char *figure_usd(uint64_t nano, char *out);    /* "12.345679": six decimals, rounded */
