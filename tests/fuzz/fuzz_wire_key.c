#include "tests/fuzz/wire_fuzz.h"

WIRE_FUZZ_OBJECT(key, key_record)
