#include "tests/fuzz/wire_fuzz.h"

WIRE_FUZZ_LINK(admin_reply)
