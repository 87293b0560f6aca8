#include "tests/fuzz/wire_fuzz.h"

WIRE_FUZZ_OBJECT(head, head)
