#include "tests/fuzz/wire_fuzz.h"

WIRE_FUZZ_OBJECT(directory_delta, directory_delta)
