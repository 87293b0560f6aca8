/* backtrace.h - where a worker is when its master asks: a signal that writes the stack to standard error, as addresses
 * and what names there are (addr2line knows the rest). Async-signal-safe: nothing is allocated in the handler. */
#pragma once
#include "common/base.h"
#include "common/err.h"

/* Once, before the loop runs: also loads what the first backtrace needs. ERR_IO. */
MUST_CHECK enum err backtrace_on_signal(int number);
